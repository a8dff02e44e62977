package broker

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine/stompframe"
)

// ackMode is how the messages of a subscription are acked.
type ackMode uint8

const (
	ackAuto       ackMode = iota
	ackClient             // an ACK is for all up to it
	ackIndividual         // an ACK is for one
)

// subscription is one SUBSCRIBE. The core's lock guards what changes.
type subscription struct {
	conn   *conn
	id     string // "" if a STOMP 1.0 client gave none
	queue  *queue
	mode   ackMode
	window int
	used   int // of the window
	// first and last of the un-acked deliveries, by the time they were made.
	first, last *delivery
}

// delivery is a message in somebody's hand. The core's lock guards it; what the
// writer reads does not change.
type delivery struct {
	m     *message
	sub   *subscription
	no    uint64 // counts in its connection
	flags flags  // the message's when it was made

	prev, next *delivery
	tx         *transaction // that has its ACK; nil: none
	gone       atomic.Bool  // it was acked, or its message given back
}

// ackKey finds a delivery: by its number (STOMP 1.2), or by its message and
// subscription.
type ackKey struct {
	sub *subscription
	no  uint64
}

func (d *delivery) key() ackKey {
	if d.sub.conn.version == stompframe.V12 {
		return ackKey{no: d.no}
	}
	return ackKey{sub: d.sub, no: uint64(d.m.id)}
}

// ackID is the ack header of its MESSAGE (STOMP 1.2).
func (d *delivery) ackID() string {
	if d.sub.queue.kind == kindTopic {
		return string(topicMark)
	}
	return d.sub.conn.acks + strconv.FormatUint(d.no, 10)
}

// deliver gives a message to the subscriber. The core's lock is held.
func (s *subscription) deliver(m *message) {
	c := s.conn
	c.lastNo++
	d := &delivery{m: m, sub: s, no: c.lastNo, flags: m.flags}
	if s.queue.kind != kindTopic {
		d.prev = s.last
		if s.last != nil {
			s.last.next = d
		} else {
			s.first = d
		}
		s.last = d
		s.used++
		s.queue.inFlight++
		if s.mode != ackAuto {
			c.deliveries[d.key()] = d
		}
	}
	c.out.deliver(d)
}

// release takes a delivery out of its subscription. The core's lock is held.
func (d *delivery) release() {
	s := d.sub
	if d.prev != nil {
		d.prev.next = d.next
	} else {
		s.first = d.next
	}
	if d.next != nil {
		d.next.prev = d.prev
	} else {
		s.last = d.prev
	}
	d.prev, d.next = nil, nil
	if d.tx == nil {
		s.used--
	}
	s.queue.inFlight--
	delete(s.conn.deliveries, d.key())
	d.gone.Store(true)
}

// fanOut gives a topic's message to those who listen and have room; it is
// dropped for the others. The core's lock is held.
func (b *Broker) fanOut(m *message) {
	for _, s := range m.queue.subs {
		if s.conn.out.room() {
			s.deliver(m)
		}
	}
}

func (c *conn) handleSubscribe(f *frame.Frame) error {
	s, a, err := c.readSubscribe(f)
	if err != nil {
		return err
	}
	b := c.b
	b.mu.Lock()
	defer b.mu.Unlock()
	key := s.id
	if key == "" {
		key = a.key()
	}
	if _, ok := c.subs[key]; ok {
		return refuse("There already is a subscription for: %s", clip(key))
	}
	if len(c.subs) >= maxSubscriptions {
		return refuse("this connection has %d subscriptions already", maxSubscriptions)
	}
	if s.queue, err = b.find(c, a); err != nil {
		return err
	}
	if s.queue.kind == kindTemp && s.queue.owner != c {
		return refuse("Cannot consume from a temporary queue of another connection: %s", clip(a.name))
	}
	c.subs[key] = s
	c.inOrder = append(c.inOrder, s)
	s.queue.subs = append(s.queue.subs, s)
	b.touch(s.queue)
	c.receipt(f) // before the first MESSAGE
	b.dispatchTouched()
	return nil
}

// readSubscribe reads what a SUBSCRIBE asks for.
func (c *conn) readSubscribe(f *frame.Frame) (*subscription, address, error) {
	h := f.Header
	s := &subscription{conn: c, id: h.Get(frame.Id), window: c.b.cfg.Window}
	a, err := parseAddress(h.Get(frame.Destination))
	if err != nil {
		return nil, a, err
	}
	if s.id == "" && c.version != stompframe.V10 {
		return nil, a, refuse("SUBSCRIBE needs an id header")
	}
	switch mode := h.Get(frame.Ack); mode {
	case "", "auto":
		s.mode = ackAuto
	case "client":
		s.mode = ackClient
	case "client-individual":
		s.mode = ackIndividual
	default:
		return nil, a, refuse("the ack header of SUBSCRIBE is %q; it can be auto, client or client-individual", clip(mode))
	}
	if text, ok := h.Contains(headerPrefetch); ok {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return nil, a, refuse("%s must be a whole number from 1", headerPrefetch)
		}
		s.window = n
	}
	for _, name := range []string{"selector", "activemq.exclusive", "activemq.subscriptionName", "durable-subscription-name"} {
		if v := h.Get(name); v != "" && v != "false" {
			return nil, a, refuse("this broker does not support the header %s of SUBSCRIBE", name)
		}
	}
	return s, a, nil
}

// key names a subscription that has no id.
func (a address) key() string {
	return strings.Join([]string{"", strconv.Itoa(int(a.kind)), a.name}, "\x00")
}

func (c *conn) handleUnsubscribe(f *frame.Frame) error {
	key := f.Header.Get(frame.Id)
	if key == "" {
		a, err := parseAddress(f.Header.Get(frame.Destination))
		if err != nil {
			return err
		}
		key = a.key()
	}
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	s, ok := c.subs[key]
	if !ok {
		return refuse("No subscription matched: %s", clip(strings.TrimLeft(key, "\x00")))
	}
	delete(c.subs, key)
	c.inOrder = without(c.inOrder, s)
	c.b.unsubscribe(s)
	c.b.dispatchTouched()
	c.receipt(f)
	return nil
}

// unsubscribe ends a subscription; what is un-acked goes back. The core's lock is held.
func (b *Broker) unsubscribe(s *subscription) {
	s.queue.subs = without(s.queue.subs, s)
	for s.first != nil {
		d := s.first
		d.release()
		b.giveBack(d.m)
	}
}

func without(subs []*subscription, s *subscription) []*subscription {
	return slices.DeleteFunc(subs, func(other *subscription) bool { return other == s })
}

// handleAck takes an ACK or a NACK.
func (c *conn) handleAck(f *frame.Frame) error {
	nack := f.Command == frame.NACK
	if nack && c.version == stompframe.V10 {
		return refuse("STOMP 1.0 has no NACK")
	}
	tx, err := c.transactionOf(f)
	if err != nil {
		return err
	}
	if nack && tx != nil {
		return refuse("Poison ack cannot be transacted")
	}
	r := &request{conn: c, receipt: f.Header.Get(frame.Receipt)}
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	d, err := c.findDelivery(f)
	switch {
	case errors.Is(err, errNothingToAck):
		c.receipt(f)
		return nil
	case err != nil:
		return err
	case tx != nil:
		if err := tx.addAcks(d); err != nil {
			return err
		}
		c.receipt(f)
	case nack: // of one message also in mode client, as on ActiveMQ
		d.release()
		if v, ok := c.b.bury(d.m, false); ok {
			r.moves = []move{v}
		}
		c.b.submit(r)
	default:
		for _, d := range d.upTo() {
			d.release()
			d.m.queue.dequeued++
			r.settled = append(r.settled, d.m)
		}
		c.b.submit(r)
	}
	c.b.touch(d.sub.queue)
	c.b.dispatchTouched()
	return nil
}

// errNothingToAck is for messages of topics, which are forgotten already.
var errNothingToAck = errors.New("nothing to ack")

// findDelivery finds what an ACK or NACK is for. The core's lock is held.
func (c *conn) findDelivery(f *frame.Frame) (*delivery, error) {
	name := frame.MessageId
	if c.version == stompframe.V12 {
		name = frame.Id
	}
	text := f.Header.Get(name)
	if text == "" {
		return nil, refuse("%s received without a %s header", f.Command, name)
	}
	var d *delivery
	if c.version == stompframe.V12 {
		if text == string(topicMark) {
			return nil, errNothingToAck
		}
		count, ours := strings.CutPrefix(text, c.acks)
		if no, err := strconv.ParseUint(count, 10, 64); ours && err == nil {
			d = c.deliveries[ackKey{no: no}]
		}
	} else if id, topic, ok := c.b.parseID(strings.ReplaceAll(text, `\c`, ":")); topic { // some clients escape in 1.0 too
		return nil, errNothingToAck
	} else if ok {
		d = c.findByMessage(f.Header.Get(frame.Subscription), uint64(id))
	}
	if d == nil || d.tx != nil {
		return nil, refuse("Unexpected %s received for message-id [%s]", f.Command, clip(text))
	}
	return d, nil
}

// findByMessage finds a delivery the way of STOMP 1.0 and 1.1; the core's lock is held.
func (c *conn) findByMessage(subscription string, id uint64) *delivery {
	if subscription != "" {
		return c.deliveries[ackKey{sub: c.subs[subscription], no: id}]
	}
	for _, s := range c.subs {
		if d := c.deliveries[ackKey{sub: s, no: id}]; d != nil {
			return d
		}
	}
	return nil
}

// upTo returns the deliveries that an ACK of d is for: in mode client all that
// came before it too. Those that a transaction has are left out.
func (d *delivery) upTo() []*delivery {
	if d.sub.mode != ackClient {
		return []*delivery{d}
	}
	var all []*delivery
	for e := d.sub.first; ; e = e.next {
		if e.tx == nil {
			all = append(all, e)
		}
		if e == d {
			return all
		}
	}
}

// sent settles the deliveries of mode auto that are written now.
func (b *Broker) sent(written []*delivery) {
	r := &request{}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range written {
		if d.gone.Load() || d.sub.queue.kind == kindTopic {
			continue
		}
		d.release()
		d.m.queue.dequeued++
		r.settled = append(r.settled, d.m)
		b.touch(d.sub.queue)
	}
	if len(r.settled) > 0 {
		b.dispatchTouched()
		b.submit(r)
	}
}
