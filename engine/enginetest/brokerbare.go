package enginetest

import (
	"errors"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine"
	"usher/engine/stompframe"
)

// bareClient is a socket to the broker, with frames.
type bareClient struct {
	r     *brokerRig
	conn  net.Conn
	in    *stompframe.Reader
	asked int            // receipts
	came  []*frame.Frame // messages that came before the answer to something
}

// bare connects with nothing in between. Headers are added to CONNECT.
func (r *brokerRig) bare(headers ...string) *bareClient {
	r.Helper()
	conn, err := net.Dial("tcp", r.server.Address())
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { conn.Close() })
	c := &bareClient{r: r, conn: conn, in: stompframe.NewReader(conn, stompframe.Limits{})}
	c.waitUntil(r.end())
	hello := frame.New(frame.CONNECT, append(headers, frame.AcceptVersion, "1.2", frame.Host, "localhost")...)
	if r.h.Login != "" {
		hello.Header.Add(frame.Login, r.h.Login)
		hello.Header.Add(frame.Passcode, r.h.Passcode)
	}
	c.write(hello)
	if f := c.read(); f == nil || f.Command != frame.CONNECTED {
		r.Fatalf("CONNECT was answered with %v", f)
	}
	return c
}

// end is when the case must have ended.
func (r *brokerRig) end() time.Time {
	end, _ := r.ctx.Deadline()
	return end
}

func (c *bareClient) waitUntil(t time.Time) {
	c.r.Helper()
	if err := c.conn.SetDeadline(t); err != nil {
		c.r.Fatal(err)
	}
}

func (c *bareClient) write(frames ...*frame.Frame) {
	c.r.Helper()
	var wire []byte
	for _, f := range frames {
		var err error
		if wire, err = stompframe.Append(wire, stompframe.V12, f); err != nil {
			c.r.Fatal(err)
		}
	}
	c.raw(string(wire))
}

// raw writes what no frame of ours looks like.
func (c *bareClient) raw(wire string) {
	c.r.Helper()
	if _, err := c.conn.Write([]byte(wire)); err != nil {
		c.r.Fatal(err)
	}
}

// read is the next frame; nil: the broker closed the connection.
func (c *bareClient) read() *frame.Frame {
	c.r.Helper()
	for {
		f, err := c.in.Read()
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout():
			c.r.Fatal("the broker did not answer")
		case err != nil:
			return nil
		case f != nil:
			return f
		}
	}
}

// message is the next one that comes.
func (c *bareClient) message() *frame.Frame {
	c.r.Helper()
	if len(c.came) > 0 {
		f := c.came[0]
		c.came = c.came[1:]
		return f
	}
	f := c.read()
	if f == nil || f.Command != frame.MESSAGE {
		c.r.Fatalf("got %v, want a message", f)
	}
	return f
}

// messages are the next n.
func (c *bareClient) messages(n int) []*frame.Frame {
	c.r.Helper()
	all := make([]*frame.Frame, 0, n)
	for len(all) < n {
		all = append(all, c.message())
	}
	return all
}

// quiet checks that no message comes for a while.
func (c *bareClient) quiet() {
	c.r.Helper()
	c.waitUntil(time.Now().Add(brokerQuiet))
	defer func() { c.waitUntil(c.r.end()) }()
	for {
		f, err := c.in.Read()
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() && len(c.came) == 0 {
			return
		}
		if f != nil || err != nil {
			c.r.Fatalf("got %v after %d messages, want none (%v)", f, len(c.came), err)
		}
	}
}

// ask sends a frame with a receipt header, and returns the RECEIPT, or the ERROR
// that names it.
func (c *bareClient) ask(command string, headers ...string) *frame.Frame {
	c.r.Helper()
	return c.askFrame(frame.New(command, headers...))
}

func (c *bareClient) askFrame(f *frame.Frame) *frame.Frame {
	c.r.Helper()
	c.asked++
	id := "ask-" + strconv.Itoa(c.asked)
	f.Header.Add(frame.Receipt, id)
	c.write(f)
	for {
		switch answer := c.read(); {
		case answer == nil:
			c.r.Fatalf("the broker closed the connection after %s %v", f.Command, f.Header)
		case answer.Command == frame.MESSAGE:
			c.came = append(c.came, answer)
		case answer.Header.Get(frame.ReceiptId) == id:
			return answer
		case c.repeated(answer):
		default:
			c.r.Fatalf("%s %v was answered with %s %v: %s", f.Command, f.Header, answer.Command, answer.Header, answer.Body)
		}
	}
}

// repeated says whether a frame is an ERROR that was there already: under load ActiveMQ
// 5.18.3 sends the one for a refused ACK twice now and then.
func (c *bareClient) repeated(f *frame.Frame) bool {
	n, err := strconv.Atoi(strings.TrimPrefix(f.Header.Get(frame.ReceiptId), "ask-"))
	return f.Command == frame.ERROR && err == nil && n < c.asked
}

// do is ask for what the broker has to do.
func (c *bareClient) do(command string, headers ...string) {
	c.r.Helper()
	c.done(c.ask(command, headers...), command)
}

// refused is ask for what it has to refuse.
func (c *bareClient) refused(command string, headers ...string) *frame.Frame {
	c.r.Helper()
	f := c.ask(command, headers...)
	if f.Command != frame.ERROR {
		c.r.Errorf("%s %v was answered with %v, want an ERROR", command, headers, f)
	}
	return f
}

func (c *bareClient) done(answer *frame.Frame, command string) {
	c.r.Helper()
	if answer.Command != frame.RECEIPT {
		c.r.Fatalf("%s was answered with %v", command, answer)
	}
}

// send sends a message, persistent unless the headers say so or not, and waits for
// its receipt.
func (c *bareClient) send(queue, body string, headers ...string) {
	c.r.Helper()
	f := frame.New(frame.SEND, append(headers, frame.Destination, "/queue/"+queue, "persistent", "true")...)
	f.Body = []byte(body)
	c.done(c.askFrame(f), f.Command)
}

// subscribe subscribes a queue, under its own name.
func (c *bareClient) subscribe(queue, ack string, window int) {
	c.r.Helper()
	c.write(frame.New(frame.SUBSCRIBE, frame.Id, queue, frame.Destination, "/queue/"+queue, frame.Ack, ack,
		"activemq.prefetchSize", strconv.Itoa(window)))
}

// drained takes and acks what is in a queue until a message of its own comes, and
// returns what came before.
func (r *brokerRig) drained(queue string) []*frame.Frame {
	r.Helper()
	c := r.bare()
	c.send(queue, "the last", engine.HeaderPriority, "0")
	c.subscribe(queue, "client-individual", 10)
	var all []*frame.Frame
	for {
		m := c.message()
		c.do(frame.ACK, frame.Id, m.Header.Get(frame.Ack))
		if string(m.Body) == "the last" {
			return all
		}
		all = append(all, m)
	}
}

func bodies(ms []*frame.Frame) string {
	var all strings.Builder
	for _, m := range ms {
		all.Write(m.Body)
	}
	return all.String()
}
