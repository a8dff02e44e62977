package broker

import (
	"errors"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/stompframe"
)

// Defaults of Config.
const (
	DefaultWindow         = 1000 // as ActiveMQ's queue prefetch
	DefaultHeartBeat      = time.Second
	DefaultConnectTimeout = 30 * time.Second
	DefaultMaxConnections = 1024
	DefaultCacheBytes     = 64 << 20
)

// Bounds that are no settings.
const (
	sweepEvery          = 30 * time.Second // between searches for expired messages
	clockEvery          = time.Minute      // between looks at the clock for the schedule: it may have been set
	releaseAtOnce       = 1024             // scheduled messages in one transaction
	outDeliveries       = 256              // deliveries that wait for a connection's writer
	outBytes            = 1 << 20          // their bytes
	frontFrames         = 1024             // receipts and commits a connection may have outstanding
	frontBytes          = 1 << 20          // bytes a connection may have with the committer
	maxDestinations     = 10_000
	maxDestinationBytes = 512
	maxSubscriptions    = 1024            // of one connection
	maxTransactions     = 100             // open ones of one connection
	maxTransactionBytes = 64 << 20        // in all of them
	closeGrace          = 5 * time.Second // for the last frames of a connection to go out
)

// Config is what Open needs. The zero value of a field stands for its default.
type Config struct {
	// Dir is the state folder; it is made if it is missing. Required. One
	// process at a time can have it open.
	Dir string
	// MaxBodyBytes is the longest body taken. Default 4 MiB.
	MaxBodyBytes int
	// Window is how many un-acked messages a subscription may have that names
	// no activemq.prefetchSize. Default 1000.
	Window int
	// HeartBeat is the shortest interval offered for heart-beats, both ways
	// (STOMP 1.2, Heart-beating): the longer of the two sides' counts. Default
	// 1 s; negative: none.
	HeartBeat time.Duration
	// ConnectTimeout is how long a new connection may take to send its CONNECT.
	// Default 30 s.
	ConnectTimeout time.Duration
	// MaxConnections is how many connections may be open. Default 1024.
	MaxConnections int
	// CacheBytes is how much of the waiting messages' headers and bodies is kept
	// in memory; the rest is read back when it is due. As much again is the
	// bound for what waits in temporary queues. Default 64 MiB.
	CacheBytes int64
	// WorkQueue is the queue whose messages go to WorkQueue.p0 to WorkQueue.p9
	// by their priority. Default engine.WorkQueue.
	WorkQueue string
	// Log is told of what an operator should know.
	Log zerolog.Logger
}

func (c Config) withDefaults() Config {
	c.MaxBodyBytes = orDefault(c.MaxBodyBytes, stompframe.DefaultBodyBytes)
	c.Window = orDefault(c.Window, DefaultWindow)
	c.HeartBeat = orDefault(c.HeartBeat, DefaultHeartBeat)
	c.ConnectTimeout = orDefault(c.ConnectTimeout, DefaultConnectTimeout)
	c.MaxConnections = orDefault(c.MaxConnections, DefaultMaxConnections)
	c.CacheBytes = orDefault(c.CacheBytes, DefaultCacheBytes)
	c.WorkQueue = orDefault(c.WorkQueue, engine.WorkQueue)
	return c
}

// validate reports all that is wrong at once.
func (c Config) validate() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("broker: Dir is required"))
	}
	if c.MaxBodyBytes < 0 || c.Window < 0 || c.ConnectTimeout < 0 || c.MaxConnections < 0 || c.CacheBytes < 0 {
		errs = append(errs, errors.New("broker: MaxBodyBytes, Window, ConnectTimeout, MaxConnections and CacheBytes must be positive"))
	}
	return errors.Join(errs...)
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
