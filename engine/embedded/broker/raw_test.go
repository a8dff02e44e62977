package broker

import (
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine/stompframe"
)

// raw is a client that does exactly what a test says, frame by frame. It is not
// safe for concurrent use, but for one goroutine that writes and one that reads.
type raw struct {
	t  testing.TB
	nc net.Conn
	r  *stompframe.Reader
	w  *stompframe.Writer

	patience time.Duration // of read
}

// dial opens a socket and sends nothing.
func (r *running) dial() *raw {
	r.t.Helper()
	nc, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	return rawOn(r.t, nc)
}

func rawOn(t testing.TB, nc net.Conn) *raw {
	t.Helper()
	t.Cleanup(func() { _ = nc.Close() })
	return &raw{t: t, nc: nc, r: stompframe.NewReader(nc, stompframe.Limits{}), w: stompframe.NewWriter(nc), patience: deadline}
}

// raw opens a socket and connects with STOMP 1.2.
func (r *running) raw() *raw {
	r.t.Helper()
	c := r.dial()
	c.put(frame.CONNECT, "accept-version", "1.2", "host", "/")
	c.want(frame.CONNECTED)
	return c
}

// put sends a frame; the last of an odd number of headers is the body.
func (c *raw) put(command string, headers ...string) {
	c.t.Helper()
	f := frame.New(command)
	if len(headers)%2 == 1 {
		f.Body = []byte(headers[len(headers)-1])
		headers = headers[:len(headers)-1]
	}
	for i := 0; i < len(headers); i += 2 {
		f.Header.Add(headers[i], headers[i+1])
	}
	if err := errors.Join(c.w.Write(f), c.w.Flush()); err != nil {
		c.t.Fatalf("send %s: %v", command, err)
	}
}

// bytes sends what need not be a frame. That the broker may have closed is no error.
func (c *raw) bytes(text string) { _, _ = io.WriteString(c.nc, text) }

// read returns the next frame.
func (c *raw) read() (*frame.Frame, error) {
	for {
		if err := c.nc.SetReadDeadline(time.Now().Add(c.patience)); err != nil {
			return nil, err
		}
		if f, err := c.r.Read(); f != nil || err != nil {
			return f, err
		}
	}
}

// want reads the next frame, which must be the command.
func (c *raw) want(command string) *frame.Frame {
	c.t.Helper()
	f, err := c.read()
	if err != nil {
		c.t.Fatalf("want %s: %v", command, err)
	}
	if f.Command != command {
		c.t.Fatalf("want %s, got %s %v %q", command, f.Command, f.Header, f.Body)
	}
	return f
}

// do sends a frame with a receipt and waits for it; no other frame may come before.
func (c *raw) do(command string, headers ...string) {
	c.t.Helper()
	c.put(command, append([]string{"receipt", "r-" + command}, headers...)...)
	if f := c.want(frame.RECEIPT); f.Header.Get("receipt-id") != "r-"+command {
		c.t.Fatalf("receipt of %q", f.Header.Get("receipt-id"))
	}
}

// subscribe subscribes with id s, a window, and acks one by one.
func (c *raw) subscribe(dest string, window int, more ...string) {
	c.t.Helper()
	c.do(frame.SUBSCRIBE, append([]string{"id", "s", "destination", dest, "ack", "client-individual", headerPrefetch, fmt.Sprint(window)}, more...)...)
}

func (c *raw) ack(m *frame.Frame) {
	c.t.Helper()
	c.put(frame.ACK, "id", m.Header.Get("ack"))
}

// wantClosed reads until the broker has closed the connection.
func (c *raw) wantClosed() {
	c.t.Helper()
	for {
		if _, err := c.read(); err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				c.t.Fatal("the connection is still open")
			}
			return
		}
	}
}

// wantNothing sees that no frame comes before the answer to a frame sent now.
func (c *raw) wantNothing() {
	c.t.Helper()
	c.do(frame.BEGIN, "transaction", "nothing")
	c.do(frame.ABORT, "transaction", "nothing")
}
