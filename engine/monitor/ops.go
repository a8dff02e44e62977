package monitor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/rs/zerolog"

	"usher/handlers"
)

// Ops takes notes for people: a webhook, a topic.
type Ops interface {
	// Tell gives a note away and returns when it was taken, or ctx ends. One
	// goroutine calls it. It does not retry: the monitor does, unless the error, or
	// one that it wraps, has a method Again, see [Again]. It keeps nothing of n.
	Tell(ctx context.Context, n Note) error
}

// Again is what an error of Ops may say of whether, and when, to try again.
type Again interface {
	// Again is false if trying again is of no use; else after which wait it is to be
	// tried at the earliest, 0 for the usual one.
	Again() (after time.Duration, ok bool)
}

// Note tells of failures of one kind, without any payload.
type Note struct {
	V           int       `json:"v"`    // NoteVersion
	Text        string    `json:"text"` // all of it in one line, for a chat
	Type        string    `json:"type"` // of the messages
	Reason      string    `json:"reason"`
	Fingerprint string    `json:"fingerprint"` // "": too many kinds to tell them apart
	Detail      string    `json:"detail"`      // of the first one, shortened
	Count       int       `json:"count"`
	First       bool      `json:"first"` // told at once; what follows is counted
	From        time.Time `json:"from"`
	Until       time.Time `json:"until"`
	IDs         []string  `json:"ids"` // of some
}

// NoteVersion is the V of every Note; it changes only when a field changes its meaning.
const NoteVersion = 1

// maxNoteDetail is how much of a detail a note tells, in bytes.
const maxNoteDetail = 200

func noteOf(g *kind, count int, ids []string, first bool, now time.Time) Note {
	n := Note{
		V: NoteVersion, Type: oneLine(g.sample.Type), Reason: g.sample.Why.Reason, Fingerprint: g.sample.Why.Fingerprint,
		Detail: handlers.OneLine(g.sample.Why.Detail, maxNoteDetail), Count: count, First: first, From: g.from.UTC(), Until: now.UTC(), IDs: ids,
	}
	what := fmt.Sprintf("%s: %s (%s)", n.Type, n.Reason, n.Detail)
	look := "usher dlq list --fingerprint " + n.Fingerprint
	if n.Fingerprint == "" {
		what, look = fmt.Sprintf("of more than %d other kinds", maxKinds), "usher dlq list"
	}
	switch {
	case first:
		n.Text = fmt.Sprintf("dead letter %s, %s; %s", ids[0], what, look)
	default:
		n.Text = fmt.Sprintf("%d more dead letters in %s, %s; %s", count, now.Sub(g.from).Round(time.Second), what, look)
	}
	return n
}

// oneLine is what a producer chose, fit for a line.
func oneLine(s string) string { return handlers.OneLine(s, maxNoteDetail) }

const (
	// maxNotes is how many notes wait at the most; each kind has one a window.
	maxNotes = 256
	// tellTimeout is how long one try may take, and tries how many there are.
	tellTimeout = 10 * time.Second
	tries       = 5
	// longestWait is the longest that somebody who asks for a pause gets.
	longestWait = 5 * time.Minute
	// lastNotes is how long the notes have that wait when the monitor stops.
	lastNotes = 3 * time.Second
)

// outboxes send each note to everybody who takes notes: none waits for another.
type outboxes []*outbox

func (all outboxes) offer(n Note) {
	for _, o := range all {
		o.offer(n)
	}
}

func (all outboxes) sendLast(ctx context.Context, more []Note) {
	var boxes sync.WaitGroup
	for _, o := range all {
		boxes.Go(func() { o.sendLast(ctx, more) })
	}
	boxes.Wait()
}

// outbox sends notes, one after the other.
type outbox struct {
	ops   Ops
	log   zerolog.Logger
	notes chan Note // of maxNotes, so that nobody waits for a slow receiver
	lost  atomic.Int64
}

func newOutbox(ops Ops, log zerolog.Logger) *outbox {
	return &outbox{ops: ops, log: log, notes: make(chan Note, maxNotes)}
}

// offer has a note sent, or lost if too many wait. It does not block.
func (o *outbox) offer(n Note) {
	select {
	case o.notes <- n:
	default:
		if o.lost.Add(1) == 1 {
			o.log.Error().Int("waiting", maxNotes).Msg("ops notes are lost: nobody takes them fast enough")
		}
	}
}

// run sends until ctx ends.
func (o *outbox) run(ctx context.Context) error {
	for {
		select {
		case n := <-o.notes:
			o.send(ctx, n)
		case <-ctx.Done():
			return ctx.Err()
		}
		if n := o.lost.Swap(0); n > 0 {
			o.log.Error().Int64("lost", n).Msg("ops notes were lost")
		}
	}
}

// send tries to send a note some times.
func (o *outbox) send(ctx context.Context, n Note) {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval, wait.Multiplier, wait.RandomizationFactor = time.Second, 30*time.Second, 3, 0.3
	_, err := backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, o.try(ctx, n) },
		backoff.WithBackOff(wait), backoff.WithMaxTries(tries), backoff.WithMaxElapsedTime(0))
	if err != nil && ctx.Err() == nil {
		o.log.Error().Err(err).Str("note", n.Text).Msg("an ops note was not taken")
	}
}

// try sends a note once, and says with its error how to go on.
func (o *outbox) try(ctx context.Context, n Note) error {
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	err := o.ops.Tell(ctx, n)
	var says Again
	if err == nil || !errors.As(err, &says) {
		return err
	}
	after, ok := says.Again()
	switch {
	case !ok:
		return backoff.Permanent(err)
	case after > 0:
		return &backoff.RetryAfterError{Duration: min(after, longestWait)}
	}
	return err
}

// sendLast sends what waits, and the notes given, once and for a short time.
func (o *outbox) sendLast(ctx context.Context, more []Note) {
	for _, n := range more {
		o.offer(n)
	}
	ctx, cancel := context.WithTimeout(ctx, lastNotes)
	defer cancel()
	for ctx.Err() == nil {
		select {
		case n := <-o.notes:
			if err := o.ops.Tell(ctx, n); err != nil {
				o.log.Error().Err(err).Str("note", n.Text).Msg("an ops note was not taken")
			}
		default:
			return
		}
	}
}
