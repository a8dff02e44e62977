package bench

import (
	"bytes"
	"container/heap"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/go-stomp/stomp/v3/frame"
	"golang.org/x/sync/errgroup"

	"usher/engine"
	"usher/engine/stompframe"
)

// plain is a STOMP client with nothing in it: what others are measured by. One
// goroutine reads; acks may come from any.
type plain struct {
	conn net.Conn
	in   *stompframe.Reader

	mu  sync.Mutex // guards out
	out *stompframe.Writer
}

func dialPlain(address string) (*plain, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	p := &plain{conn: conn, out: stompframe.NewWriter(conn)}
	p.in = stompframe.NewReader(p, stompframe.Limits{})
	if err := p.out.Write(frame.New(frame.CONNECT, frame.AcceptVersion, "1.2", frame.Host, "localhost")); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if _, err := p.read(frame.CONNECTED); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return p, nil
}

// Read sends what was written before it waits for more, so acks leave together.
func (p *plain) Read(b []byte) (int, error) {
	if err := p.flush(); err != nil {
		return 0, err
	}
	return p.conn.Read(b)
}

func (p *plain) flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Flush()
}

func (p *plain) write(f *frame.Frame) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(f)
}

// read returns the next frame, which has to be the one that is expected.
func (p *plain) read(command string) (*frame.Frame, error) {
	for {
		f, err := p.in.Read()
		if err != nil {
			return nil, err
		}
		if f != nil && f.Command != command {
			return nil, fmt.Errorf("the broker sent %s %v %q", f.Command, f.Header, f.Body)
		}
		if f != nil {
			return f, nil
		}
	}
}

func (p *plain) subscribe(queue string, window int) error {
	return p.write(frame.New(frame.SUBSCRIBE, frame.Id, "s-"+queue, frame.Destination, "/queue/"+queue,
		frame.Ack, "client-individual", "activemq.prefetchSize", strconv.Itoa(window)))
}

func (p *plain) ack(f *frame.Frame) error {
	return p.write(frame.New(frame.ACK, frame.Id, f.Header.Get(frame.Ack)))
}

// disconnect waits until the broker has taken all that was written.
func (p *plain) disconnect() error {
	if err := p.write(frame.New(frame.DISCONNECT, frame.Receipt, "bye")); err != nil {
		return err
	}
	for {
		f, err := p.in.Read()
		if err != nil || f != nil && f.Command == frame.RECEIPT {
			return err // messages that came beyond those that were wanted go back
		}
	}
}

// sendAll is a producer: it sends n messages, so many of them under way at once,
// and returns when it has the receipt of each.
func sendAll(address, queue string, n, underWay int) error {
	p, err := dialPlain(address)
	if err != nil {
		return err
	}
	defer p.conn.Close()
	body := bytes.Repeat([]byte{'x'}, bodyBytes)
	for sent, confirmed := 0, 0; confirmed < n; confirmed++ {
		for ; sent < n && sent-confirmed < underWay; sent++ {
			f := frame.New(frame.SEND, frame.Destination, "/queue/"+queue, frame.Receipt, strconv.Itoa(sent), "persistent", "true",
				engine.HeaderType, typeNothing, engine.HeaderPriority, strconv.Itoa(sent%engine.Levels), engine.HeaderID, strconv.Itoa(sent))
			f.Body = body
			if err := p.write(f); err != nil {
				return err
			}
		}
		if _, err := p.read(frame.RECEIPT); err != nil {
			return err
		}
	}
	return p.disconnect()
}

// takeAll is the bare consumer: it receives n messages of the queues, acks each
// at once, and does nothing else. It tells how long it took from the first
// message until the broker had every ack.
func takeAll(address string, n, window int, queues ...string) (time.Duration, error) {
	p, err := dialPlain(address)
	if err != nil {
		return 0, err
	}
	defer p.conn.Close()
	for _, queue := range queues {
		if err := p.subscribe(queue, window); err != nil {
			return 0, err
		}
	}
	var began time.Time
	for i := range n {
		f, err := p.read(frame.MESSAGE)
		if err != nil {
			return 0, err
		}
		if i == 0 {
			began = time.Now()
		}
		if err := p.ack(f); err != nil {
			return 0, err
		}
	}
	err = p.disconnect()
	return time.Since(began), err
}

// lanes are the queues that the engine takes from, highest first.
func lanes() []string {
	var queues []string
	for level := engine.Levels - 1; level >= 0; level-- {
		queues = append(queues, engine.WorkQueue+".p"+strconv.Itoa(level))
	}
	return append(queues, engine.WorkQueue)
}

// takeSorted is the client that careful teams write: it takes a large window of
// one queue, keeps what comes in a heap, and gives its workers the highest first.
// It returns when it has handled and acked n messages.
func takeSorted(address, queue string, n, window, workers int, handle func(*frame.Frame)) error {
	p, err := dialPlain(address)
	if err != nil {
		return err
	}
	defer p.conn.Close()
	if err := p.subscribe(queue, window); err != nil {
		return err
	}
	var g errgroup.Group
	var h sorter
	h.filled = sync.NewCond(&h.mu)
	g.Go(func() error {
		defer h.end()
		for range n {
			f, err := p.read(frame.MESSAGE)
			if err != nil {
				return err
			}
			h.put(f)
		}
		return nil
	})
	for range workers {
		g.Go(func() error {
			for f := h.next(); f != nil; f = h.next() {
				handle(f)
				if err := errors.Join(p.ack(f), p.flush()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return p.disconnect()
}

// sorter is what waits for workers. It is safe for concurrent use.
type sorter struct {
	mu      sync.Mutex // guards the rest
	filled  *sync.Cond
	waiting byLevel
	came    int
	ended   bool // no more come
}

func (s *sorter) put(f *frame.Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	heap.Push(&s.waiting, arrived{f, f.Header.Get(engine.HeaderPriority), s.came})
	s.came++
	s.filled.Signal()
}

// end says that no more come.
func (s *sorter) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.filled.Broadcast()
}

// next waits for the highest message; nil: no more come.
func (s *sorter) next() *frame.Frame {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.waiting) == 0 && !s.ended {
		s.filled.Wait()
	}
	if len(s.waiting) == 0 {
		return nil
	}
	return heap.Pop(&s.waiting).(arrived).Frame
}

// byLevel is a heap of messages: the highest level on top, within one the first
// that came.
type byLevel []arrived

type arrived struct {
	*frame.Frame

	level string // one digit
	n     int
}

func (h byLevel) Len() int { return len(h) }
func (h byLevel) Less(i, j int) bool {
	return h[i].level > h[j].level || h[i].level == h[j].level && h[i].n < h[j].n
}
func (h byLevel) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *byLevel) Push(x any)   { *h = append(*h, x.(arrived)) }
func (h *byLevel) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}
