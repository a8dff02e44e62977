package engine

import "time"

// EventKind says which step an Event tells of.
type EventKind int

// The steps that an Observer is told of.
const (
	EventReceived  EventKind = iota // a delivery came from the broker
	EventStarted                    // a message got a slot; Wait is set
	EventRan                        // its slot is free again; Run, Outcome and Reason are set
	EventSettled                    // the delivery is settled; Outcome is set
	EventSession                    // the broker session came (Epoch > 0) or went (0)
	EventHeld                       // a slot idled for order's sake; Wait is how long
	EventStoreDown                  // the record table cannot be reached; Err says why
	EventStoreUp                    // it can again
	EventReleased                   // a parked message was sent again; Wait is how late
)

// Event is one step in the life of a message, or of the engine.
type Event struct {
	Kind     EventKind
	At       time.Time
	ID       string
	Type     string
	Plugin   string
	Level    int // 0 to 9, as it was ordered by
	Lane     int // 0 to 9, or Unsorted
	Hop      int
	Attempt  int
	Of       int           // attempts there are in all
	Wait     time.Duration // in the broker and here, since it was last queued or due; when it is settled: before its last attempt
	Run      time.Duration // in the handler; when it is settled: in its last attempt
	Outcome  string        // see the Outcome constants
	Reason   string        // a reason code of a dead letter
	Detail   string        // one line on what failed
	Until    time.Time     // of a wait
	FollowOn int           // messages sent with it
	Trace    string        // the traceparent it came with, when it is settled
	Epoch    uint64
	Err      error
}

// The outcomes of a settled delivery, and of an attempt that ended (these are
// done, retried, deferred, dead_lettered, dropped, cancelled, crashed, and held where
// the breaker of its type is open).
const (
	OutcomeDone         = "done"
	OutcomeRetried      = "retried"       // goes back to the ready queue, or waits to be redelivered
	OutcomeDeferred     = "deferred"      // waits, and no attempt was counted
	OutcomeDelayed      = "delayed"       // not due yet: waits at the gate
	OutcomeLimited      = "limited"       // its type is at its limit: waits for its turn
	OutcomeHeld         = "held"          // its type is held: waits until it is not
	OutcomeHandedOn     = "handed_on"     // had no slot here for a while: another engine may have one
	OutcomeDeadLettered = "dead_lettered" // with its Reason
	OutcomeDropped      = "dropped"       // the handler had nothing to do
	OutcomeCancelled    = "cancelled"     // an operator has stopped it
	OutcomeDuplicate    = "duplicate"     // the same message was finished before
	OutcomeStale        = "stale"         // a later copy exists
	OutcomeCrashed      = "crashed"       // the plugin process died with it
	OutcomeNotStarted   = "not_started"   // there was no plugin process to take it, or another engine has it
	OutcomeHandedBack   = "handed_back"   // the engine stopped: the broker delivers it again
)
