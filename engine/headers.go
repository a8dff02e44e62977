package engine

import "strconv"

// Header names of the message contract. All are legal JMS names, so that a
// producer needs nothing but its own STOMP or JMS client.
const (
	HeaderType        = "type"
	HeaderCEType      = "cloudEvents_type"
	HeaderPriority    = "priority"
	HeaderID          = "usher_id"
	HeaderCEID        = "cloudEvents_id"
	HeaderNotBefore   = "usher_notBefore"
	HeaderDelay       = "usher_delay"
	HeaderExpires     = "expires"
	HeaderContentType = "content-type"
)

// Headers of the broker, on what it delivers or schedules.
const (
	HeaderMessageID      = "message-id"
	HeaderTimestamp      = "timestamp"
	HeaderRedelivered    = "redelivered"
	HeaderScheduledDelay = "AMQ_SCHEDULED_DELAY" // milliseconds
	HeaderScheduledJob   = "scheduledJobId"
)

// Headers that only usher sets, on the copies it sends.
const (
	HeaderHop          = "usher_hop"
	HeaderAttempts     = "usher_attempts"     // of this round
	HeaderRedeliveries = "usher_redeliveries" // rounds before this one
	HeaderQueuedAt     = "usher_queuedAt"     // epoch milliseconds
	HeaderExpiresAt    = "usher_expires"      // epoch milliseconds
	HeaderOrigin       = "usher_origin"       // the queue it came from
	HeaderParent       = "usher_parent"       // id of the message that emitted it
	HeaderRedrives     = "usher_redrives"     // how often it was redriven
)

// HeaderProbe marks, together with TypeProbe and an empty body, a message that
// usher sends itself to see which lane it comes out of. It is nobody's work:
// adapters take it before the engine sees it.
const HeaderProbe = "usher_probe"

// headerTrace is the W3C's: which trace a message belongs to.
const headerTrace = "traceparent"

// TypeProbe is the type of such a message, TypeNudge that of what engines tell each
// other on the ControlTopic.
const (
	TypeProbe = "usher.probe"
	TypeNudge = "usher.nudge"
)

// Headers that only usher sets, on dead letters.
const (
	HeaderDeadReason    = "usher_deadReason"
	HeaderDeadDetail    = "usher_deadDetail"    // one line, at most 1 KiB
	HeaderFirstFailedAt = "usher_firstFailedAt" // RFC 3339
	HeaderHandler       = "usher_handler"       // the plugin that had it last, and its version
)

// Queue names. The broker's own dead-letter queue of a queue is called like it,
// after BrokersDead.
const (
	WorkQueue   = "usher.work"
	DeadQueue   = "usher.dead"
	BrokersDead = "DLQ."
)

// ControlTopic is where engines tell each other what only one of them has seen.
const ControlTopic = "usher.control"

// DeadQueues are all the queues where messages of a work queue end that nobody
// will run: ours first, then the broker's own.
func DeadQueues(work string) []string {
	queues := []string{DeadQueue, BrokersDead + DeadQueue, BrokersDead + work}
	for level := Levels - 1; level >= 0; level-- {
		queues = append(queues, BrokersDead+work+".p"+strconv.Itoa(level))
	}
	return queues
}

// Reason codes of dead letters; with permanent:<code> of the author's, the list is closed.
const (
	ReasonNoType        = "no_type"
	ReasonUnknownType   = "unknown_type"
	ReasonBadID         = "bad_id"
	ReasonBadHeader     = "bad_header"
	ReasonTooLarge      = "too_large"
	ReasonExpired       = "expired"
	ReasonIDConflict    = "id_conflict"
	ReasonExhausted     = "exhausted"
	ReasonTimeout       = "timeout"
	ReasonCrashedPlugin = "crashed_plugin"
	ReasonPoison        = "poison"
	ReasonBadFollowOn   = "bad_follow_on"
	ReasonRefused       = "refused"    // by another client, or by the broker for another cause than time
	ReasonPermanent     = "permanent:" // a prefix
)

// Limits of the contract.
const (
	MaxIDBytes     = 512
	MaxDetailBytes = 1024
	DefaultLevel   = 4
	Levels         = 10
)
