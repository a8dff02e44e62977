package faultproxy

import (
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3/frame"
)

// dialTimeout is how long the broker has to take a connection.
const dialTimeout = 5 * time.Second

// Direction is where a frame goes.
type Direction int

// The two directions.
const (
	ToBroker Direction = iota
	ToClient
)

// Action is what a fault does at its frame.
type Action int

// The actions. A cut ends the frame's connection on both sides.
const (
	// CutAfter lets the frame pass, and nothing after it.
	CutAfter Action = iota
	// CutBefore does not let the frame pass.
	CutBefore
	// CutInside lets the first half of the frame's bytes pass.
	CutInside
	// HoldBack keeps the frame, and all that follows it in its direction on its
	// connection, until Release or the connection's end.
	HoldBack
)

// Fault names one frame, and what happens at it.
type Fault struct {
	// Command is the frame's, for example "SEND"; it tells the direction as well.
	Command string
	// Nth counts the frames with that command, over all connections, from when
	// the fault is armed: 1, which 0 stands for too, is the next.
	Nth int
	// Action is what happens; CutAfter by default.
	Action Action
	// Reset makes a cut a TCP reset, by which either side may lose what it has not
	// read yet. Without it the connection is closed in an orderly way.
	Reset bool
}

// Armed is a fault that waits for its frame.
type Armed struct {
	fault  Fault
	left   int           // frames until it strikes; guarded by the proxy's mutex
	struck chan struct{} // closed when it has
}

// Struck is closed when the fault has happened: the frame was cut or is held.
func (a *Armed) Struck() <-chan struct{} { return a.struck }

// Proxy hands on what clients and the broker say to each other. It is safe for
// concurrent use.
type Proxy struct {
	broker  string
	observe func(Direction, *frame.Frame)
	ln      net.Listener
	wg      sync.WaitGroup

	mu      sync.Mutex // guards the rest
	armed   []*Armed
	links   map[*link]bool
	refuses bool
	least   time.Duration // a frame takes at least so long
	most    time.Duration // and so long at the most; 0: no time
	free    chan struct{} // closed while nothing is held on all connections
	closed  bool
}

// Start starts a proxy to the broker at host:port on a free port of the loopback;
// t.Cleanup closes it. observe, if it is not nil, sees each frame before it is
// handed on, on the goroutine of its direction, and must neither change it nor
// block.
func Start(t testing.TB, broker string, observe func(Direction, *frame.Frame)) *Proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if observe == nil {
		observe = func(Direction, *frame.Frame) {}
	}
	p := &Proxy{broker: broker, observe: observe, ln: ln, links: map[*link]bool{}, free: make(chan struct{})}
	close(p.free)
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Address is the host:port that clients connect to.
func (p *Proxy) Address() string { return p.ln.Addr().String() }

// Arm makes the fault wait for its frame. Of several that name the same frame the
// one that was armed first strikes, and the next at the next frame of that name.
func (p *Proxy) Arm(f Fault) *Armed {
	a := &Armed{fault: f, left: max(f.Nth, 1), struck: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = append(p.armed, a)
	return a
}

// Disarm takes away the faults that have not struck.
func (p *Proxy) Disarm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = nil
}

// Refuse has new connections reset as soon as they come, or, with false, taken
// again. Those that stand are left alone.
func (p *Proxy) Refuse(refuses bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuses = refuses
}

// Lag has each frame on new connections take between least and most in each
// direction, as on a long line: in order, and many at once.
func (p *Proxy) Lag(least, most time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.least, p.most = least, most
}

// Hold holds back everything, in both directions and on new connections too, as a
// network does that has lost its way: nobody is told.
func (p *Proxy) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.free:
		p.free = make(chan struct{})
	default: // it is held already
	}
}

// Release lets go of all that is held, by Hold or by a fault.
func (p *Proxy) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.free:
	default:
		close(p.free)
	}
	for l := range p.links {
		l.release()
	}
}

// Cut ends every connection, by a reset if that is wished.
func (p *Proxy) Cut(reset bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.cut(reset)
	}
}

func (p *Proxy) close() {
	_ = p.ln.Close() // it ends accept, which is what matters
	p.mu.Lock()
	p.closed = true
	for l := range p.links {
		l.cut(false)
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			p.wg.Go(func() { p.serve(client) })
		}
	}
}

// serve is one client's connection, until it ends.
func (p *Proxy) serve(client net.Conn) {
	p.mu.Lock()
	refuses := p.refuses
	p.mu.Unlock()
	if refuses {
		hangUp(client, true)
		return
	}
	broker, err := net.DialTimeout("tcp", p.broker, dialTimeout)
	if err != nil {
		hangUp(client, true) // as if there were nobody at the broker's port
		return
	}
	l := newLink(p, client, broker)
	p.mu.Lock()
	p.links[l] = true
	if p.closed {
		l.cut(false)
	}
	p.mu.Unlock()
	var pumps sync.WaitGroup
	pumps.Go(func() { l.pump(ToClient, broker, l.way(client)) })
	l.pump(ToBroker, client, l.way(broker))
	pumps.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// strikes gives the fault that this frame is for, if there is one.
func (p *Proxy) strikes(command string) *Armed {
	p.mu.Lock()
	defer p.mu.Unlock()
	var hit *Armed
	rest := p.armed[:0]
	for _, a := range p.armed {
		if a.fault.Command == command {
			a.left--
			if a.left <= 0 && hit == nil {
				hit = a
				continue
			}
		}
		rest = append(rest, a)
	}
	clear(p.armed[len(rest):])
	p.armed = rest
	return hit
}

// passing is closed when nothing is held on all connections.
func (p *Proxy) passing() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.free
}
