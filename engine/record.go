package engine

import (
	"strconv"
	"strings"
	"time"
)

// State is what people are told of a message; there are no others.
type State string

// The states.
const (
	Queued     State = "queued"     // seen, and not started
	Delayed    State = "delayed"    // waits until it is due
	Processing State = "processing" // in a handler
	Retrying   State = "retrying"   // failed, and will be tried again
	Done       State = "done"       // final
	Dead       State = "dead"       // final, unless somebody redrives it
	Cancelled  State = "cancelled"  // final
)

// Final says whether nothing more will happen by itself.
func (s State) Final() bool { return s == Done || s == Dead || s == Cancelled }

// DueBy says who set the time a message is due.
type DueBy string

// The hands that set a time, from weak to strong; Retry and Limit are the
// engine's own: the wait between attempts, and for a type that is at its limit.
const (
	ByNone     DueBy = ""
	ByRule     DueBy = "rule"
	ByHeader   DueBy = "header"
	ByOperator DueBy = "operator"
	ByRetry    DueBy = "retry"
	ByLimit    DueBy = "limit"
)

// Record is what is known of one message. Times are UTC and kept in
// milliseconds; the zero time is "not set".
type Record struct {
	ID       string
	Type     string
	Digest   string // of the body; see DigestOf; "" until a delivery was seen
	Priority int
	State    State
	// Hop is the number of the newest copy. A delivery with a lower hop is a stale twin.
	Hop int
	// Due is the time before which it does not run (the delay table's processingTimestamp).
	Due     time.Time
	DueBy   DueBy
	GatedAt time.Time // when the rule or header was applied; once
	// Bucket is the part of the due index that the message is parked in; "": it is
	// not parked.
	Bucket string
	// Attempts is how many attempts of this round have ended, Redeliveries how
	// many rounds there were before.
	Attempts     int
	Redeliveries int
	// Crashes is how often a plugin process ended with it in hand, Deaths how many
	// engines died while it ran alone in them, one after the other.
	Crashes   int
	Deaths    int
	Claim     ClaimMark
	Claims    int    // claims made in all, less those that a drain took back
	Token     string // of the last write that landed
	Reason    string // a reason code, when dead
	Watchers  []Watcher
	UpdatedAt time.Time
	ExpiresAt time.Time // when the store may forget it; set in final states only
}

// ClaimMark is who has the message in hand.
type ClaimMark struct {
	Token    string
	BrokerID string    // of the delivery
	Until    time.Time // it is void after
	Alone    bool      // nothing else runs in the engine
}

// Live says whether the claim still holds.
func (m ClaimMark) Live(now time.Time) bool { return m.Token != "" && now.Before(m.Until) }

// Watcher is one connection that is told of one message.
type Watcher struct {
	Connection string    `json:"connection"`
	Until      time.Time `json:"until"` // it is dropped after
}

// MaxWatchers is how many connections may watch one message.
const MaxWatchers = 50

// Gate is the first sight of a message that has to wait.
type Gate struct {
	ID       string
	Type     string
	Digest   string
	Priority int
	Due      time.Time
	DueBy    DueBy // ByRule or ByHeader
	Now      time.Time
}

// Claim asks for a message in the name of one delivery.
type Claim struct {
	ID       string
	Type     string
	Digest   string
	Priority int
	Hop      int
	Mark     ClaimMark
	Now      time.Time
}

// Change is one guarded write.
type Change struct {
	ID       string
	Type     string
	Digest   string
	Priority int
	// Hop is that of the delivery; NextHop the record's after the write: Hop
	// again, or Hop+1 when a copy was sent.
	Hop, NextHop int
	// Token is unique to this write, so that one whose answer was lost is
	// recognised when the record is read back.
	Token string
	State State
	// Due and DueBy are set together; ByNone leaves both as they are, and so does
	// a time that an operator has set and that is still to come.
	Due   time.Time
	DueBy DueBy
	// These replace the record's.
	Attempts, Redeliveries, Crashes, Deaths int
	Reason                                  string
	// Bucket parks the message; "" takes it out of the due index.
	Bucket string
	// TakeBack is the token of a claim to undo, with its count: a drain gives the
	// message back. "": none.
	TakeBack string
	Now      time.Time
	// ExpiresAt is for final states; the zero time keeps the record for ever.
	ExpiresAt time.Time
}

// Status is what a watcher is told; the frame of the WebSocket protocol.
type Status struct {
	V        int        `json:"v"`
	ID       string     `json:"id"`
	Seq      Seq        `json:"seq"`
	State    State      `json:"state"`
	Attempt  int        `json:"attempt,omitempty"`
	Of       int        `json:"of,omitempty"`
	NextAt   *time.Time `json:"nextAt,omitempty"`
	Progress *float64   `json:"progress,omitempty"`
	Note     string     `json:"note,omitempty"`
	At       time.Time  `json:"at"`
}

// StatusVersion is the V of every Status; it changes only when a field changes its meaning.
const StatusVersion = 1

// Seq orders the statuses of one message: by hop, then by a counter within it.
type Seq struct{ Hop, Count int }

// MarshalText gives "hop.count".
func (s Seq) MarshalText() ([]byte, error) {
	b := strconv.AppendInt(nil, int64(s.Hop), 10)
	b = append(b, '.')
	return strconv.AppendInt(b, int64(s.Count), 10), nil
}

// UnmarshalText reads what MarshalText wrote.
func (s *Seq) UnmarshalText(text []byte) error {
	hop, count, ok := strings.Cut(string(text), ".")
	if !ok {
		return strconv.ErrSyntax
	}
	var err error
	if s.Hop, err = strconv.Atoi(hop); err != nil {
		return err
	}
	s.Count, err = strconv.Atoi(count)
	return err
}

// Less says whether s is older than t.
func (s Seq) Less(t Seq) bool {
	return s.Hop < t.Hop || s.Hop == t.Hop && s.Count < t.Count
}
