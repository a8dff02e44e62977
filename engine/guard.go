package engine

import (
	"strings"
	"time"
)

// What record writes do, for stores that can read a record and write it back in
// one transaction. Stores that cannot express the same as conditions; the
// conformance suite holds them to it.

// guard is the condition that every record write has beside that it is the
// message's own record: not finished, and no later hop. A dead message may be written by a later hop: it was redriven. A
// record that does not exist is the zero Record, which any hop may write.
func guard(r Record, hop int) bool {
	if r.State == Dead {
		return r.Hop < hop
	}
	return !r.State.Final() && r.Hop <= hop
}

// of says whether the record can be that of a message, as far as is known of both.
func (r Record) of(typ, digest string) bool {
	return r.Digest == "" || r.Type == typ && (digest == "" || r.Digest == digest)
}

// owner is the engine that a token is of.
func owner(token string) string {
	if i := strings.LastIndexByte(token, '-'); i >= 0 {
		return token[:i]
	}
	return token
}

// Allowed is the guard of a claim: that of every write, and either it renews the
// record's own claim, or the message is due and nobody else's claim is live.
// (Moving a message to a later time does not stop the attempt that runs.)
func (c Claim) Allowed(r Record) bool {
	return guard(r, c.Hop) && r.of(c.Type, c.Digest) && (r.Claim.Token == c.Mark.Token && c.Mark.Token != "" ||
		!r.Due.After(c.Now) && !r.Claim.Live(c.Now))
}

// Apply is the record after an allowed claim. A claim that nobody has ended, and that
// another engine had, is that one's death.
func (c Claim) Apply(r Record) Record {
	r = seen(r, c.ID, c.Type, c.Digest, c.Priority)
	if r.Claim.Token != c.Mark.Token {
		r.Claims++
		if r.Claim.Alone && owner(r.Claim.Token) != owner(c.Mark.Token) {
			r.Deaths++
		}
	}
	r.Claim, r.State, r.Hop, r.Bucket, r.UpdatedAt = c.Mark, Processing, c.Hop, "", c.Now
	return r
}

// Allowed is the guard of a write; one that takes a claim back also needs that
// to be the record's.
func (c Change) Allowed(r Record) bool {
	return guard(r, c.Hop) && r.of(c.Type, c.Digest) && (c.TakeBack == "" || r.Claim.Token == c.TakeBack)
}

// Apply is the record after an allowed write.
func (c Change) Apply(r Record) Record {
	r = seen(r, c.ID, c.Type, c.Digest, c.Priority)
	if c.TakeBack != "" {
		r.Claims--
	}
	r.Claim = ClaimMark{}
	r.State, r.Hop, r.Token, r.Reason = c.State, c.NextHop, c.Token, c.Reason
	r.Attempts, r.Redeliveries, r.Crashes, r.Deaths, r.Bucket = c.Attempts, c.Redeliveries, c.Crashes, c.Deaths, c.Bucket
	if c.DueBy != ByNone && (r.DueBy != ByOperator || !r.Due.After(c.Now)) {
		r.Due, r.DueBy = c.Due, c.DueBy
	}
	if r.GatedAt.IsZero() {
		r.GatedAt = c.Now // rule and header are not applied to what comes back
	}
	r.UpdatedAt, r.ExpiresAt = c.Now, c.ExpiresAt
	return r
}

// Allowed is the guard of a gate: what is finished keeps its record.
func (g Gate) Allowed(r Record) bool { return !r.State.Final() }

// Apply is the record after the first sight of a message that has to wait. A
// time that is there already stays.
func (g Gate) Apply(r Record) Record {
	r = seen(r, g.ID, g.Type, g.Digest, g.Priority)
	if r.GatedAt.IsZero() {
		r.GatedAt, r.UpdatedAt = g.Now, g.Now
		if r.DueBy == ByNone {
			r.Due, r.DueBy = g.Due, g.DueBy
		}
	}
	return r
}

// CancelledBy is the record after an operator has cancelled its message, or as
// it is with the reason why he cannot: ErrNotFound, ErrFinished or ErrRunning.
func CancelledBy(r Record, expiresAt, now time.Time) (Record, error) {
	switch {
	case r.ID == "":
		return r, ErrNotFound
	case r.State.Final():
		return r, ErrFinished
	case r.Claim.Live(now):
		return r, ErrRunning
	}
	r.State, r.Bucket, r.Claim = Cancelled, "", ClaimMark{}
	r.UpdatedAt, r.ExpiresAt = now, expiresAt
	return r, nil
}

// seen fills in what a record lacks that was made before its message came, and
// opens one that was redriven.
func seen(r Record, id, typ, digest string, priority int) Record {
	if r.State == Dead {
		r.Reason, r.ExpiresAt = "", time.Time{}
		r.Attempts, r.Redeliveries, r.Crashes, r.Deaths = 0, 0, 0, 0
	}
	if r.Digest == "" {
		r.Type, r.Digest, r.Priority = typ, digest, priority
	}
	if r.State == "" {
		r.State = Queued
	}
	r.ID = id
	return r
}
