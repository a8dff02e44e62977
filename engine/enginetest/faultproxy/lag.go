package faultproxy

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// onItsWay is how many frames may be on a long line in one direction.
const onItsWay = 4096

// lag is a long line in one direction: each frame arrives later, in its order. What is on
// its way when the connection ends is lost.
type lag struct {
	least, most time.Duration
	into        net.Conn
	ended       <-chan struct{}
	line        chan inFlight
	last        time.Time // when the one before arrives
}

type inFlight struct {
	arrives time.Time
	wire    []byte
}

// way is the line to one end of the link, which is a long one if the proxy has lag.
func (l *link) way(into net.Conn) io.Writer {
	l.proxy.mu.Lock()
	least, most := l.proxy.least, l.proxy.most
	l.proxy.mu.Unlock()
	if most == 0 {
		return into
	}
	line := &lag{least: least, most: most, into: into, ended: l.ended, line: make(chan inFlight, onItsWay)}
	l.proxy.wg.Go(line.run)
	return line
}

// Write puts bytes on the line.
func (l *lag) Write(wire []byte) (int, error) {
	arrives := time.Now().Add(l.least + rand.N(l.most-l.least+1))
	if arrives.Before(l.last) {
		arrives = l.last
	}
	l.last = arrives
	select {
	case l.line <- inFlight{arrives, bytes.Clone(wire)}:
		return len(wire), nil
	case <-l.ended:
		return 0, net.ErrClosed
	}
}

// run lets bytes arrive, until the connection ends.
func (l *lag) run() {
	for {
		select {
		case f := <-l.line:
			if !l.pass(time.Until(f.arrives)) {
				return
			}
			if _, err := l.into.Write(f.wire); err != nil {
				return // the link finds it ended too
			}
		case <-l.ended:
			return
		}
	}
}

// pass lets time pass; false: the connection has ended.
func (l *lag) pass(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-l.ended:
		return false
	}
}
