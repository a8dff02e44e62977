package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
)

// Table is what the server needs of the record table; see [engine.Table].
type Table interface {
	Record(ctx context.Context, id string) (engine.Record, error)
	SetDue(ctx context.Context, id string, due time.Time) (engine.Record, error)
	Cancel(ctx context.Context, id string, expiresAt time.Time) (engine.Record, error)
	Waiting(ctx context.Context, q engine.Waits) ([]engine.Record, error)
	engine.HoldStore
}

// Broker is what the server needs of the message broker; see [engine.Broker].
type Broker interface {
	Depths(ctx context.Context) (engine.Depths, error)
}

// Engine is what the server asks the engine of its process; see [engine.Engine].
type Engine interface {
	InHand(id string) (engine.Status, bool)
	View() (engine.View, bool)
	Nudge(n engine.Nudge)
}

// What is passed in outside of tests.
var (
	_ Table = interface {
		engine.Table
		engine.Schedule
		engine.HoldStore
	}(nil)
	_ Broker = engine.Broker(nil)
	_ Engine = (*engine.Engine)(nil)
)

// Queue is what a broker in the same process knows of one of its queues.
type Queue struct {
	Name     string
	Size     int       // messages in it, those in somebody's hand included
	InFlight int       // of them delivered and not yet acked
	Oldest   time.Time // when the oldest that waits was sent; zero: none waits
}

// Check is one more condition of readiness.
type Check struct {
	// Name is one word, for example "lanes". Checks of one name are one line;
	// all of them must be well.
	Name string
	// Func returns nil when all is well. It is called concurrently with
	// requests, at most once a second, and must obey its context, which ends
	// after 3 s.
	Func func(ctx context.Context) error
}

// Config is what a Server is made from. Addr, Table, Broker and Metrics are
// required.
type Config struct {
	// Addr is the address that will be listened on, as in "127.0.0.1:8080".
	// One that is not loopback needs a Token.
	Addr string
	// Token, if set, must come with every request but those for health, as
	// "Authorization: Bearer <token>". It has at least MinTokenBytes bytes.
	Token string
	// Table is the record table.
	Table Table
	// Broker tells how much waits. It is asked at most once a second.
	Broker Broker
	// Engine is the engine of this process. Nil: there is none here, and it is not
	// asked for /readyz either.
	Engine Engine
	// Archive has the dead letters, and RedriveFunc sends one to be tried again; see
	// [engine.Redriver]. Nil: there are no such routes. They go together.
	Archive     engine.Archive
	RedriveFunc func(ctx context.Context, key string, force bool) (engine.DeadLetter, error)
	// Metrics is what /metrics shows. It belongs to one Server.
	Metrics *Metrics
	// PluginsFunc lists the plugins. Nil: there are none. It must not block.
	PluginsFunc func() []Plugin
	// QueuesFunc lists the queues of a broker in the same process, which knows
	// more than Depths says. Nil: Depths is asked. It must not block.
	QueuesFunc func() []Queue
	// InHandFunc counts what this process has of each lane, delivered and not
	// acked. Nil, and a nil map: it is not known. It must not block.
	InHandFunc func() map[int]int
	// BrokerFunc tells of the broker session and what was found of the broker;
	// Connected is the engine's to say, where there is one. Nil: nothing is known. It must not block.
	BrokerFunc func() BrokerReport
	// ConfigFunc tells the configuration that is in use. Nil: there is no such route.
	// It must not block.
	ConfigFunc func() (ConfigReport, error)
	// Checks are asked for /readyz besides the engine, its broker session, the
	// records and the plugins; for example how old the broker's last frame is,
	// and whether a message of each level comes through its lane.
	Checks []Check
	// Live serves /ws to whoever has the Token. Nil: there is no such route.
	Live http.Handler
	// LivePublic serves /ws to all others: it asks for tokens of its own. Nil:
	// they are refused, unless there is no Token.
	LivePublic http.Handler
	// Awake is this process' public address, with which [Server.KeepAwake] keeps App
	// Runner from taking its CPU away. Empty: it need not.
	Awake string
	// AwakeGrace is how long there may be no poll of this process before it counts as
	// throttled; see [Server.WhileAwake]. 0: 10 s.
	AwakeGrace time.Duration
	// Gateway serves /apigateway/, which a WebSocket API of API Gateway calls; it knows
	// who may. Nil: there is no such route.
	Gateway http.Handler
	// NotifyFunc tells watchers what an operator did, as [engine.Notifier] does.
	// Nil: nobody is told.
	NotifyFunc func(watchers []engine.Watcher, s engine.Status)
	// Connections is how many clients may have open at once, besides WebSockets, which
	// have limits of their own; one more is closed at once. Default 1,000.
	Connections int
	// Queue is the name of the work queue. Default engine.WorkQueue.
	Queue string
	// Log gets what operators change, and what cannot be answered to anybody.
	Log zerolog.Logger
}

// MinTokenBytes is the length of the shortest token that is accepted.
const MinTokenBytes = 16

func (c Config) withDefaults() Config {
	c.AwakeGrace = cmp.Or(c.AwakeGrace, awakeGrace)
	c.Connections = cmp.Or(c.Connections, maxConnections)
	if c.Queue == "" {
		c.Queue = engine.WorkQueue
	}
	if c.NotifyFunc == nil {
		c.NotifyFunc = func([]engine.Watcher, engine.Status) {}
	}
	if c.PluginsFunc == nil {
		c.PluginsFunc = func() []Plugin { return nil }
	}
	if c.InHandFunc == nil {
		c.InHandFunc = func() map[int]int { return nil }
	}
	if c.BrokerFunc == nil {
		c.BrokerFunc = func() BrokerReport { return BrokerReport{} }
	}
	if c.Engine == nil {
		c.Engine = nobody{}
	}
	return c
}

// nobody is the engine of a process that has none.
type nobody struct{}

func (nobody) InHand(string) (engine.Status, bool) { return engine.Status{}, false }
func (nobody) View() (engine.View, bool)           { return engine.View{}, false }
func (nobody) Nudge(engine.Nudge)                  {}

// validate reports all that is wrong at once.
func (c Config) validate() error {
	var errs []error
	if c.Table == nil || c.Broker == nil || c.Metrics == nil {
		errs = append(errs, errors.New("server: Table, Broker and Metrics are required"))
	}
	if (c.Archive == nil) != (c.RedriveFunc == nil) {
		errs = append(errs, errors.New("server: Archive and RedriveFunc go together"))
	}
	host, _, err := net.SplitHostPort(c.Addr)
	switch {
	case err != nil:
		errs = append(errs, fmt.Errorf("server: the address %q is not of the form host:port, as in 127.0.0.1:8080: %w", c.Addr, err))
	case c.Token == "" && !isLoopback(host):
		errs = append(errs, fmt.Errorf("server: %s can be reached from other machines: set a token (USHER_TOKEN), or listen on 127.0.0.1", c.Addr))
	case c.Token != "" && len(c.Token) < MinTokenBytes:
		errs = append(errs, fmt.Errorf("server: the token has %d bytes, at least %d are needed; make one with: openssl rand -hex 32", len(c.Token), MinTokenBytes))
	}
	return errors.Join(errs...)
}

// isLoopback says whether a host can be reached from this machine only.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
