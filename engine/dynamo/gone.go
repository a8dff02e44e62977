package dynamo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// While DynamoDB does not answer, one request each probeEvery is sent, whoever's it is,
// and all others fail at once: however many wait for it, it is asked as often. It does
// not answer if goneAfter requests in a row got no answer, or one of 500 and more.
const (
	goneAfter  = 20
	probeEvery = 2 * time.Second
)

// errGone is why a request was not sent.
var errGone = errors.New("DynamoDB does not answer: a request each two seconds is sent until it does")

// probing is a transport that sends little to a server that does not answer.
type probing struct {
	next http.RoundTripper

	mu     sync.Mutex
	failed int       // requests in a row; guarded by mu
	last   error     // how the last of them failed; guarded by mu
	probe  time.Time // when the next one may be sent, if it does not answer; guarded by mu
}

// RoundTrip sends a request, or says why not.
func (p *probing) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := p.mayAsk(time.Now()); err != nil {
		return nil, err
	}
	answer, err := p.next.RoundTrip(req)
	switch {
	case err != nil && errors.Is(req.Context().Err(), context.Canceled): // says nothing of the server
	case err != nil:
		p.note(err)
	case answer.StatusCode >= http.StatusInternalServerError:
		p.note(errors.New(answer.Status))
	default:
		p.note(nil)
	}
	return answer, err
}

func (p *probing) mayAsk(now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed < goneAfter {
		return nil
	}
	if now.Before(p.probe) {
		return fmt.Errorf("%w; the last one: %w", errGone, p.last)
	}
	p.probe = now.Add(probeEvery)
	return nil
}

// note notes the answer to a request: nil, or how it failed.
func (p *probing) note(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last = err; err == nil {
		p.failed = 0
		return
	}
	if p.failed++; p.failed == goneAfter {
		p.probe = time.Now().Add(probeEvery)
	}
}
