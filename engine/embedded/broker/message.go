package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine"
	"usher/engine/stompframe"
)

// message is what is known of one message while it is in the broker. After it
// is in a queue only flags, due and data change, under the core's lock; data is
// never written to.
type message struct {
	seq      int64  // order of arrival, and its key in the store
	id       int64  // what its message-id is made of; stays when seq changes
	stamp    int64  // when it was sent or released, epoch ms
	expires  int64  // epoch ms; 0: never. Of a dead letter: what it was
	due      int64  // epoch ms while it is scheduled; else 0
	queue    *queue // where it is
	origin   *queue // where it was sent to, if that is elsewhere
	data     []byte // as encode made it; nil: only in the store
	size     int32  // of data
	priority uint8
	flags    flags
}

// flags are the properties of a message that are one bit; kept in the store.
type flags uint8

const (
	redelivered flags = 1 << iota
	released          // it came out of the scheduler
	dead              // it is in a dead-letter queue: expires is void
	late              // it is dead because it expired
)

func (m *message) expired(now int64) bool {
	return m.expires > 0 && m.expires <= now && m.flags&dead == 0
}

// Names of headers that the broker reads or writes, beside those of STOMP.
const (
	headerOriginal       = "original-destination"
	headerOldExpires     = "originalExpiration"
	headerCause          = "dlqDeliveryFailureCause"
	headerReplyTo        = "reply-to"
	headerCorrelation    = "correlation-id"
	headerPersistent     = "persistent"
	headerPrefetch       = "activemq.prefetchSize"
	headerScheduledStart = "AMQ_SCHEDULED_"
)

// passes says whether a SEND's header goes to the receiver as it is. The rest is
// between producer and broker, or is the broker's to say.
func passes(name string) bool {
	switch name {
	case frame.Destination, frame.ContentLength, frame.Receipt, frame.Transaction,
		frame.MessageId, frame.Subscription, frame.Ack,
		engine.HeaderTimestamp, engine.HeaderRedelivered, engine.HeaderPriority, engine.HeaderExpires,
		headerPersistent, headerOriginal, headerReplyTo:
		return false
	}
	return !strings.HasPrefix(name, headerScheduledStart)
}

// encode packs headers and body: a count, each text with its length before it,
// then the body. Of several headers of one name the first counts (STOMP 1.2,
// Repeated Header Entries).
func encode(h *frame.Header, replyTo string, body []byte) []byte {
	size, count := len(body)+binary.MaxVarintLen64, 0
	each := func(name, value string) {
		count++
		size += len(name) + len(value) + 2*binary.MaxVarintLen16
	}
	keep := make([]bool, h.Len())
	for i := range keep {
		name, value := h.GetAt(i)
		if passes(name) && !repeated(h, i, name) {
			keep[i] = true
			each(name, value)
		}
	}
	if replyTo != "" {
		each(headerReplyTo, replyTo)
	}
	data := binary.AppendUvarint(make([]byte, 0, size), uint64(count))
	if replyTo != "" {
		data = appendText(appendText(data, headerReplyTo), replyTo)
	}
	for i, kept := range keep {
		if kept {
			name, value := h.GetAt(i)
			data = appendText(appendText(data, name), value)
		}
	}
	return append(data, body...)
}

func repeated(h *frame.Header, i int, name string) bool {
	for j := range i {
		if earlier, _ := h.GetAt(j); earlier == name {
			return true
		}
	}
	return false
}

func appendText(data []byte, s string) []byte {
	return append(binary.AppendUvarint(data, uint64(len(s))), s...)
}

// decode appends the headers of data to entries and returns the body, which is
// a part of data.
func decode(data []byte, entries []string) (_ []string, body []byte, err error) {
	count, n := binary.Uvarint(data)
	if n <= 0 {
		return nil, nil, errDamaged
	}
	body = data[n:]
	for range 2 * count {
		length, n := binary.Uvarint(body)
		if n <= 0 || length > uint64(len(body)-n) {
			return nil, nil, errDamaged
		}
		entries = append(entries, string(body[n:n+int(length)]))
		body = body[n+int(length):]
	}
	return entries, body, nil
}

var errDamaged = errors.New("broker: a stored message is damaged")

// messageFrame makes the MESSAGE of a delivery from the message's data.
func (b *Broker) messageFrame(d *delivery, data []byte) (*frame.Frame, error) {
	m, s := d.m, d.sub
	entries := make([]string, 0, 48)
	entries = append(entries,
		frame.MessageId, b.messageID(m),
		frame.Destination, m.queue.seenBy(s.conn),
		engine.HeaderTimestamp, strconv.FormatInt(m.stamp, 10),
		engine.HeaderPriority, strconv.Itoa(int(m.priority)))
	if s.id != "" {
		entries = append(entries, frame.Subscription, s.id)
	}
	if s.conn.version == stompframe.V12 && s.mode != ackAuto {
		entries = append(entries, frame.Ack, d.ackID())
	}
	if m.queue.kind == kindQueue {
		entries = append(entries, headerPersistent, "true")
	}
	if d.flags&redelivered != 0 {
		entries = append(entries, engine.HeaderRedelivered, "true")
	}
	entries = b.appendPast(d, entries)
	entries, body, err := decode(data, entries)
	if err != nil {
		return nil, fmt.Errorf("message %s: %w", b.messageID(m), err)
	}
	entries = carried(s.conn.version, entries)
	return &frame.Frame{Command: frame.MESSAGE, Header: frame.NewHeader(entries...), Body: body}, nil
}

// appendPast adds the headers that tell what befell the message.
func (b *Broker) appendPast(d *delivery, entries []string) []string {
	m := d.m
	if m.origin != nil {
		entries = append(entries, headerOriginal, m.origin.destination())
	}
	if d.flags&released != 0 {
		entries = append(entries, engine.HeaderScheduledJob, b.messageID(m))
	}
	if m.expires == 0 {
		return entries
	}
	expires := strconv.FormatInt(m.expires, 10)
	if d.flags&dead == 0 {
		return append(entries, engine.HeaderExpires, expires)
	}
	entries = append(entries, headerOldExpires, expires)
	if d.flags&late != 0 {
		entries = append(entries, headerCause, "Message Expired. Expiration:"+expires)
	}
	return entries
}

// carried leaves out the headers that the version has no way to write.
func carried(v stompframe.Version, entries []string) []string {
	if v == stompframe.V12 {
		return entries
	}
	bad, badName := "\r", "\r"
	if v == stompframe.V10 {
		bad, badName = "\r\n", "\r\n:"
	}
	kept := entries[:0]
	for i := 0; i < len(entries); i += 2 {
		if !strings.ContainsAny(entries[i], badName) && !strings.ContainsAny(entries[i+1], bad) {
			kept = append(kept, entries[i], entries[i+1])
		}
	}
	return kept
}

// runBits is where, in a seq, the number of the broker's run begins; below it
// messages of the run are counted. So seqs grow over restarts, and no id is used twice.
const runBits = 40

// messageID is unique in the world and the same at each delivery.
func (b *Broker) messageID(m *message) string {
	text := append(make([]byte, 0, 48), b.idPrefix...)
	if m.queue.kind == kindTopic {
		text = append(text, topicMark)
	}
	text = strconv.AppendInt(text, m.id>>runBits, 10)
	text = append(text, '-')
	return string(strconv.AppendInt(text, m.id&(1<<runBits-1), 10))
}

// topicMark tells, in message-ids and ack ids, messages of topics from others.
const topicMark = 't'

// parseID reverses messageID. An id of a topic's message has topic set.
func (b *Broker) parseID(text string) (id int64, topic, ok bool) {
	text, ok = strings.CutPrefix(text, b.idPrefix)
	if !ok {
		return 0, false, false
	}
	text, topic = strings.CutPrefix(text, string(topicMark))
	run, n, ok := strings.Cut(text, "-")
	if !ok {
		return 0, false, false
	}
	high, err1 := strconv.ParseInt(run, 10, 64-runBits-1)
	low, err2 := strconv.ParseInt(n, 10, 64)
	if err1 != nil || err2 != nil || high < 0 || low < 0 || low >= 1<<runBits {
		return 0, false, false
	}
	return high<<runBits | low, topic, true
}
