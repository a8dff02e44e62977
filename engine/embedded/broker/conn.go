package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine/stompframe"
)

// conn is one client. Its reader, the goroutine of serve, owns what has no
// other owner named; its writer is a second goroutine.
type conn struct {
	b       *Broker
	nc      net.Conn
	session string
	acks    string             // begins its ack ids: no other connection has them
	version stompframe.Version // set at CONNECT, before anything else reads it
	silence time.Duration      // the longest one borne from the client; 0: any
	out     *outbox
	written chan struct{} // closed when the writer has ended

	transactions map[string]*transaction
	transacted   int // bytes in them

	// The core's lock guards these.
	subs       map[string]*subscription
	inOrder    []*subscription // the same, the first made first
	deliveries map[ackKey]*delivery
	lastNo     uint64
}

// serve runs a connection until it ends or ctx does.
func (b *Broker) serve(ctx context.Context, nc net.Conn) {
	number := strconv.FormatInt(b.run, 10) + ":" + strconv.FormatUint(b.sessions.Add(1), 10)
	c := &conn{
		b: b, nc: nc, out: newOutbox(), written: make(chan struct{}),
		session:      b.idPrefix + number,
		acks:         number + ":",
		transactions: make(map[string]*transaction),
		subs:         make(map[string]*subscription),
		deliveries:   make(map[ackKey]*delivery),
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	defer stop()
	defer nc.Close()
	beats := make(chan time.Duration, 1)
	go func() {
		defer close(c.written)
		if err := c.writeLoop(beats); err != nil {
			b.cfg.Log.Debug().Err(err).Str("session", c.session).Msg("stopped writing to a connection")
			_ = nc.Close()
		}
	}()
	err := c.readLoop(beats)
	b.forget(c)
	tell := faultOf(err)
	if tell != nil || err == nil {
		c.endWell()
	}
	_ = nc.Close()
	c.out.end()
	<-c.written
	b.cfg.Log.Debug().Err(err).Str("session", c.session).Msg("connection ended")
}

// endWell lets the last frames out, and waits for the client to go: to close a
// socket with unread input would take them from it again.
func (c *conn) endWell() {
	_ = c.nc.SetDeadline(time.Now().Add(closeGrace))
	c.out.end()
	<-c.written
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = c.nc.SetReadDeadline(time.Now().Add(closeGrace / 5))
		_, _ = io.CopyN(io.Discard, c.nc, 1<<20)
	}
}

// forget ends all that a connection had in the core. It may be called again.
func (b *Broker) forget(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range c.inOrder {
		b.unsubscribe(s)
	}
	c.subs, c.inOrder = nil, nil
	for key, q := range b.queues {
		if q.kind == kindTemp && q.owner == c {
			for m := q.take(); m != nil; m = q.take() {
				b.forgetData(m)
			}
			delete(b.queues, key)
		}
	}
	b.dispatchTouched()
}

// readLoop handles frames until the client leaves (nil) or something fails.
func (c *conn) readLoop(beats chan<- time.Duration) error {
	r := stompframe.NewReader(patient{c}, stompframe.Limits{BodyBytes: c.b.cfg.MaxBodyBytes})
	if err := c.connect(r, beats); err != nil {
		return c.fail(nil, err)
	}
	for {
		if err := c.await(func() bool { return !c.out.crowded() }); err != nil {
			return err
		}
		f, err := r.Read()
		if err != nil {
			return c.fail(nil, err)
		}
		if f == nil {
			continue // a heart-beat
		}
		if f.Command == frame.DISCONNECT {
			return c.disconnect(f)
		}
		if err := c.handle(f); err != nil {
			if err = c.fail(f, err); err != nil {
				return err
			}
		}
	}
}

func (c *conn) handle(f *frame.Frame) error {
	switch f.Command {
	case frame.SEND:
		return c.handleSend(f)
	case frame.ACK, frame.NACK:
		return c.handleAck(f)
	case frame.SUBSCRIBE:
		return c.handleSubscribe(f)
	case frame.UNSUBSCRIBE:
		return c.handleUnsubscribe(f)
	case frame.BEGIN:
		return c.handleBegin(f)
	case frame.COMMIT:
		return c.handleCommit(f)
	case frame.ABORT:
		return c.handleAbort(f)
	}
	return refuseAndClose("a client cannot send %s here", f.Command)
}

// fail tells the client what is wrong. It returns the error if the connection
// is over. f is the frame at fault, if there is one.
func (c *conn) fail(f *frame.Frame, err error) error {
	tell := faultOf(err)
	if tell == nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			c.b.refused.Add(1)
		}
		return err
	}
	receipt := ""
	if f != nil {
		receipt = f.Header.Get(frame.Receipt)
	}
	c.sendError(tell.text, receipt)
	if tell.fatal {
		return err
	}
	return nil
}

func (c *conn) sendError(text, receipt string) {
	c.b.refused.Add(1)
	e := frame.New(frame.ERROR, frame.ContentType, "text/plain")
	// A version before 1.1 has no way to write a line end in a header.
	e.Header.Add(frame.Message, strings.NewReplacer("\n", " ", "\r", " ").Replace(text))
	if receipt != "" {
		e.Header.Add(frame.ReceiptId, receipt)
	}
	e.Body = []byte(text + "\n")
	c.out.send(e)
}

// receipt confirms a frame that asks for it.
func (c *conn) receipt(f *frame.Frame) { c.confirm(f.Header.Get(frame.Receipt)) }

func (c *conn) confirm(receipt string) {
	if receipt != "" {
		c.out.send(frame.New(frame.RECEIPT, frame.ReceiptId, receipt))
	}
}

// committed is told that a request of the connection is over.
func (c *conn) committed(r *request, err error) {
	if err != nil {
		c.sendError("it could not be stored: "+err.Error(), r.receipt)
	} else {
		c.confirm(r.receipt)
	}
	c.out.finished(r.bytes)
}

// disconnect lets what the client has sent become durable before its receipt,
// which says that all was handled (STOMP 1.2, DISCONNECT).
func (c *conn) disconnect(f *frame.Frame) error {
	if err := c.await(c.out.settled); err != nil {
		return err
	}
	c.b.forget(c) // with the receipt, what is not acked is with the others again
	c.receipt(f)
	return nil
}

// await waits, without reading, until a condition on the outbox holds.
func (c *conn) await(ok func() bool) error {
	for !ok() {
		select {
		case <-c.out.progress:
		case <-c.b.closing:
			return net.ErrClosed
		case <-c.written:
			return net.ErrClosed
		}
	}
	return nil
}

// connect does the handshake (STOMP 1.2, Connecting).
func (c *conn) connect(r *stompframe.Reader, beats chan<- time.Duration) error {
	if err := c.nc.SetReadDeadline(time.Now().Add(c.b.cfg.ConnectTimeout)); err != nil {
		return err
	}
	f, err := r.Read()
	for f == nil && err == nil {
		f, err = r.Read() // ends of line before it
	}
	if err != nil {
		return err
	}
	if f.Command != frame.CONNECT && f.Command != frame.STOMP {
		return refuseAndClose("the first frame must be CONNECT, not %s", f.Command)
	}
	if err := c.nc.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	offered, ok := f.Header.Contains(frame.AcceptVersion)
	if c.version = bestVersion(offered, ok); c.version == "" {
		c.version = stompframe.V10
		return refuseAndClose("Supported protocol versions are 1.0,1.1,1.2; the client offers %q", clip(offered))
	}
	answer := frame.New(frame.CONNECTED, frame.Session, c.session, frame.Server, "usher")
	if c.version != stompframe.V10 {
		outgoing, incoming, err := c.negotiate(f.Header.Get(frame.HeartBeat))
		if err != nil {
			return err
		}
		c.silence = 2 * incoming
		beats <- outgoing
		mine := max(c.b.cfg.HeartBeat, 0).Milliseconds()
		answer.Header.Add(frame.Version, string(c.version))
		answer.Header.Add(frame.HeartBeat, fmt.Sprintf("%d,%d", mine, mine))
	}
	r.SetVersion(c.version)
	c.out.send(answer)
	return nil
}

// bestVersion picks the highest version both speak; "" if there is none. Without
// the header it is 1.0 (STOMP 1.2, Protocol Negotiation).
func bestVersion(offered string, ok bool) stompframe.Version {
	if !ok {
		return stompframe.V10
	}
	best := stompframe.Version("")
	for text := range strings.SplitSeq(offered, ",") {
		switch v := stompframe.Version(strings.TrimSpace(text)); v {
		case stompframe.V10, stompframe.V11, stompframe.V12:
			best = max(best, v)
		}
	}
	return best
}

// negotiate reads the client's heart-beat header and returns the interval of
// beats each way; 0 is none (STOMP 1.2, Heart-beating).
func (c *conn) negotiate(header string) (outgoing, incoming time.Duration, err error) {
	if header == "" {
		return 0, 0, nil
	}
	can, wants, ok := strings.Cut(header, ",")
	x, err1 := strconv.ParseUint(strings.TrimSpace(can), 10, 31)
	y, err2 := strconv.ParseUint(strings.TrimSpace(wants), 10, 31)
	if !ok || err1 != nil || err2 != nil {
		return 0, 0, refuseAndClose("the heart-beat header is %q; it must be two numbers of milliseconds", clip(header))
	}
	mine := c.b.cfg.HeartBeat
	if mine <= 0 {
		return 0, 0, nil
	}
	if y > 0 {
		outgoing = max(mine, time.Duration(y)*time.Millisecond)
	}
	if x > 0 {
		incoming = max(mine, time.Duration(x)*time.Millisecond)
	}
	return outgoing, incoming, nil
}

// patient reads from a connection and bears no longer silence than agreed.
type patient struct{ c *conn }

func (p patient) Read(buf []byte) (int, error) {
	if p.c.silence > 0 {
		if err := p.c.nc.SetReadDeadline(time.Now().Add(p.c.silence)); err != nil {
			return 0, err
		}
	}
	return p.c.nc.Read(buf)
}
