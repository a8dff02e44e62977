package ledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/stomp"
)

const (
	// quiet is how long a queue gives nothing when it counts as empty.
	quiet = 300 * time.Millisecond
	// drainWindow is how many messages of a queue are read at once.
	drainWindow = 1000
	// page is how many letters of the archive are read at once.
	page = 1000
	// maxFindings is how many findings are kept in words.
	maxFindings = 50
)

// Table is what the ledger needs of the record table; see [engine.Records].
type Table interface {
	LookUp(ctx context.Context, ids []string) (engine.Found, error)
}

// Archive is what the ledger needs of the archive of dead letters; see [engine.Archive].
type Archive interface {
	Letters(ctx context.Context, q engine.LetterQuery) ([]engine.DeadLetter, error)
}

// Evidence is where the books are closed from.
type Evidence struct {
	// Effects are the files that handlers wrote.
	Effects []string
	// Broker is host:port. Every queue of usher's there is emptied.
	Broker string
	// Table has the records.
	Table Table
	// Archive has the dead letters that a monitor took out of the broker. Nil:
	// there is no monitor. With it, a message that is dead has exactly one letter,
	// here or there.
	Archive Archive
	// Redriven says that dead letters were redriven while things were killed: then a
	// message may have died twice, once without the redrive being noted.
	Redriven bool
}

// Account is what the closed books say.
type Account struct {
	Attempted    int // messages that were sent, with or without an answer
	Acknowledged int // of them, those that the broker has acknowledged
	Done         int // acknowledged, done, and the effect is there
	Dead         int // acknowledged, dead, and a copy is in the dead-letter queue or the archive
	Lost         int // acknowledged, or to follow on what is done, and neither
	Duplicated   int // effects and dead letters that came again, under the same key
	Unexpected   int // what nobody sent, what was left, what ended as it must not
	FollowOns    int // that had to be there
	Unanswered   int // sends without an answer; most were made again, under the same id
	// Findings says in words what was lost or unexpected; the first 50.
	Findings []string
}

// Counts gives the counts in one line.
func (a Account) Counts() string {
	return fmt.Sprintf("attempted %d, acknowledged %d, done %d, lost %d, duplicated %d (same key), dead %d, unexpected %d; %d follow-ons, %d sends without an answer",
		a.Attempted, a.Acknowledged, a.Done, a.Lost, a.Duplicated, a.Dead, a.Unexpected, a.FollowOns, a.Unanswered)
}

// String gives the counts in one line, and each finding in one of its own.
func (a Account) String() string {
	return strings.Join(append([]string{a.Counts()}, a.Findings...), "\n\t")
}

// Close closes the books, when the producers have ended and nothing waits or runs
// any more. An error says that they could not be closed.
func (l *Ledger) Close(ctx context.Context, from Evidence) (Account, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := &books{sent: l.sent, effects: map[string][]Effect{}, dead: map[string][]letter{}, records: map[string]engine.Record{}}
	for _, path := range from.Effects {
		effects, err := ReadEffects(path)
		if err != nil {
			return Account{}, err
		}
		for _, e := range effects {
			b.effects[e.Key] = append(b.effects[e.Key], e)
		}
	}
	if err := b.drain(ctx, from.Broker); err != nil {
		return Account{}, err
	}
	if from.Archive != nil {
		b.once = !from.Redriven
		if err := b.readArchive(ctx, from.Archive); err != nil {
			return Account{}, err
		}
	}
	if err := b.readRecords(ctx, from.Table); err != nil {
		return Account{}, err
	}
	b.account.Attempted, b.account.Unanswered = len(l.sent), l.unknown
	b.close()
	return b.account, nil
}

// books are all that is known in the end.
type books struct {
	sent    map[string]*entry
	effects map[string][]Effect // by key
	dead    map[string][]letter // by id, in the queue and in the archive
	once    bool                // no message may have two of them
	records map[string]engine.Record
	account Account
}

// letter is why a copy is in the dead-letter queue or the archive.
type letter struct{ reason, detail string }

// drain empties every queue; only the dead-letter queue may have something.
func (b *books) drain(ctx context.Context, address string) error {
	client, err := stomp.Dial(ctx, stomp.Config{URLs: []string{"stomp://" + address}, Log: zerolog.Nop()})
	if err != nil {
		return err
	}
	defer client.Close()
	queues := []string{engine.DeadQueue, engine.WorkQueue, "DLQ." + engine.WorkQueue}
	for level := range engine.Levels {
		lane := engine.WorkQueue + ".p" + strconv.Itoa(level)
		queues = append(queues, lane, "DLQ."+lane)
	}
	found, errs := make([][]engine.Delivery, len(queues)), make([]error, len(queues))
	var all sync.WaitGroup
	for i, queue := range queues {
		all.Go(func() {
			view := stomp.View{Queue: queue, Window: drainWindow, Quiet: quiet}
			errs[i] = client.Consume(ctx, view, func(d engine.Delivery) (bool, error) {
				found[i] = append(found[i], d)
				return true, nil
			})
		})
	}
	all.Wait()
	for i, queue := range queues {
		for _, d := range found[i] {
			id := d.Headers[engine.HeaderID]
			if queue == engine.DeadQueue {
				b.dead[id] = append(b.dead[id], letter{d.Headers[engine.HeaderDeadReason], d.Headers[engine.HeaderDeadDetail]})
				continue
			}
			b.unexpectedf("%s is left in %s", id, queue)
		}
	}
	return errors.Join(errs...)
}

// readArchive adds the letters that a monitor took: from the dead-letter queue,
// for in the broker's own there may be none. Those that stay in their queue were
// found there.
func (b *books) readArchive(ctx context.Context, a Archive) error {
	q := engine.LetterQuery{Limit: page}
	for {
		letters, err := a.Letters(ctx, q)
		if err != nil {
			return err
		}
		for _, l := range letters {
			switch {
			case l.Stays, l.State == engine.LetterRedriven: // what was sent anew tells how it ended
			case l.Queue == engine.DeadQueue:
				b.dead[l.ID] = append(b.dead[l.ID], letter{l.Why.Reason, l.Why.Detail})
			default:
				b.unexpectedf("%s came into %s", l.ID, l.Queue)
			}
		}
		if len(letters) < page {
			return nil
		}
		last := letters[len(letters)-1]
		q.After = engine.LetterPlace{DeadAt: last.DeadAt, Key: last.Key}
	}
}

// readRecords looks up all that was sent, and all that may follow on it.
func (b *books) readRecords(ctx context.Context, t Table) error {
	var ids []string
	for id, e := range b.sent {
		ids = append(ids, id)
		if e.kind.FollowOn != "" {
			ids = append(ids, followOnID(id, e.kind))
		}
	}
	for batch := range slices.Chunk(ids, 100) {
		found, err := t.LookUp(ctx, batch)
		if err != nil {
			return err
		}
		maps.Copy(b.records, found.Records)
	}
	return nil
}

// close counts.
func (b *books) close() {
	known := map[string]bool{}
	for id, e := range b.sent {
		known[id] = true
		done, dead := b.ended(id, e.kind, e.acknowledged)
		if e.acknowledged {
			b.account.Acknowledged++
			b.account.Done += done
			b.account.Dead += dead
		}
		if e.kind.FollowOn == "" || b.records[id].State != engine.Done && len(b.effects[id]) == 0 {
			continue
		}
		// What follows on it must be there when it is done, and may when an engine
		// died that had done it.
		next := followOnID(id, e.kind)
		known[next] = true
		must := b.records[id].State == engine.Done
		if must {
			b.account.FollowOns++
		}
		b.ended(next, Kind{Type: e.kind.FollowOn}, must)
	}
	for key := range b.effects {
		if !known[key] {
			b.unexpectedf("%s has an effect, and nobody sent it", key)
		}
	}
	for id := range b.dead {
		if !known[id] {
			b.unexpectedf("%s is a dead letter, and nobody sent it", id)
		}
	}
}

// ended says how one message ended: done, dead, or, if it must have ended, lost.
func (b *books) ended(id string, k Kind, must bool) (done, dead int) {
	rec, effects, letters := b.records[id], b.effects[id], b.dead[id]
	b.account.Duplicated += max(len(effects)-1, 0)
	crashed := slices.ContainsFunc(letters, func(l letter) bool {
		return l.reason == engine.ReasonCrashedPlugin || l.reason == engine.ReasonPoison
	})
	switch {
	case rec.State == engine.Done && len(effects) > 0:
		done = 1
		b.account.Duplicated += len(letters)
	case rec.State == engine.Dead && len(letters) > 0:
		dead = 1
		b.account.Duplicated += len(letters) - 1
		if b.once && len(letters) > 1 {
			b.unexpectedf("%s (%s) has %d dead letters, not one: %v", id, k.Type, len(letters), letters)
		}
	case must:
		b.account.Lost++
		b.findingf("%s (%s) is lost: its record says %q, hop %d, reason %q; it has %d effects and %d dead letters", id, k.Type, rec.State, rec.Hop, rec.Reason, len(effects), len(letters))
	case rec.State != "" && !rec.State.Final():
		b.unexpectedf("%s (%s) was not acknowledged, and is %s for ever", id, k.Type, rec.State)
	}
	if len(effects) > 0 && k.Ends == Dead {
		b.unexpectedf("%s (%s) has an effect, though it always fails", id, k.Type)
	}
	if len(letters) > 0 && k.Ends == Done && !crashed {
		b.unexpectedf("%s (%s) is dead: %v", id, k.Type, letters)
	}
	for _, e := range effects {
		if e.ID != id || e.Type != k.Type {
			b.unexpectedf("%s (%s) has an effect of %s (%s)", id, k.Type, e.ID, e.Type)
		}
	}
	return done, dead
}

func (b *books) unexpectedf(format string, args ...any) {
	b.account.Unexpected++
	b.findingf(format, args...)
}

func (b *books) findingf(format string, args ...any) {
	if len(b.account.Findings) < maxFindings {
		b.account.Findings = append(b.account.Findings, fmt.Sprintf(format, args...))
	}
}
