package broker

import (
	"strconv"
	"strings"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine"
)

// handleSend takes a message from a producer.
func (c *conn) handleSend(f *frame.Frame) error {
	a, err := parseAddress(f.Header.Get(frame.Destination))
	if err != nil {
		return err
	}
	if name, ok := strings.CutPrefix(a.name, prefixStatistics); ok && a.kind == kindQueue {
		if err := c.answerStatistics(f, name); err != nil {
			return err
		}
		c.receipt(f)
		return nil
	}
	tx, err := c.transactionOf(f)
	if err != nil {
		return err
	}
	m, err := readMessage(f, a)
	if err != nil {
		return err
	}
	replyTo, err := c.replyTo(f.Header)
	if err != nil {
		return err
	}
	m.data = encode(f.Header, replyTo, f.Body)
	m.size = int32(len(m.data))
	return c.post(m, a, tx, f.Header.Get(frame.Receipt))
}

// readMessage reads the headers of a SEND that mean something to the broker. A
// number that is none ends the producer's connection, as on ActiveMQ.
func readMessage(f *frame.Frame, a address) (*message, error) {
	h := f.Header
	m := &message{stamp: time.Now().UnixMilli(), priority: engine.DefaultLevel}
	if text, ok := h.Contains(engine.HeaderPriority); ok {
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return nil, refuseAndClose("the priority header is %q; it must be a number from 0 to 9", clip(text))
		}
		// ActiveMQ narrows to a signed byte before it clamps: 128 becomes 0.
		m.priority = uint8(min(max(int8(n), 0), engine.Levels-1))
	}
	if text, ok := h.Contains(engine.HeaderExpires); ok {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, refuseAndClose("the expires header is %q; it must be a time in milliseconds since 1970", clip(text))
		}
		m.expires = max(n, 0)
	}
	if err := m.readStamp(h); err != nil {
		return nil, err
	}
	return m, m.readSchedule(h, a)
}

// readStamp moves the expiry by what the producer's clock, which both it and the
// timestamp are by, is off (ActiveMQ's timeStampingBrokerPlugin).
func (m *message) readStamp(h *frame.Header) error {
	text, ok := h.Contains(engine.HeaderTimestamp)
	if !ok {
		return nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return refuseAndClose("the timestamp header is %q; it must be a time in milliseconds since 1970", clip(text))
	}
	if life := m.expires - n; n > 0 && life > 0 {
		m.expires = m.stamp + life
	}
	return nil
}

// readSchedule reads when a message is to be sent. One that has been through
// the scheduler is sent at once, as on ActiveMQ.
func (m *message) readSchedule(h *frame.Header, a address) error {
	for i := range h.Len() {
		name, text := h.GetAt(i)
		if !strings.HasPrefix(name, headerScheduledStart) {
			continue
		}
		if name != engine.HeaderScheduledDelay {
			return refuseAndClose("this broker does not support the header %s", clip(name))
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return refuseAndClose("the %s header is %q; it must be a number of milliseconds", name, clip(text))
		}
		if _, been := h.Contains(engine.HeaderScheduledJob); been || n == 0 || m.due != 0 {
			continue
		}
		if a.kind != kindQueue {
			return refuse("only a message to a queue can be delayed")
		}
		if n > int64(maxDelay/time.Millisecond) {
			return refuse("%s is over %v", name, maxDelay)
		}
		m.due = m.stamp + n
	}
	return nil
}

// maxDelay is the longest delay taken: ten years, which no sum overflows.
const maxDelay = 10 * 365 * 24 * time.Hour

// replyTo is the reply-to header as its receiver can use it: a temporary queue
// by its name in the world. Naming one makes it.
func (c *conn) replyTo(h *frame.Header) (string, error) {
	text := h.Get(headerReplyTo)
	if !strings.HasPrefix(text, prefixTemp) {
		return text, nil
	}
	a, err := parseAddress(text)
	if err != nil {
		return "", err
	}
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	q, err := c.b.find(c, a)
	if err != nil {
		return "", err
	}
	return q.destination(), nil
}

// post sends a message to a destination: to a durable queue by way of the
// committer, in a transaction with its COMMIT, else at once.
func (c *conn) post(m *message, a address, tx *transaction, receipt string) error {
	b := c.b
	b.mu.Lock()
	defer b.mu.Unlock()
	q, err := b.find(c, a)
	if err != nil {
		return err
	}
	if q.kind == kindTemp && b.transient+int64(m.size) > b.cfg.CacheBytes {
		return refuse("temporary queues hold %d bytes already; no more are taken until some are consumed", b.transient)
	}
	b.route(m, q)
	switch {
	case tx != nil:
		if err := tx.grow(int(m.size)); err != nil {
			return err
		}
		tx.send = append(tx.send, m)
	case q.kind == kindQueue:
		b.submit(&request{conn: c, receipt: receipt, bytes: int(m.size), send: []*message{m}})
		return nil
	default:
		m.id = b.nextSeq()
		m.seq = m.id
		b.admit(m)
		b.dispatchTouched()
	}
	c.confirm(receipt)
	return nil
}

// route says which queue a message goes to: that of the work queue's lane for
// its priority (as a forward-only composite destination does it), and if it has
// expired already, the dead-letter queue. The core's lock is held.
func (b *Broker) route(m *message, q *queue) {
	m.queue = q
	if q == b.work {
		m.queue, m.origin = b.lanes[m.priority], q
	}
	if m.queue.kind == kindQueue && m.due == 0 && m.expired(m.stamp) {
		*m = *m.buriedIn(b.queueNamed(prefixDead+m.queue.name), true)
	}
}
