package handlers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"sync"
	"time"
)

// Limits on what one attempt may emit. What is over them is refused by
// [Message.Emit], so the author learns of it and not the operator.
const (
	MaxFollowOns     = 100     // messages an attempt
	MaxFollowOnBytes = 1 << 20 // bytes of all their bodies together
	MaxNoteBytes     = 256     // bytes of a progress note; longer ones are cut
)

// Message is one typed message, in one attempt at it. The fields are the
// handler's to read; Headers and Body are not shared with other attempts and
// may be changed without effect.
//
// Progress and Emit are safe for concurrent use; they belong to this attempt
// and have no effect after HandleMessage has returned.
type Message struct {
	// ID is stable over re-sends and retries, 1 to 512 printable bytes.
	ID string
	// Type selected the handler, for example "order.placed".
	Type string
	// Priority is 0 to 9, 9 first.
	Priority int
	// Attempt counts from 1, over all rounds of attempts.
	Attempt int
	// IdempotencyKey is the same for every attempt at this message, on every
	// machine, and differs between messages.
	IdempotencyKey string
	// Headers are the producer's own headers, traceparent among them.
	Headers map[string]string
	// ContentType says what Body is; "application/json" by default.
	ContentType string
	// Body is the payload, byte for byte as it was sent.
	Body []byte

	attempt attempt
}

// FollowOn is a message that a handler sends when, and only when, its own
// message is done.
type FollowOn struct {
	// Type is required.
	Type string
	// Body may be empty.
	Body []byte
	// ContentType defaults to "application/json".
	ContentType string
	// Headers are extra headers; names that usher or the broker own are refused.
	Headers map[string]string
	// Priority is 0 to 9; nil keeps the priority of the message handled.
	Priority *int
	// Delay is how long it waits before it is first run; 0 is not at all.
	Delay time.Duration
	// Key makes its id: a re-run that emits the same Key again emits the same
	// message. Empty: the digest of Body is used.
	Key string
}

// Progress is what a handler last said of how far it is.
type Progress struct {
	// Ratio is 0 to 1.
	Ratio float64
	// Note is one short line for the person who waits.
	Note string
}

// attempt is what the handler produced besides its error. mu guards the rest;
// report is set before the handler starts and not changed after.
type attempt struct {
	mu        sync.Mutex
	ended     bool
	followOns []FollowOn
	bytes     int
	report    func(Progress)
}

// ErrEnded is returned by Emit when HandleMessage has already returned.
var ErrEnded = errors.New("handlers: the attempt has ended")

// Progress tells the people who watch this message how far it is: ratio is 0
// to 1 (what is outside is moved to the nearer end), note one short line. It
// never blocks and never fails; too frequent reports are merged, the latest wins.
func (m *Message) Progress(ratio float64, note string) {
	m.attempt.mu.Lock()
	report := m.attempt.report
	if m.attempt.ended {
		report = nil
	}
	m.attempt.mu.Unlock()
	if report == nil {
		return
	}
	if math.IsNaN(ratio) {
		ratio = 0
	}
	report(Progress{Ratio: min(max(ratio, 0), 1), Note: OneLine(note, MaxNoteBytes)})
}

// Emit sends a message of the given type when this one is done, with this
// one's priority. It is [Message.EmitFollowOn] for the common case.
func (m *Message) Emit(typ string, body []byte) error {
	return m.EmitFollowOn(FollowOn{Type: typ, Body: body})
}

// EmitFollowOn sends f when this message is done. It copies what it is given.
// It returns an error, and nothing will be sent for this call, when f has no
// type or a priority outside 0 to 9, when the attempt is over its limits
// ([MaxFollowOns], [MaxFollowOnBytes]), or with [ErrEnded].
func (m *Message) EmitFollowOn(f FollowOn) error {
	switch {
	case f.Type == "":
		return errors.New("handlers: a follow-on message needs a type")
	case f.Priority != nil && (*f.Priority < 0 || *f.Priority > 9):
		return fmt.Errorf("handlers: follow-on %q: priority %d is outside 0 to 9", f.Type, *f.Priority)
	case f.Delay < 0:
		return fmt.Errorf("handlers: follow-on %q: the delay %v is negative", f.Type, f.Delay)
	}
	m.attempt.mu.Lock()
	defer m.attempt.mu.Unlock()
	switch {
	case m.attempt.ended:
		return ErrEnded
	case len(m.attempt.followOns) == MaxFollowOns:
		return fmt.Errorf("handlers: follow-on %q: an attempt may emit %d messages, no more", f.Type, MaxFollowOns)
	case m.attempt.bytes+len(f.Body) > MaxFollowOnBytes:
		return fmt.Errorf("handlers: follow-on %q: an attempt may emit %d bytes, no more", f.Type, MaxFollowOnBytes)
	}
	m.attempt.bytes += len(f.Body)
	m.attempt.followOns = append(m.attempt.followOns, f.clone())
	return nil
}

func (f FollowOn) clone() FollowOn {
	f.Body = append([]byte(nil), f.Body...)
	f.Headers = maps.Clone(f.Headers)
	if f.Priority != nil {
		p := *f.Priority
		f.Priority = &p
	}
	return f
}

// Run runs one attempt of h at m and returns h's answer with what it emitted,
// which is nothing unless the answer is nil. report receives its progress,
// possibly from other goroutines, and may be nil. Engines and plugin hosts call
// a Handler through it, and once for a Message.
func Run(ctx context.Context, h Handler, m *Message, report func(Progress)) ([]FollowOn, error) {
	m.attempt.report = report
	err := h.HandleMessage(ctx, m)
	m.attempt.mu.Lock()
	defer m.attempt.mu.Unlock()
	m.attempt.ended = true
	if err != nil {
		return nil, err
	}
	return m.attempt.followOns, nil
}
