package stomp

import (
	"errors"
	"strconv"
	"strings"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine"
	"usher/engine/stompframe"
)

// Limits on headers that are handed on. ActiveMQ refuses a header line over
// 10 KiB and a frame with more than 1,000 of them, and it closes the connection
// that sent it; a copy has to get through, with what the engine adds.
const (
	maxHeader      = 10_000
	maxHeaderBytes = stompframe.DefaultHeaderBytes - 4<<10
	maxHeaders     = stompframe.DefaultHeaders - 16
	// keptHeader is the longest header that is kept of a message that is over those.
	keptHeader = 1 << 10
)

// Subscription ids carry the lane. They are not numbers, which some brokers and
// libraries mix up with ids of other things.
const (
	lanePrefix = "lane-"
	unsortedID = "lane-unsorted"
	depthsID   = "depths"
	controlID  = "control"
)

// controlTopic is where engines tell each other of probes and messages.
const controlTopic = "/topic/" + engine.ControlTopic

const headerPersistent = "persistent"

// lanes are all there are, in the order that they are subscribed in.
func lanes() []int {
	all := make([]int, 0, engine.Levels+1)
	for level := engine.Levels - 1; level >= 0; level-- {
		all = append(all, level)
	}
	return append(all, engine.Unsorted)
}

// laneQueue is the name of a lane's queue.
func laneQueue(queue string, lane int) string {
	if lane == engine.Unsorted {
		return queue
	}
	return queue + ".p" + strconv.Itoa(lane)
}

func laneID(lane int) string {
	if lane == engine.Unsorted {
		return unsortedID
	}
	return lanePrefix + strconv.Itoa(lane)
}

// laneOf is the inverse of laneID.
func laneOf(id string) (int, bool) {
	if id == unsortedID {
		return engine.Unsorted, true
	}
	digit, ok := strings.CutPrefix(id, lanePrefix)
	if !ok || len(digit) != 1 || digit[0] < '0' || digit[0] > '9' {
		return 0, false
	}
	return int(digit[0] - '0'), true
}

// destination is a queue's name on the wire.
func destination(queue string) string { return "/queue/" + queue }

// defaultPrefetch is ActiveMQ's own. It takes a consumer that asks for it for one that
// did not say, and gives it what queuePrefetch of its XML says.
const defaultPrefetch = 1000

// subscribeFrame subscribes a queue, each message of which is acked by itself.
func subscribeFrame(id, queue string, window int) *frame.Frame {
	if window == defaultPrefetch {
		window++
	}
	return frame.New(frame.SUBSCRIBE,
		frame.Id, id,
		frame.Destination, destination(queue),
		frame.Ack, "client-individual",
		"activemq.prefetchSize", strconv.Itoa(window))
}

// deliveryOf makes a delivery of a MESSAGE.
func deliveryOf(f *frame.Frame, v stompframe.Version, lane int, skipped int64) (engine.Delivery, error) {
	headers, bytes, over := headerMap(f.Header)
	d := engine.Delivery{
		Lane: lane, BrokerID: headers[engine.HeaderMessageID], Headers: headers, Body: f.Body,
		Redelivered: headers[engine.HeaderRedelivered] == "true",
	}
	if d.BrokerID == "" {
		return d, errors.New("the broker sent a message without a message-id")
	}
	if d.Ack = d.BrokerID; v == stompframe.V12 {
		d.Ack = headers[frame.Ack]
	}
	if d.Ack == "" {
		return d, errors.New("the broker sent a message without an ack header, which STOMP 1.2 demands")
	}
	if over {
		d.Headers = trim(headers)
		skipped += int64(bytes + len(f.Body))
	}
	if skipped > 0 {
		d.Headers[engine.HeaderTooLarge] = strconv.FormatInt(skipped, 10)
	}
	return d, nil
}

// headerMap copies headers; of several of one name the first counts (STOMP 1.2,
// Repeated Header Entries). It says how long they are, and whether they are over
// a limit. A producer cannot make a message too large by saying so.
func headerMap(h *frame.Header) (headers map[string]string, bytes int, over bool) {
	headers = make(map[string]string, h.Len())
	for i := range h.Len() {
		name, value := h.GetAt(i)
		if _, repeated := headers[name]; repeated || name == engine.HeaderTooLarge {
			continue
		}
		headers[name] = value
		bytes += len(name) + len(value)
		over = over || len(name)+len(value) > maxHeader
	}
	return headers, bytes, over || bytes > maxHeaderBytes || len(headers) > maxHeaders
}

// trim keeps what the engine must know to dead-letter a message with too much
// in its headers.
func trim(headers map[string]string) map[string]string {
	kept := map[string]string{}
	for _, name := range []string{
		engine.HeaderType, engine.HeaderCEType, engine.HeaderPriority, engine.HeaderID, engine.HeaderCEID,
		engine.HeaderContentType, engine.HeaderMessageID, engine.HeaderTimestamp, engine.HeaderRedelivered,
		engine.HeaderHop, engine.HeaderAttempts, engine.HeaderRedeliveries, engine.HeaderQueuedAt,
		engine.HeaderExpiresAt, engine.HeaderOrigin, engine.HeaderParent,
		engine.HeaderDeadReason, engine.HeaderDeadDetail, engine.HeaderFirstFailedAt,
		frame.Destination, "correlation-id", "traceparent", "tracestate",
	} {
		if value, ok := headers[name]; ok && len(value) <= keptHeader {
			kept[name] = value
		}
	}
	return kept
}

// ackFrame acks a message of the subscription.
func ackFrame(v stompframe.Version, subscription, ack string) *frame.Frame {
	if v == stompframe.V12 {
		return frame.New(frame.ACK, frame.Id, ack)
	}
	return frame.New(frame.ACK, frame.MessageId, ack, frame.Subscription, subscription)
}

// sendFrame is one persistent message. What the adapter sets itself is not taken
// from the headers.
func sendFrame(out engine.Outgoing) *frame.Frame {
	f := frame.New(frame.SEND,
		frame.Destination, destination(out.Queue),
		headerPersistent, "true",
		frame.ContentLength, strconv.Itoa(len(out.Body)))
	for name, value := range out.Headers {
		switch name {
		case frame.Destination, headerPersistent, frame.ContentLength, frame.Receipt, frame.Transaction:
		default:
			f.Header.Add(name, value)
		}
	}
	f.Body = out.Body
	return f
}
