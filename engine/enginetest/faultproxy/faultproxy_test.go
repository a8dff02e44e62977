package faultproxy_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3/frame"
	"go.uber.org/goleak"

	"usher/engine/enginetest/faultproxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long something may take that happens at once.
const patience = 5 * time.Second

const (
	send1   = "SEND\ndestination:/queue/a\nid:1\n\none\x00"
	send2   = "SEND\ndestination:/queue/a\nid:2\n\ntwo\x00"
	send3   = "SEND\ndestination:/queue/a\nid:3\n\nthree\x00"
	receipt = "RECEIPT\nreceipt-id:r\n\n\x00"
	message = "MESSAGE\nmessage-id:m\ncontent-length:9\n\nnul \x00 nul\x00"
)

// pair is both ends of what a proxy stands between.
type pair struct {
	t              *testing.T
	proxy          *faultproxy.Proxy
	client, broker net.Conn
}

func newPair(t *testing.T, observe func(faultproxy.Direction, *frame.Frame)) *pair {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	p := &pair{t: t, proxy: faultproxy.Start(t, ln.Addr().String(), observe)}
	p.connect(ln)
	return p
}

func (p *pair) connect(ln net.Listener) {
	p.t.Helper()
	var err error
	if p.client, err = net.Dial("tcp", p.proxy.Address()); err != nil {
		p.t.Fatal(err)
	}
	if p.broker, err = ln.Accept(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { p.client.Close(); p.broker.Close() })
}

func (p *pair) write(conn net.Conn, frames ...string) {
	p.t.Helper()
	if _, err := io.WriteString(conn, strings.Join(frames, "")); err != nil {
		p.t.Fatal(err)
	}
}

// wants reads exactly these bytes.
func (p *pair) wants(conn net.Conn, frames ...string) {
	p.t.Helper()
	want := strings.Join(frames, "")
	got := make([]byte, len(want))
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		p.t.Fatal(err)
	}
	if n, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		p.t.Fatalf("came %q (%v), want %q", got[:n], err, want)
	}
}

// wantsEnd reads what is left and gives how the connection ended.
func (p *pair) wantsEnd(conn net.Conn, rest string) error {
	p.t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		p.t.Fatal(err)
	}
	var got bytes.Buffer
	_, err := io.Copy(&got, conn)
	if got.String() != rest {
		p.t.Errorf("came %q, want %q", got.String(), rest)
	}
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		p.t.Errorf("it ended with %v", err)
	}
	return err
}

// wantsRefusal says that a new connection is reset, while it is made or then.
func (p *pair) wantsRefusal() {
	p.t.Helper()
	conn, err := net.Dial("tcp", p.proxy.Address())
	if err == nil {
		defer conn.Close()
		err = p.wantsEnd(conn, "")
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		p.t.Errorf("a new connection ended with %v, want a reset", err)
	}
}

// wantsNothing says that nothing comes for a while.
func (p *pair) wantsNothing(conn net.Conn) {
	p.t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		p.t.Fatal(err)
	}
	var timeout net.Error
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.As(err, &timeout) || !timeout.Timeout() {
		p.t.Errorf("%d bytes came, with %v; want none", n, err)
	}
}

func wantStruck(t *testing.T, a *faultproxy.Armed) {
	t.Helper()
	select {
	case <-a.Struck():
	case <-time.After(patience):
		t.Fatal("the fault has not struck")
	}
}

func TestEveryByteIsHandedOnAsItCame(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	p := newPair(t, func(d faultproxy.Direction, f *frame.Frame) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, map[faultproxy.Direction]string{faultproxy.ToBroker: "> ", faultproxy.ToClient: "< "}[d]+f.Command)
	})
	odd := "SEND\r\ndestination:/queue/\\c\\x\r\nno colon\r\n\r\n\x00"
	long := "SEND\ncontent-length:300000\n\n" + strings.Repeat("\x00", 300_000) + "\x00"
	var writes sync.WaitGroup
	writes.Go(func() { p.write(p.client, "\n", send1, "\n\n", odd, long, send2) })
	p.wants(p.broker, "\n", send1, "\n\n", odd, long, send2)
	writes.Wait()
	p.write(p.broker, message, "\n", receipt)
	p.wants(p.client, message, "\n", receipt)
	p.write(p.client, "SEND\nhalf of a fra")
	if err := p.client.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.wantsEnd(p.broker, "SEND\nhalf of a fra"); err != nil {
		t.Errorf("the broker's side ended with %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"> SEND", "> SEND", "> SEND", "> SEND", "< MESSAGE", "< RECEIPT"}; !slices.Equal(seen, want) {
		t.Errorf("seen %v, want %v", seen, want)
	}
}

func TestCutsWhereTheFaultSays(t *testing.T) {
	for name, test := range map[string]struct {
		action faultproxy.Action
		passes string
	}{
		"after":  {faultproxy.CutAfter, send1 + send2},
		"before": {faultproxy.CutBefore, send1},
		"inside": {faultproxy.CutInside, send1 + send2[:len(send2)/2]},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, nil)
			a := p.proxy.Arm(faultproxy.Fault{Command: frame.SEND, Nth: 2, Action: test.action})
			p.write(p.broker, receipt) // of another name: it is not counted
			p.wants(p.client, receipt)
			p.write(p.client, send1, send2, send3)
			p.wantsEnd(p.broker, test.passes) //nolint:errcheck // either end will do
			wantStruck(t, a)
			p.wantsEnd(p.client, "") //nolint:errcheck // either end will do
		})
	}
}

func TestAResetIsAReset(t *testing.T) {
	p := newPair(t, nil)
	a := p.proxy.Arm(faultproxy.Fault{Command: frame.MESSAGE, Action: faultproxy.CutBefore, Reset: true})
	p.write(p.broker, message)
	wantStruck(t, a)
	if err := p.wantsEnd(p.client, ""); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client's side ended with %v, want a reset", err)
	}
	if err := p.wantsEnd(p.broker, ""); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the broker's side ended with %v, want a reset", err)
	}
}

func TestAFaultStrikesOnce(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p := &pair{t: t, proxy: faultproxy.Start(t, ln.Addr().String(), nil)}
	never := p.proxy.Arm(faultproxy.Fault{Command: frame.SEND, Action: faultproxy.CutBefore})
	p.proxy.Disarm()
	a := p.proxy.Arm(faultproxy.Fault{Command: frame.SEND, Action: faultproxy.CutBefore})
	p.connect(ln)
	p.write(p.client, send1)
	p.wantsEnd(p.broker, "") //nolint:errcheck // either end will do
	wantStruck(t, a)
	p.connect(ln)
	p.write(p.client, send1, send2, send3)
	p.wants(p.broker, send1, send2, send3)
	select {
	case <-never.Struck():
		t.Error("a fault that was disarmed has struck")
	default:
	}
}

func TestFaultsThatNameTheSameFrameStrikeOneAfterTheOther(t *testing.T) {
	p := newPair(t, nil)
	held := p.proxy.Arm(faultproxy.Fault{Command: frame.RECEIPT, Action: faultproxy.HoldBack})
	cut := p.proxy.Arm(faultproxy.Fault{Command: frame.RECEIPT, Action: faultproxy.CutAfter})
	p.write(p.broker, receipt, message, receipt)
	wantStruck(t, held)
	p.proxy.Release()
	p.wantsEnd(p.client, receipt+message+receipt) //nolint:errcheck // either end will do
	wantStruck(t, cut)
}

func TestHoldsAFrameBackAndAllThatFollowsUntilItIsReleased(t *testing.T) {
	p := newPair(t, nil)
	a := p.proxy.Arm(faultproxy.Fault{Command: frame.RECEIPT, Action: faultproxy.HoldBack})
	p.write(p.broker, message, receipt, message)
	p.wants(p.client, message)
	wantStruck(t, a)
	p.wantsNothing(p.client)
	p.write(p.client, send1)
	p.wants(p.broker, send1) // the other direction goes on
	p.proxy.Release()
	p.wants(p.client, receipt, message)
}

func TestHoldsEverythingBack(t *testing.T) {
	p := newPair(t, nil)
	p.proxy.Hold()
	p.proxy.Hold()
	p.write(p.broker, message)
	p.write(p.client, send1)
	p.wantsNothing(p.client)
	p.wantsNothing(p.broker)
	p.proxy.Release()
	p.proxy.Release()
	p.wants(p.client, message)
	p.wants(p.broker, send1)
}

func TestACutEndsWhatIsHeld(t *testing.T) {
	p := newPair(t, nil)
	a := p.proxy.Arm(faultproxy.Fault{Command: frame.RECEIPT, Action: faultproxy.HoldBack})
	p.write(p.broker, receipt)
	wantStruck(t, a)
	p.proxy.Cut(false)
	p.wantsEnd(p.client, "") //nolint:errcheck // either end will do
	p.wantsEnd(p.broker, "") //nolint:errcheck // either end will do
}

func TestRefusesConnectionsForAWhile(t *testing.T) {
	p := newPair(t, nil)
	p.proxy.Refuse(true)
	p.wantsRefusal()
	p.write(p.client, send1)
	p.wants(p.broker, send1) // the one that stood still does
	p.proxy.Refuse(false)
}

func TestWithoutABrokerConnectionsAreReset(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	p := &pair{t: t, proxy: faultproxy.Start(t, ln.Addr().String(), nil)}
	p.wantsRefusal()
}

func TestFramesTakeTheirTimeOnALongLineAndStayInOrder(t *testing.T) {
	const least, most, n = 50 * time.Millisecond, 100 * time.Millisecond, 200
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	p := &pair{t: t, proxy: faultproxy.Start(t, ln.Addr().String(), nil)}
	p.proxy.Lag(least, most)
	p.connect(ln)
	began := time.Now()
	var frames []string
	for range n {
		frames = append(frames, send1, send2, send3)
	}
	p.write(p.client, frames...)
	p.wants(p.broker, frames...)
	if took := time.Since(began); took < least || took > n*least {
		t.Errorf("%d frames took %v, want at least the %v of one, and not one after the other", 3*n, took, least)
	}
	p.write(p.broker, message)
	p.wants(p.client, message)
	p.write(p.client, send1)
	p.proxy.Cut(true)
}
