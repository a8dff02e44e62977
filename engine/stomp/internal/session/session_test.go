package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine/stompframe"
)

func beating(c Config, every time.Duration) Config {
	c.HeartBeat = every
	return c
}

// A strict broker, ActiveMQ without a grace period, never misses one.
func TestBeatsAtHalfTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := started(t, beating(plain, 10*time.Second), "heart-beat", "0,10000")
		last, longest := time.Now(), time.Duration(0)
		end := last.Add(3 * time.Minute)
		var traffic sync.WaitGroup
		traffic.Go(func() { // at an odd pace; it must not push the beats back
			for s.Send(t.Context(), frame.New(frame.ACK, "id", "1")) == nil {
				<-time.After(4900 * time.Millisecond)
			}
		})
		beats := 0
		for time.Now().Before(end) {
			f, err := p.r.Read()
			if err != nil {
				t.Fatal(err)
			}
			if f == nil {
				beats++
			}
			longest = max(longest, time.Since(last))
			last = time.Now()
		}
		s.Close()
		traffic.Wait()
		if longest > 5*time.Second || beats < 36 {
			t.Errorf("%d beats in 3 minutes, %v between two signs of life; want 36 and 5s", beats, longest)
		}
	})
}

func TestSilentBrokerEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s, p := started(t, beating(plain, 10*time.Second), "heart-beat", "10000,0")
		for range 3 {
			<-time.After(19 * time.Second)
			p.raw("\n")
		}
		err := ended(t, s)
		if got, want := time.Since(began), 77*time.Second; got != want || !strings.Contains(err.Error(), "nothing came for 20s") {
			t.Errorf("ended after %v with %v; want %v, 20s after the last sign of life", got, err, want)
		}
		if !s.LastRead().Equal(began.Add(77 * time.Second)) {
			t.Errorf("LastRead is %v after the begin", s.LastRead().Sub(began))
		}
	})
}

func TestNoHeartBeatsWhenEitherSideSaysZero(t *testing.T) {
	for name, c := range map[string]Config{"ours": plain, "theirs": beating(plain, time.Second)} {
		header := map[string]string{"ours": "300,300", "theirs": "0,0"}[name]
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, p := started(t, c, "heart-beat", header)
				<-time.After(time.Hour)
				if s.Err() != nil {
					t.Fatalf("the session ended: %v", s.Err())
				}
				result := requests(t.Context(), s, 1)
				f, err := p.r.Read() // not through read: there must be no heart-beat
				if f == nil || err != nil {
					t.Fatalf("the first thing in an hour is %v, %v; want the request", f, err)
				}
				p.receipt(f)
				if err := <-result; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// stomp.Conn stops for ever on a receipt that comes late.
func TestLateReceiptIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := started(t, plain)
		result := requests(t.Context(), s, 1)
		late := p.expect(frame.SEND)
		if err := <-result; err == nil || !strings.Contains(err.Error(), "within 5s") {
			t.Fatalf("got %v, want a time-out", err)
		}
		p.receipt(late)
		p.receipt(late)
		p.send(frame.ERROR, frame.ReceiptId, late.Header.Get(frame.Receipt), frame.Message, "late")
		result = requests(t.Context(), s, 1)
		p.receipt(p.expect(frame.SEND))
		if err := <-result; err != nil {
			t.Errorf("the next request: %v", err)
		}
		if n := s.receipts.count(); n != 0 {
			t.Errorf("%d requests are still waited for", n)
		}
	})
}

func TestRequestsArePipelined(t *testing.T) {
	s, p := started(t, plain)
	const n = 100
	results := requests(t.Context(), s, n)
	var asked []*frame.Frame
	for range n {
		asked = append(asked, p.expect(frame.SEND)) // all of them, before any answer
	}
	for i := range asked {
		p.receipt(asked[n-1-i])
	}
	for range n {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
}

func TestErrorWithAReceiptFailsThatRequestAlone(t *testing.T) {
	s, p := started(t, plain)
	result := requests(t.Context(), s, 1)
	f := p.expect(frame.SEND)
	p.send(frame.ERROR, frame.ReceiptId, f.Header.Get(frame.Receipt), frame.Message, "not\nauthorized")
	var refusal *BrokerError
	if err := <-result; !errors.As(err, &refusal) || refusal.Words != "not authorized" {
		t.Fatalf("got %v, want the broker's words", err)
	}
	result = requests(t.Context(), s, 1)
	p.receipt(p.expect(frame.SEND))
	if err := <-result; err != nil {
		t.Errorf("the next request: %v", err)
	}
}

func TestSessionEnds(t *testing.T) {
	tests := map[string]struct {
		wire string // "": the broker closes
		want string
	}{
		"by an ERROR without a receipt": {"ERROR\nmessage:shutting down\n\n\x00", "shutting down"},
		"by a broker that closes":       {"", "the broker closed the connection"},
		"by a frame cut short":          {"MESSAGE\nmessage-id:1\n\nabc", "unexpected EOF"},
		"by junk":                       {"\x00\x00\x00", "0x00"},
		"by a frame of a client":        {"SEND\n\n\x00", "SEND"},
		"by a second CONNECTED":         {"CONNECTED\n\n\x00", "CONNECTED"},
		"by a message that is refused":  {"MESSAGE\nmessage-id:bad\n\n\x00", "refused here"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, p := connected(t, plain)
			s.Start(func(f *frame.Frame, _ int64) error { return errors.New("refused here") })
			results := requests(t.Context(), s, 3)
			for range 3 {
				p.expect(frame.SEND)
			}
			if tt.wire != "" {
				p.raw(tt.wire)
			}
			if tt.wire == "" || strings.HasSuffix(tt.wire, "abc") {
				p.conn.Close()
			}
			err := ended(t, s)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ended with %v, want %q", err, tt.want)
			}
			for range 3 {
				if got := <-results; !errors.Is(got, err) {
					t.Errorf("a request that waited got %v, want it to wrap %v", got, err)
				}
			}
			if err := s.Request(t.Context(), frame.New(frame.SEND)); !errors.Is(err, ErrNotSent) {
				t.Errorf("a request after the end: %v, want ErrNotSent", err)
			}
			if err := s.Send(t.Context(), frame.New(frame.SEND)); !errors.Is(err, ErrNotSent) {
				t.Errorf("a frame after the end: %v, want ErrNotSent", err)
			}
		})
	}
}

func TestBrokerThatTakesNothingEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := started(t, plain) // nobody reads
		began := time.Now()
		blocked := make(chan error, 1)
		go func() {
			big := &frame.Frame{Command: frame.SEND, Body: make([]byte, outboxBytes)}
			for {
				if err := s.Send(context.Background(), big); err != nil {
					blocked <- err
					return
				}
			}
		}()
		synctest.Wait()
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Send(impatient, frame.New(frame.ACK, "id", "1")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a full outbox and a context that ends: %v", err)
		}
		err := ended(t, s)
		if !strings.Contains(err.Error(), "took nothing for 10s") || time.Since(began) != writeTimeout {
			t.Errorf("ended with %v after %v; want after %v", err, time.Since(began), writeTimeout)
		}
		if err := <-blocked; !errors.Is(err, ErrNotSent) {
			t.Errorf("who waited got %v, want ErrNotSent", err)
		}
	})
}

// countingConn counts calls of Write, each of which is a system call on a socket.
type countingConn struct {
	net.Conn
	writes atomic.Int64
}

func (c *countingConn) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

func TestWhatComesTogetherLeavesTogether(t *testing.T) {
	ours, p := pipe(t)
	conn := &countingConn{Conn: ours}
	go func() {
		p.expect(frame.CONNECT)
		p.send(frame.CONNECTED, "version", "1.2")
	}()
	s, err := Connect(t.Context(), plain, conn)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Start(func(*frame.Frame, int64) error { return nil })
	before := conn.writes.Load()
	const n = 500
	for i := range n {
		// The pipe takes the first write only when the frames are read below.
		if err := s.Send(t.Context(), frame.New(frame.ACK, "id", fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		if got := p.expect(frame.ACK).Header.Get("id"); got != fmt.Sprint(i) {
			t.Fatalf("frame %d is %s", i, got)
		}
	}
	if got := conn.writes.Load() - before; got > 3 {
		t.Errorf("%d frames took %d writes", n, got)
	}
}

func TestFrameIsTheSendersAgain(t *testing.T) {
	s, p := started(t, plain)
	body := []byte("first")
	for _, word := range []string{"first", "other"} {
		copy(body, word) // the race detector sees it if anybody still reads
		if err := s.Send(t.Context(), &frame.Frame{Command: frame.SEND, Body: body}); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := p.expect(frame.SEND), p.expect(frame.SEND); string(a.Body) != "first" || string(b.Body) != "other" {
		t.Errorf("sent %q and %q", a.Body, b.Body)
	}
}

func TestFrameThatCannotBeSentHarmsNoOther(t *testing.T) {
	s, p := started(t, plain)
	if err := s.Send(t.Context(), frame.New(frame.SEND, "a", "x\x00")); !errors.Is(err, stompframe.ErrMalformed) {
		t.Errorf("got %v, want malformed", err)
	}
	result := requests(t.Context(), s, 1)
	p.receipt(p.expect(frame.SEND))
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestMessagesArriveInOrderWithTheirSize(t *testing.T) {
	s, p := connected(t, plain)
	type arrival struct {
		id      string
		body    int
		skipped int64
	}
	arrived := make(chan arrival, 3)
	s.Start(func(f *frame.Frame, skipped int64) error {
		arrived <- arrival{f.Header.Get("message-id"), len(f.Body), skipped}
		return nil
	})
	p.raw("MESSAGE\nmessage-id:1\ncontent-length:3\n\nabc\x00\n")
	p.raw("MESSAGE\nmessage-id:2\ncontent-length:5000\n\n" + strings.Repeat("x", 5000) + "\x00\n")
	p.raw("MESSAGE\nmessage-id:3\n\n" + strings.Repeat("x", 1001) + "\x00\n")
	for _, want := range []arrival{{"1", 3, 0}, {"2", 0, 5000}, {"3", 0, 1001}} {
		if got := <-arrived; got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func TestDisconnectWaitsForTheBroker(t *testing.T) {
	s, p := started(t, plain)
	if err := s.Send(t.Context(), frame.New(frame.ACK, "id", "1")); err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { result <- s.Disconnect(t.Context()) }()
	p.expect(frame.ACK)
	bye := p.expect(frame.DISCONNECT)
	if s.Err() != nil {
		t.Errorf("ended before the receipt: %v", s.Err())
	}
	p.receipt(bye)
	if err := <-result; err != nil || s.Err() == nil {
		t.Errorf("Disconnect gave %v; the session's end is %v", err, s.Err())
	}
	s.Close() // again
}

func TestCloseBeforeStart(t *testing.T) {
	s, p := connected(t, plain)
	s.Close()
	s.Close()
	expectClosed(t, p)
}

// Start and Close at any moment end every goroutine; goleak and -race watch.
func TestStartCloseStress(t *testing.T) {
	for range 50 {
		s, p := started(t, beating(plain, 2*time.Millisecond), "heart-beat", "0,2")
		go func() {
			for f := p.read(); f != nil; f = p.read() {
				continue
			}
		}()
		results := requests(t.Context(), s, 5)
		go s.Close()
		s.Close()
		for range 5 {
			if err := <-results; err == nil {
				t.Fatal("a request that nobody answered worked")
			}
		}
	}
}
