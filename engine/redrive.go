package engine

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Redriver sends dead letters to be tried again. Its fields are required and not
// changed. It is safe for concurrent use.
type Redriver struct {
	Archive Archive
	Records interface {
		Record(ctx context.Context, id string) (Record, error)
	}
	Broker interface {
		Publish(ctx context.Context, out Outgoing) error
	}
	Queue string // where they go, for example "usher.work"
}

// RedriveError says why a dead letter was not redriven; it stays as it is.
type RedriveError struct {
	Code   string // one of the Refused constants
	Detail string // in one line, for people
	Hint   string // what to do
}

// Why a dead letter is not redriven.
const (
	RefusedSettled    = "settled"      // it was redriven or dropped
	RefusedStays      = "stays"        // the archive has no content of it
	RefusedLoop       = "redrive_loop" // it was redriven MaxRedrives times
	RefusedDone       = "done_already" // the message is done
	RefusedCancelled  = "cancelled"    // the message was cancelled
	RefusedSuperseded = "superseded"   // a later copy of the message exists
	RefusedConflict   = "id_conflict"  // the id is another message's
)

// Error says why.
func (r *RedriveError) Error() string { return r.Detail }

// Redrive sends the message of a dead letter as a copy with the next hop and fresh
// attempts, under its id and level, and then notes that in the archive. In that
// order: a crash in between leaves the letter as it was, and redriving it again
// sends the same copy, of which one has effect. With force a letter is redriven
// however often its message was.
//
// It returns the letter as it is then. The error is ErrNotFound, a *RedriveError,
// or that of a store or of the broker; after the latter the copy may have been sent.
func (r *Redriver) Redrive(ctx context.Context, key string, force bool) (DeadLetter, error) {
	l, content, err := r.Archive.Letter(ctx, key)
	if err != nil {
		return DeadLetter{}, err
	}
	if err := r.may(ctx, l, content, force); err != nil {
		return l, err
	}
	if err := r.Broker.Publish(ctx, Redriven(l, content, r.Queue, time.Now())); err != nil {
		return l, err
	}
	l, err = r.Archive.Settle(ctx, LetterChange{Key: key, State: LetterRedriven, Now: time.Now()})
	if errors.Is(err, ErrGuarded) {
		return l, nil // somebody else was as quick; there are two copies of one hop
	}
	return l, err
}

// may says why a letter is not to be redriven; nil: it is.
func (r *Redriver) may(ctx context.Context, l DeadLetter, c Content, force bool) error {
	switch {
	case l.State != LetterKept:
		return &RedriveError{RefusedSettled, fmt.Sprintf("%s was %s at %s", l.ID, l.State, l.ChangedAt.Format(time.RFC3339)), ""}
	case l.Stays:
		return &RedriveError{
			RefusedStays, fmt.Sprintf("%s has %d bytes, too large for the archive and for the engine: it stays in %s", l.ID, l.Size, l.Queue),
			"drop it, or send a smaller message in its place",
		}
	case l.Redrives >= MaxRedrives && !force:
		return &RedriveError{
			RefusedLoop, fmt.Sprintf("%s was redriven %d times and died each time", l.ID, l.Redrives),
			"mend what makes it fail, then redrive it with force",
		}
	}
	rec, err := r.Records.Record(ctx, l.ID)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return refusedBy(rec, l, DigestOf(c.Body))
}

// refusedBy is what the record has against redriving a letter.
func refusedBy(rec Record, l DeadLetter, digest string) error {
	switch {
	case rec.Digest != "" && (rec.Digest != digest || rec.Type != l.Type):
		return &RedriveError{
			RefusedConflict, fmt.Sprintf("%s is the id of another message as well, of type %s, which is %s", l.ID, rec.Type, rec.State),
			"send it anew under another id: its headers and body can be exported",
		}
	case rec.State == Done:
		return &RedriveError{RefusedDone, l.ID + " is done already", "nothing is left to do: drop the letter"}
	case rec.State == Cancelled:
		return &RedriveError{RefusedCancelled, l.ID + " was cancelled", "nothing is left to do: drop the letter"}
	case rec.Hop > l.Hop:
		return &RedriveError{
			RefusedSuperseded, fmt.Sprintf("a later copy of %s exists, which is %s", l.ID, rec.State),
			"look after that one; this letter can be dropped",
		}
	}
	return nil
}
