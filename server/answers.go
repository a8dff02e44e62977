package server

import (
	"encoding/json"
	"time"

	"usher/engine"
)

// Message is the answer of /api/v1/messages/{id}: what is known of a message.
type Message struct {
	ID string `json:"id"`
	// Type and Priority are absent until the message was seen.
	Type     string       `json:"type,omitempty"`
	Priority *int         `json:"priority,omitempty"`
	State    engine.State `json:"state"`
	// Seen is false while only operators and watchers have named the id.
	Seen bool `json:"seen"`
	Hop  int  `json:"hop"`
	// ProcessingTimestamp is the time before which it does not run, in Unix
	// milliseconds; ProcessingTime is the same for people. SetBy is who set it.
	ProcessingTimestamp *int64       `json:"processingTimestamp,omitempty"`
	ProcessingTime      time.Time    `json:"processingTime,omitzero"`
	SetBy               engine.DueBy `json:"setBy,omitempty"`
	Attempts            int          `json:"attempts"`
	Redeliveries        int          `json:"redeliveries"`
	// Crashes is how often its plugin's process ended with it in hand, Deaths how many
	// engines died while they ran it alone.
	Crashes int    `json:"crashes,omitempty"`
	Deaths  int    `json:"deaths,omitempty"`
	Reason  string `json:"reason,omitempty"`
	// Held says that it waits for its type, which is paused or otherwise held,
	// whenever it is due.
	Held      bool      `json:"held,omitempty"`
	UpdatedAt time.Time `json:"updatedAt,omitzero"`
	// Live is the last status from the engine of this process, while it has the
	// message in hand.
	Live *engine.Status `json:"live,omitempty"`
}

// Delay is the answer to a change of a message's time.
type Delay struct {
	Message

	// TakesEffectWithin is the longest time until a message that waits follows
	// the change, as in "30s"; Note says why.
	TakesEffectWithin string `json:"takesEffectWithin"`
	Note              string `json:"note"`
}

// DelayList is the answer of /api/v1/delays: a page of what waits, by the time it is due.
type DelayList struct {
	Items []Message `json:"items"`
	// Next is the "after" of the next page; absent on the last.
	Next string `json:"next,omitempty"`
}

// LetterList is the answer of /api/v1/dead: a page of dead letters, the youngest first.
type LetterList struct {
	Items []Letter `json:"items"`
	// Next is the "after" of the next page; absent on the last.
	Next string `json:"next,omitempty"`
}

// Letter is what is told of a dead letter without its content.
type Letter struct {
	// Key names the letter; a message that died more than once has several.
	Key           string             `json:"key"`
	ID            string             `json:"id"`
	Type          string             `json:"type,omitempty"`
	Level         int                `json:"level"`
	Hop           int                `json:"hop"`
	Reason        string             `json:"reason"`
	Detail        string             `json:"detail,omitempty"`
	Fingerprint   string             `json:"fingerprint"`
	Attempts      int                `json:"attempts"`
	Redeliveries  int                `json:"redeliveries"`
	Handler       string             `json:"handler,omitempty"`
	FirstFailedAt time.Time          `json:"firstFailedAt,omitzero"`
	DeadAt        time.Time          `json:"deadAt"`
	Queue         string             `json:"queue"`
	Origin        string             `json:"origin,omitempty"`
	Size          int                `json:"size"`
	Stays         bool               `json:"stays,omitempty"` // too large to be archived: it is in Queue
	Redrives      int                `json:"redrives"`
	State         engine.LetterState `json:"state"`
	ChangedAt     time.Time          `json:"changedAt"`
}

// LetterWhole is a dead letter with its content.
type LetterWhole struct {
	Letter

	Headers map[string]string `json:"headers,omitempty"`
	Body    []byte            `json:"body,omitempty"` // in base64
	// Text is the body with control characters escaped, the first 64 KiB of it;
	// absent if it is no UTF-8.
	Text string `json:"text,omitempty"`
}

// TallyList is the answer of /api/v1/dead/tally: what waits for somebody.
type TallyList struct {
	Items []ReasonTally `json:"items"`
	Total int           `json:"total"`
}

// ReasonTally is how many dead letters of one reason wait.
type ReasonTally struct {
	Reason string    `json:"reason"`
	Count  int       `json:"count"`
	Oldest time.Time `json:"oldest"` // when the oldest of them died
}

// QueueReport is the answer of /api/v1/queues.
type QueueReport struct {
	// Levels are all ten, 9 first.
	Levels []LevelReport `json:"levels"`
	// Unsorted is the work queue itself, where messages are that no lane took.
	Unsorted Backlog `json:"unsorted"`
	// Total is all lanes and the work queue together.
	Total Backlog `json:"total"`
	// Dead is the queue of dead letters.
	Dead Backlog `json:"dead"`
	// Running counts the messages in handlers, by plugin.
	Running map[string]int `json:"running"`
	// InHand counts the messages that this engine was given and has not settled.
	InHand int `json:"inHand"`
	// Floor is the lowest level that may be taken now: lower ones are held while
	// a higher lane is behind.
	Floor int `json:"floor"`
	// Connected says whether there is a session with the broker.
	Connected bool `json:"connected"`
	// Note says why numbers are null.
	Note string `json:"note,omitempty"`
}

// LevelReport is one priority level.
type LevelReport struct {
	Level int `json:"level"`
	Backlog
	// Ready counts the messages in this engine that may run and have no slot
	// yet, Running those that have one.
	Ready   int `json:"ready"`
	Running int `json:"running"`
}

// Backlog is what is in one queue at the broker; null is "not known".
type Backlog struct {
	Queue         string   `json:"queue"`
	Size          *int     `json:"size"`
	InFlight      *int     `json:"inFlight"`
	Waiting       *int     `json:"waiting"` // Size less InFlight
	InHand        *int     `json:"inHand"`  // of InFlight, those that this engine has not acked
	OldestSeconds *float64 `json:"oldestSeconds"`
}

// BrokerReport is the answer of /api/v1/broker: what usher relies on at its
// broker, and whether it is so.
type BrokerReport struct {
	// Connected says whether there is a session, Address with which endpoint, and
	// Since when.
	Connected bool      `json:"connected"`
	Address   string    `json:"address,omitempty"`
	Since     time.Time `json:"since,omitzero"`
	// Findings are empty without a session.
	Findings []Finding `json:"findings"`
	// Nudges are what engines have told each other, as far as it came here.
	Nudges NudgeReport `json:"nudges"`
}

// NudgeReport counts since the start what other engines told this one: in all, of it
// what could not be read, and what nobody had the time to take.
type NudgeReport struct {
	Came uint64 `json:"came"`
	Junk uint64 `json:"junk"`
	Lost uint64 `json:"lost"`
}

// Finding is one thing that was looked at.
type Finding struct {
	// Name is one word.
	Name string `json:"name"`
	// State is "ok", "failed" or "unknown": not found out, at least not yet.
	State string `json:"state"`
	// Detail is one line on what was found, Help on what to do about it.
	Detail string `json:"detail"`
	Help   string `json:"help,omitempty"`
}

// The states of a Finding.
const (
	StateOK      = "ok"
	StateFailed  = "failed"
	StateUnknown = "unknown"
)

// TypeList is the answer of /api/v1/types, in the order of their names.
type TypeList struct {
	Items []Type `json:"items"`
}

// Type is one type of messages.
type Type struct {
	Name string `json:"name"`
	// Plugin is empty if the configuration does not have the type.
	Plugin  string `json:"plugin,omitempty"`
	Ready   int    `json:"ready"`   // messages in this engine that may run and have no slot yet
	Running int    `json:"running"` // those that have one
	// Held says that its messages wait, parked: since an operator paused it, since
	// a new configuration removed it, because its plugin cannot take them now, or since
	// its attempts in this engine fail one after the other, of which Detail says why.
	Held    bool      `json:"held"`
	Paused  time.Time `json:"paused,omitzero"`
	Removed time.Time `json:"removed,omitzero"`
	Failing time.Time `json:"failing,omitzero"`
	Detail  string    `json:"detail,omitempty"`
	// Waiting is how many of its messages wait, of a type that is held; More says
	// that there are more.
	Waiting int  `json:"waiting,omitempty"`
	More    bool `json:"more,omitempty"`
}

// ConfigReport is the answer of /api/v1/config.
type ConfigReport struct {
	// Config is what is in use, as YAML has it, defaults included and secrets not.
	Config   json.RawMessage `json:"config"`
	LoadedAt time.Time       `json:"loadedAt,omitzero"`
	// Problem is what is wrong with the files as they are now; empty: nothing is.
	Problem string `json:"problem,omitempty"`
	// NeedsRestart are the keys that have changed and take effect after a restart.
	NeedsRestart []string `json:"needsRestart,omitempty"`
}

// PluginList is the answer of /api/v1/plugins.
type PluginList struct {
	Items []Plugin `json:"items"`
}

// Plugin is the state of one plugin process.
type Plugin struct {
	Name string `json:"name"`
	// State is one word of the plugin host's.
	State string `json:"state"`
	// Ready says that it takes messages.
	Ready bool     `json:"ready"`
	Types []string `json:"types"`
	PID   int      `json:"pid,omitempty"`
	// Credit is how many messages it takes at once, those that it has included.
	Credit int `json:"credit"`
	// Restarts counts how often a process of it was started after the first.
	Restarts int `json:"restarts"`
	// Crashes counts how often its process ended by itself in the last ten minutes.
	Crashes int `json:"crashes"`
	// Quarantined is since when it gets one message at a time, because it crashed too
	// often; absent if it is not.
	Quarantined time.Time `json:"quarantined,omitzero"`
	Since       time.Time `json:"since,omitzero"`
	// Error says, in one line, why it is not ready or what ended it last.
	Error string `json:"error,omitempty"`
	// Next is the process that is started to take its place; absent if none is.
	Next *Plugin `json:"next,omitempty"`
}

// Readiness is the answer of /readyz in JSON.
type Readiness struct {
	Ready  bool          `json:"ready"`
	Checks []CheckResult `json:"checks"`
}

// CheckResult is how one check went. Detail is there with ?verbose only.
type CheckResult struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}

// RouteList is the answer of /api/v1.
type RouteList struct {
	Routes []Route `json:"routes"`
}

// Route is one path and what it is for.
type Route struct {
	Path    string   `json:"path"`
	Methods []string `json:"methods"`
	About   string   `json:"about"`
}
