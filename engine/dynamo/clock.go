package dynamo

import (
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Leases and due times are read off the clock of each engine, so all of them must show
// DynamoDB's. Each answer has its time, in whole seconds (RFC 9110, 6.6.1); a machine
// that is further off than clockBound gets no request through, and asks for the time
// each clockEvery.
const (
	clockBound = time.Second
	clockEvery = 2 * time.Second
)

// clockError is why a request was not sent: this machine's clock is behind that of
// DynamoDB by so much at least, or ahead if below zero.
type clockError time.Duration

// Error says what to do as well.
func (e clockError) Error() string {
	by, way := time.Duration(e), "behind"
	if by < 0 {
		by, way = -by, "ahead of"
	}
	return fmt.Sprintf("this machine's clock is at least %v %s that of DynamoDB, and nothing is claimed or released by such a clock: set it (chrony, or the time service of your cloud); usher then goes on by itself", by.Round(time.Second), way)
}

// reading is what this machine shows: the wall clock, which may be set, and the time
// since some moment, which may not.
type reading struct {
	wall    time.Time
	running time.Duration
}

// setSince says whether the wall clock was set between an earlier reading and this one.
func (r reading) setSince(earlier reading) bool {
	return (r.wall.Sub(earlier.wall) - (r.running - earlier.running)).Abs() > clockBound
}

// timed is a transport that sends nothing while this machine's clock is not that of the
// server, or is not known to be. Its zero value, with next and read set, knows nothing
// yet.
type timed struct {
	next http.RoundTripper
	read func() reading

	mu        sync.Mutex
	confirmed reading       // when the clock was last seen to be right; zero: never; guarded by mu
	off       time.Duration // by how much it was off when it was last looked at, at least; guarded by mu
	again     time.Duration // when the time may be asked for again, by running; guarded by mu
}

// thisMachine reads the clocks of this machine.
func thisMachine() func() reading {
	began := time.Now()
	return func() reading {
		now := time.Now()
		return reading{wall: now.Round(0), running: now.Sub(began)}
	}
}

// RoundTrip sends a request, or says why not.
func (t *timed) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.known(req); err != nil {
		return nil, err
	}
	return t.ask(req)
}

// known gives nil if the clock is right, for which it may have to ask for the time.
func (t *timed) known(req *http.Request) error {
	now := t.read()
	t.mu.Lock()
	right := t.off == 0 && t.confirmed != reading{} && !now.setSince(t.confirmed)
	wait := t.off != 0 && now.running < t.again
	if !right && !wait {
		t.again = now.running + clockEvery
	}
	err := t.wrong()
	t.mu.Unlock()
	switch {
	case right:
		return nil
	case wait:
		return err
	}
	// DynamoDB answers this with "healthy" and no signature; any answer has the time.
	hello := req.Clone(req.Context())
	hello.Method, hello.Header, hello.Body, hello.GetBody, hello.ContentLength = http.MethodGet, http.Header{}, nil, nil, 0
	answer, err := t.ask(hello)
	if err != nil {
		return err
	}
	_ = answer.Body.Close() // nothing of it is of use
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.wrong()
}

// ask sends a request, and notes the time that its answer has.
func (t *timed) ask(req *http.Request) (*http.Response, error) {
	sent := t.read()
	answer, err := t.next.RoundTrip(req)
	if err != nil {
		return answer, err
	}
	got := t.read()
	at, err := http.ParseTime(answer.Header.Get("Date"))
	t.mu.Lock()
	defer t.mu.Unlock()
	if got.setSince(sent) {
		t.confirmed = reading{} // it says nothing of the clock as it is now
		return answer, nil
	}
	if t.confirmed, t.off = got, 0; err == nil {
		t.off = apart(sent.wall, got.wall, at)
	}
	return answer, nil
}

// wrong is what a clock that is off is answered with. The caller holds mu.
func (t *timed) wrong() error {
	if t.off == 0 {
		return nil
	}
	return clockError(t.off)
}

// apart is by how much a clock is surely behind that of a server, if that is more than
// clockBound; below zero, ahead; else 0. The server answered in the second that began
// at at, somewhen between sent and got.
func apart(sent, got, at time.Time) time.Duration {
	if behind := at.Sub(got); behind > clockBound {
		return behind
	}
	if ahead := at.Add(time.Second).Sub(sent); ahead < -clockBound {
		return ahead
	}
	return 0
}
