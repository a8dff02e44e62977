package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"usher/handlers"
)

// Archive keeps dead letters for those who look after them, in an index that can
// be listed without their content. Methods are safe for concurrent use, block
// until the store has answered or ctx ends, and do not retry; after an error
// other than ErrGuarded and ErrNotFound a change may or may not have landed.
// What they return is the caller's.
type Archive interface {
	// Put keeps a dead letter durably, in state kept, and returns it. If one of its
	// Key is there, that stays as it is and is returned with added false: whoever
	// puts a letter twice, because his ack was lost, has put one. The caller's map
	// and slice are read until it returns.
	Put(ctx context.Context, l DeadLetter, c Content) (kept DeadLetter, added bool, err error)
	// Letters lists what the question is about, the youngest first (by DeadAt, then
	// Key). It never reads contents. The list goes on after its last one; one that
	// is shorter than the limit is the last. A letter that was just put may be
	// missing for some seconds.
	Letters(ctx context.Context, q LetterQuery) ([]DeadLetter, error)
	// Letter reads one with its content, never stale. ErrNotFound if there is none.
	Letter(ctx context.Context, key string) (DeadLetter, Content, error)
	// Settle ends the care for a letter, if it is in state kept: see
	// [LetterChange.Apply]. ErrGuarded comes with the letter as it is; ErrNotFound
	// if there is none.
	Settle(ctx context.Context, c LetterChange) (DeadLetter, error)
	// Tally counts the letters in state kept by their reason, perhaps some seconds
	// late; in no order, and without the reasons that no letter has.
	Tally(ctx context.Context) ([]Tally, error)
}

// LetterState is where the care for a dead letter stands.
type LetterState string

// The states of a dead letter.
const (
	LetterKept     LetterState = "kept"     // waits for somebody
	LetterRedriven LetterState = "redriven" // sent to be tried again
	LetterDropped  LetterState = "dropped"  // nobody wants it; its content is gone
)

const (
	// LetterTTL is how long the store remembers a letter that was redriven or
	// dropped. One that is kept stays until somebody looks after it.
	LetterTTL = 30 * 24 * time.Hour
	// MaxRedrives is how often a message is redriven before that needs force: what
	// failed that often will fail again.
	MaxRedrives = 3
	// MinArchived is the shortest body that may be too large for the archive. What
	// can be run is archived whatever its size, so that it can be redriven; what is
	// over this and over the engine's own limit stays in its queue. (A broker takes
	// 100 MiB; a store that lists and answers quickly should not hold them.)
	MinArchived = 1 << 20
)

// DeadLetter is what the archive lists of one. Times are UTC and kept in
// milliseconds; the zero time is "not set".
type DeadLetter struct {
	// Key names the letter. It is made of the message's id, hop, type and body, so
	// one that comes twice has one key, and two messages that share an id have two.
	Key   string
	ID    string // of the message; the broker's own if it had none that can be used
	Type  string // "" if it had none
	Level int    // 0 to 9: its priority
	Hop   int    // of the letter; negative if that cannot be read
	Why   Failure
	// Queue is where it was found, Origin where the message was before it died.
	Queue, Origin string
	DeadAt        time.Time
	Size          int // of the body, in bytes
	// Stays says that it is too large to be archived: it has no content here and
	// stays in Queue.
	Stays     bool
	Redrives  int // how often its id had been redriven before it died this time
	State     LetterState
	ChangedAt time.Time // when State became what it is
	ExpiresAt time.Time // when the store may forget it; not set while it is kept
}

// Failure is why a message became a dead letter.
type Failure struct {
	Reason      string // a reason code
	Detail      string // one line, at most MaxDetailBytes
	Fingerprint string // of its kind of failure: see [FingerprintOf]
	// Attempts is how many attempts the last round had, Redeliveries how many
	// rounds there were before; Handler the plugin that had it last, with its
	// version; "" if none had.
	Attempts, Redeliveries int
	Handler                string
	FirstFailedAt          time.Time
}

// Content is what is kept of a letter apart from what is listed.
type Content struct {
	Headers map[string]string // STOMP header names, as they came
	Body    []byte
}

// LetterQuery asks for dead letters. Its zero value asks for none, for Limit is 0.
type LetterQuery struct {
	After LetterPlace // the list begins after it; zero: at the start
	Limit int         // how many there are at the most
	// What they must be; empty ones, nil and zero times choose all.
	ID, Type, Reason, Fingerprint string
	State                         LetterState
	Level                         *int
	Since, Until                  time.Time // DeadAt, from Since on and before Until
}

// Matches says whether the question is about the letter, wherever it is in the list.
func (q LetterQuery) Matches(l DeadLetter) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	return is(q.ID, l.ID) && is(q.Type, l.Type) && is(q.Reason, l.Why.Reason) && is(q.Fingerprint, l.Why.Fingerprint) &&
		is(string(q.State), string(l.State)) && (q.Level == nil || *q.Level == l.Level) &&
		!l.DeadAt.Before(q.Since) && (q.Until.IsZero() || l.DeadAt.Before(q.Until))
}

// LetterPlace is where a listing of letters goes on.
type LetterPlace struct {
	DeadAt time.Time
	Key    string
}

// LetterChange ends the care for a letter.
type LetterChange struct {
	Key   string
	State LetterState // LetterRedriven or LetterDropped
	Now   time.Time
}

// Allowed is its guard: nobody has looked after it yet.
func (c LetterChange) Allowed(l DeadLetter) bool { return l.State == LetterKept }

// Apply is the letter after it. The content of one that is dropped is forgotten.
func (c LetterChange) Apply(l DeadLetter) DeadLetter {
	l.State, l.ChangedAt, l.ExpiresAt = c.State, c.Now, c.Now.Add(LetterTTL)
	return l
}

// Tally is how many letters of one reason wait for somebody.
type Tally struct {
	Reason string
	Count  int
	Oldest time.Time // the DeadAt of the oldest
}

// The broker's headers on what it dead-letters itself.
const (
	headerOldExpires = "originalExpiration"      // epoch milliseconds, or 0
	headerCause      = "dlqDeliveryFailureCause" // in its own words
	headerOldQueue   = "original-destination"
)

// DeadLetterOf reads a delivery from a queue of dead letters: ours, or one where
// the broker puts what has expired and what a client has refused. It always gives
// a letter, however broken the headers are. The content's map and slice are the
// delivery's.
func DeadLetterOf(d Delivery, queue string, now time.Time) (DeadLetter, Content) {
	m := understand(d, len(d.Body), now)
	h := d.Headers
	l := DeadLetter{
		ID: m.id, Type: m.typ, Level: m.priority, Hop: m.hop, Queue: queue, Origin: either(h, HeaderOrigin, headerOldQueue),
		DeadAt: toMillis(now), Size: len(d.Body), Redrives: readCount(h, HeaderRedrives, 0, nobodyIsBlamed),
		State: LetterKept, ChangedAt: toMillis(now),
	}
	l.Origin = strings.TrimPrefix(l.Origin, "/queue/")
	if sent := readMillis(h, HeaderTimestamp, nobodyIsBlamed); queue == DeadQueue && !sent.IsZero() {
		l.DeadAt = sent
	}
	l.Why = Failure{
		Reason: h[HeaderDeadReason], Detail: handlers.OneLine(h[HeaderDeadDetail], MaxDetailBytes), Handler: handlers.OneLine(h[HeaderHandler], MaxIDBytes),
		Attempts: m.attempts, Redeliveries: m.rounds,
	}
	if !m.firstFailed.IsZero() {
		l.Why.FirstFailedAt = toMillis(m.firstFailed.UTC())
	}
	if l.Why.Reason == "" {
		l.Why.Reason, l.Why.Detail = brokersReason(h, now)
	}
	l.Why.Reason = handlers.OneLine(l.Why.Reason, MaxIDBytes)
	l.Why.Fingerprint = FingerprintOf(l.Type, l.Why.Reason, withoutID(l.Why.Detail, l.ID))
	content := Content{Headers: h, Body: d.Body}
	if size, over := h[HeaderTooLarge]; over {
		l.Stays = true
		l.Size, _ = strconv.Atoi(size) // the adapter's own number
		content = Content{}
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%s\x00%s\x00%d", l.ID, l.Hop, l.Type, m.digest, l.Size))
	l.Key = hex.EncodeToString(sum[:12])
	return l, content
}

// nobodyIsBlamed for the headers of a letter: it is dead already.
func nobodyIsBlamed(string, string, ...any) {}

// brokersReason is why the broker dead-lettered a message: it does not say in a code.
func brokersReason(h map[string]string, now time.Time) (reason, detail string) {
	cause := handlers.OneLine(h[headerCause], MaxDetailBytes/2)
	expires := readMillis(h, headerOldExpires, nobodyIsBlamed)
	switch {
	case strings.Contains(cause, "Expired"), cause == "" && !expires.IsZero() && expires.Before(now):
		return ReasonExpired, "it waited in the broker past its time, " + expires.Format(time.RFC3339)
	case cause != "":
		return ReasonRefused, "the broker gave it up: " + cause
	}
	return ReasonRefused, "a client of the broker refused it (NACK), or sent it here"
}
