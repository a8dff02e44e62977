package live

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/watchtoken"
)

// Defaults of Config.
const (
	DefaultMaxConnections   = 1024
	DefaultMaxPerAddress    = 64
	DefaultMaxSubscriptions = 100
	DefaultPing             = 25 * time.Second
	DefaultWriteTimeout     = 10 * time.Second
)

const (
	watchFor     = 15 * time.Minute // a watcher whose hub has died is told for no longer
	renewEvery   = watchFor / 3
	askWithin    = 30 * time.Second // a client that needs a token takes a place for no longer without one
	tableTimeout = 5 * time.Second  // for one call of the record table
	closeGrace   = 2 * time.Second  // for clients to take what is left and to answer the close
	maxBadFrames = 10
)

// Table is what the hub needs of the record table; see [engine.Table].
type Table interface {
	Watch(ctx context.Context, id string, w engine.Watcher) (engine.Record, error)
	Unwatch(ctx context.Context, id, connection string) error
}

// Config is what a Hub is made from. Table is required; the rest has defaults.
type Config struct {
	// Table keeps who watches which message.
	Table Table
	// NudgeFunc asks the engine that has the message in hand to tell a new
	// watcher where it is, as [engine.Engine.Watch] does. It may be called
	// concurrently and must come back soon. Nil: nobody is asked.
	NudgeFunc func(id string, w engine.Watcher)
	// Origins are the web origins, exactly as a browser sends them
	// ("https://shop.example"), whose pages may connect besides pages of the
	// server's own host. Clients that send no Origin are no browsers and may.
	Origins []string
	// Keys are those of the tokens that a client needs for each message that it
	// wants to watch. None: whoever may connect may watch everything.
	Keys watchtoken.Keys
	// Stage is what tokens are for. Required with Keys.
	Stage string
	// MaxConnections is how many clients there are at once. Default 1024.
	MaxConnections int
	// MaxPerAddress is how many of them have the same address (in IPv6, the same
	// first 64 bits). Default 64.
	MaxPerAddress int
	// MaxSubscriptions is how many messages one client watches at once. Default 100.
	MaxSubscriptions int
	// Ping is how often a client is asked whether it is there. Default 25 s.
	Ping time.Duration
	// WriteTimeout is how long a client may take to accept a frame, or to
	// answer a ping, before its connection is cut. Default 10 s.
	WriteTimeout time.Duration
	// RefusedFunc is called with the cause of each refusal, one of a few words. It
	// may be called concurrently and must not block. Nil: nobody is told.
	RefusedFunc func(cause string)
	// Log gets what a Hub cannot answer to anybody.
	Log zerolog.Logger
}

func (c Config) withDefaults() Config {
	if c.NudgeFunc == nil {
		c.NudgeFunc = func(string, engine.Watcher) {}
	}
	if c.RefusedFunc == nil {
		c.RefusedFunc = func(string) {}
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = DefaultMaxConnections
	}
	if c.MaxPerAddress == 0 {
		c.MaxPerAddress = DefaultMaxPerAddress
	}
	if c.MaxSubscriptions == 0 {
		c.MaxSubscriptions = DefaultMaxSubscriptions
	}
	if c.Ping == 0 {
		c.Ping = DefaultPing
	}
	if c.WriteTimeout == 0 {
		c.WriteTimeout = DefaultWriteTimeout
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	if c.Table == nil {
		errs = append(errs, errors.New("live: Table is required"))
	}
	if c.MaxConnections < 0 || c.MaxPerAddress < 0 || c.MaxSubscriptions < 0 || c.Ping < 0 || c.WriteTimeout < 0 {
		errs = append(errs, errors.New("live: MaxConnections, MaxPerAddress, MaxSubscriptions, Ping and WriteTimeout must not be negative"))
	}
	if c.Keys.Any() && !watchtoken.ValidName(c.Stage) {
		errs = append(errs, fmt.Errorf("live: the stage %q is not 1 to 64 of A-Z a-z 0-9 _ -", c.Stage))
	}
	for _, origin := range c.Origins {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme == "" || u.Host == "" || origin != u.Scheme+"://"+u.Host {
			errs = append(errs, fmt.Errorf("live: the origin %q is not of the form https://host or https://host:port", origin))
		}
	}
	return errors.Join(errs...)
}
