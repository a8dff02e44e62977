package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"usher/handlers"
)

// Broker is where messages come from and where copies go. Its methods are safe
// for concurrent use. It does not retry: the engine does.
type Broker interface {
	// Receive blocks until there are deliveries, the session changes, or ctx
	// ends. What it returns belongs to the caller. One goroutine calls it, and
	// always comes back soon: what a window allows is all that waits in between.
	// The error is ctx's, or final: the broker was closed.
	Receive(ctx context.Context) (Batch, error)
	// Ack settles a delivery. It does not wait for the broker: an ack that is
	// lost means a redelivery. For a delivery of an older session it does
	// nothing and returns nil. It copies nothing and keeps nothing of d.
	Ack(d Delivery) error
	// Publish sends one persistent message and returns nil when the broker has
	// said that it is durable. After any error the message may or may not have
	// been sent. Headers and Body must not be changed until it returns.
	Publish(ctx context.Context, out Outgoing) error
	// Depths asks the broker how many messages wait in each lane.
	// ErrNoStatistics means that this broker does not tell.
	Depths(ctx context.Context) (Depths, error)
}

// ErrNoStatistics is returned by Broker.Depths of a broker that does not tell.
var ErrNoStatistics = errors.New("the broker gives no statistics")

// Unsorted is the lane of a delivery that came from the work queue itself and
// not from the lane of a level.
const Unsorted = -1

// Batch is what came at once from one broker session.
type Batch struct {
	// Epoch numbers sessions from 1 and only grows. 0 says: there is no session
	// now, and whatever is un-acked will be delivered again.
	Epoch      uint64
	Deliveries []Delivery
}

// Delivery is one message in hand, to be acked once.
type Delivery struct {
	Epoch       uint64            // the session it came in
	Lane        int               // 0 to 9, or Unsorted
	BrokerID    string            // the broker's message-id; the same when it is redelivered
	Redelivered bool              // the broker says that it was delivered before
	Headers     map[string]string // as the broker gave them; the receiver's to keep
	Body        []byte            // the receiver's to keep
	Ack         string            // what Broker.Ack needs; opaque to the engine
}

// Outgoing is one message to send.
type Outgoing struct {
	Queue   string            // for example "usher.work"
	Headers map[string]string // STOMP header names; the adapter adds what the protocol needs
	Body    []byte
}

// Depths is a broker's answer to how much waits.
type Depths struct {
	// At is when the question was asked, by our own clock.
	At time.Time
	// Epoch is the session it was asked in. The answer holds once the session's
	// first After deliveries have been received: it counts those as in flight.
	Epoch uint64
	After uint64
	// Lanes has an entry for each lane that the broker knows, Unsorted included.
	Lanes map[int]Depth
	// Dead is the queue of dead letters, as it was about a second ago; nil: not known.
	Dead *Depth
}

// Depth is the state of one queue.
type Depth struct {
	Size     int // messages in it, those in somebody's hand included
	InFlight int // of them delivered and not yet acked
	// Oldest is when the first of them came to the broker, as it was up to 10 s ago;
	// zero: there is none, or it is not known.
	Oldest time.Time
}

// Records is what the engine needs of the record table: one item a message,
// keyed by id. Methods are safe for concurrent use and block until the store
// has answered or ctx ends; after an error other than ErrGuarded a write may or
// may not have landed. They do not retry. What they return is the caller's.
type Records interface {
	// LookUp reads the records of up to 100 distinct ids at once, perhaps a
	// little stale. An id without a record is absent from the answer.
	LookUp(ctx context.Context, ids []string) (Found, error)
	// Gate notes the first sight of a delayed message: it sets Due, DueBy and
	// GatedAt where they are not set yet and returns the record, whose Due
	// decides. Where an operator came first, his Due stays. A missing record is
	// made; a finished one is returned as it is. See [Gate.Apply].
	Gate(ctx context.Context, g Gate) (Record, error)
	// Claim takes the message for one delivery, if the guard holds: see
	// [Claim.Allowed] and [Claim.Apply]. It sets the claim, adds one to Claims unless the token
	// was the record's claim already (then it is renewed), moves the record to
	// the claim's hop and state processing, and returns the record. ErrGuarded
	// comes with the record as it is. A missing record is made.
	Claim(ctx context.Context, c Claim) (Record, error)
	// Write moves the record on, if the guard holds: see [Change.Allowed] and [Change.Apply]. It
	// ends any claim and returns the record with its watchers. ErrGuarded comes
	// with the record as it is. A missing record is made.
	Write(ctx context.Context, c Change) (Record, error)
}

// ErrGuarded says that the guard of a record write did not hold. The record
// returned with it tells why.
var ErrGuarded = errors.New("the record has moved on")

// ErrNotFound says that there is no record of the id.
var ErrNotFound = errors.New("not seen")

// ErrFinished says that the message is done, dead or cancelled already.
var ErrFinished = errors.New("the message is finished")

// Schedule is what operators do with what waits. The same rules hold as for Records.
type Schedule interface {
	// SetDue moves a message to another time in an operator's name, before or
	// after its first sight. ErrFinished if it is in a final state. A missing
	// record is made, in state queued.
	SetDue(ctx context.Context, id string, due time.Time) (Record, error)
	// Cancel ends a message that is not running, in an operator's name: its state
	// is cancelled, and it expires at the given time. ErrFinished, with the record
	// as it is, if it is in a final state; ErrRunning if a claim of it is live;
	// ErrNotFound if there is no record.
	Cancel(ctx context.Context, id string, expiresAt time.Time) (Record, error)
	// Waiting lists the records in state delayed or retrying that the question is
	// about, by the time they are due. The list goes on after its last one; one
	// that is shorter than the limit is the last.
	Waiting(ctx context.Context, q Waits) ([]Record, error)
}

// Table is what servers do with the records. The same rules hold as for Records.
type Table interface {
	// Record reads one record, never stale. ErrNotFound if there is none.
	Record(ctx context.Context, id string) (Record, error)
	// Watch adds a watcher, or renews the one of the same connection, and
	// returns the record. A missing record is made, in state queued. Of more
	// than MaxWatchers the one that ends first is dropped.
	Watch(ctx context.Context, id string, w Watcher) (Record, error)
	// Unwatch removes a watcher; it is no error if it, or the record, is not there.
	Unwatch(ctx context.Context, id, connection string) error
}

// ErrRunning says that the message is in a handler.
var ErrRunning = errors.New("the message is running")

// Waits asks for records that wait.
type Waits struct {
	After  Place     // the list begins after it; zero: at the start
	Limit  int       // how many there are at the most
	Type   string    // of this type; "": of all
	Level  *int      // of this priority; nil: of all
	Before time.Time // due before then; zero: whenever
}

// Place is where a listing of waiting records goes on.
type Place struct {
	Due time.Time
	ID  string
}

// Found is the answer to a look-up.
type Found struct {
	Records map[string]Record
	// Now is the store's clock: what is due is decided by it.
	Now time.Time
}

// Notifier tells the people who watch. Notify never blocks and never fails: a
// watcher who is slow gets the latest status, one who is gone is forgotten.
type Notifier interface {
	Notify(watchers []Watcher, s Status)
}

// Handler runs messages and says who would run what. Its methods are safe for
// concurrent use and, but for HandleMessage, do not block.
type Handler interface {
	// HandleMessage runs one attempt and returns when the message is not
	// running any more, which can be after ctx has ended: a plugin is cancelled
	// first and its process killed if that does not help. ErrPluginLost (wrapped)
	// says that the process died with the message in hand, ErrPluginAway that
	// none had it.
	handlers.Handler
	// Plugin names the plugin that serves the type; false if none does.
	Plugin(typ string) (string, bool)
	// Credit is how many messages the plugin takes at once now, those that it
	// has included; 0 while it is down.
	Credit(plugin string) int
	// Changed is signalled, merged into one, after a credit or a route changed.
	// One goroutine receives from it.
	Changed() <-chan struct{}
}

// Versioned is a Handler that knows versions, which dead letters tell.
type Versioned interface {
	// Version is what a plugin last said that it is; "": it did not. It does not
	// block and may be called concurrently.
	Version(plugin string) string
}

// Holder is a Handler that has the messages of some types wait.
type Holder interface {
	// Holds says whether messages of the type are to wait outside the engine now,
	// because its plugin does not serve it yet, or crashes too often; and if so,
	// whether one message of the plugin may run, to find out. It does not block and
	// may be called concurrently.
	Holds(typ string) (hold, probe bool)
}

// Prober is a Handler that has a process apart for messages under suspicion.
type Prober interface {
	// HandleAlone is HandleMessage in a process of the message's plugin that has no
	// other message. Its crashes are not the plugin's. One message of a plugin at a time.
	HandleAlone(ctx context.Context, m *handlers.Message) error
}

// ErrPluginLost says that a plugin's process ended, or could not be reached,
// while it had the message. It is nobody's attempt.
var ErrPluginLost = errors.New("the plugin process was lost")

// ErrPluginAway is the ErrPluginLost of a message that no process had: nothing
// was started.
var ErrPluginAway = fmt.Errorf("%w before it had the message", ErrPluginLost)

// Control is how engines tell each other what only one of them has seen.
type Control interface {
	// Tell tells all engines that listen now, and returns when the broker has it.
	Tell(ctx context.Context, n Nudge) error
	// Nudges gives what others tell, and what was told here. What is not taken in time
	// is lost, the oldest first.
	Nudges() <-chan Nudge
}

// Observer is told of each step for metrics, logs and displays. Observe never blocks.
type Observer interface {
	Observe(Event)
}
