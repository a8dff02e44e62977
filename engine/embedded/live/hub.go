package live

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/rs/zerolog"

	"usher/engine"
)

// Defaults of Config.
const (
	DefaultMaxConnections   = 1024
	DefaultMaxSubscriptions = 100
	DefaultPing             = 25 * time.Second
	DefaultWriteTimeout     = 10 * time.Second
)

const (
	watchFor     = 15 * time.Minute // a watcher whose hub has died is told for no longer
	renewEvery   = watchFor / 3
	tableTimeout = 5 * time.Second // for one call of the record table
	closeGrace   = 2 * time.Second // for clients to take what is left and to answer the close
	readLimit    = 4 << 10         // bytes of a client's frame
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
	// MaxConnections is how many clients there are at once. Default 1024.
	MaxConnections int
	// MaxSubscriptions is how many messages one client watches at once. Default 100.
	MaxSubscriptions int
	// Ping is how often a client is asked whether it is there. Default 25 s.
	Ping time.Duration
	// WriteTimeout is how long a client may take to accept a frame, or to
	// answer a ping, before its connection is cut. Default 10 s.
	WriteTimeout time.Duration
	// Log gets what a Hub cannot answer to anybody.
	Log zerolog.Logger
}

func (c Config) withDefaults() Config {
	if c.NudgeFunc == nil {
		c.NudgeFunc = func(string, engine.Watcher) {}
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = DefaultMaxConnections
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
	if c.MaxConnections < 0 || c.MaxSubscriptions < 0 || c.Ping < 0 || c.WriteTimeout < 0 {
		errs = append(errs, errors.New("live: MaxConnections, MaxSubscriptions, Ping and WriteTimeout must not be negative"))
	}
	for _, origin := range c.Origins {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme == "" || u.Host == "" || origin != u.Scheme+"://"+u.Host {
			errs = append(errs, fmt.Errorf("live: the origin %q is not of the form https://host or https://host:port", origin))
		}
	}
	return errors.Join(errs...)
}

// Hub is the WebSocket endpoint and the engine's Notifier. Its methods are safe
// for concurrent use.
type Hub struct {
	cfg Config

	closing context.Context // ends when Close is called
	close   context.CancelFunc
	life    context.Context // of connections; ends a grace later
	sever   context.CancelFunc

	clients sync.WaitGroup // those counted in places

	mu     sync.Mutex
	closed bool             // guarded by mu
	places int              // taken, guarded by mu
	conns  map[string]*conn // by id, guarded by mu
}

var (
	_ engine.Notifier = (*Hub)(nil)
	_ http.Handler    = (*Hub)(nil)
)

// New makes a Hub. The error names all that is wrong with the configuration.
func New(cfg Config) (*Hub, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	h := &Hub{cfg: cfg, conns: map[string]*conn{}}
	h.closing, h.close = context.WithCancel(context.Background())
	h.life, h.sever = context.WithCancel(context.Background())
	return h, nil
}

// Notify passes a status on to those of the watchers that are connected here.
// It never blocks: what a client has not taken yet of the same message is
// replaced, and a status older than the last is dropped.
func (h *Hub) Notify(watchers []engine.Watcher, s engine.Status) {
	for _, w := range watchers {
		h.mu.Lock()
		c := h.conns[w.Connection]
		h.mu.Unlock()
		if c != nil {
			c.offer(s)
		}
	}
}

// ServeHTTP upgrades the request to a WebSocket and serves it until the client
// leaves, does not answer in time, sends too many bad frames, or the hub is
// closed (close code 1001). A foreign Origin is refused with 403, a client too
// many with 503.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !h.welcome(r) {
		refuse(w, http.StatusForbidden, "bad_origin", "pages of this origin may not connect; list it under the allowed origins if they should")
		return
	}
	if !h.takePlace() {
		w.Header().Set("Retry-After", "5")
		refuse(w, http.StatusServiceUnavailable, "too_many_connections", "as many clients as this server takes are connected, or it stops")
		return
	}
	defer h.leavePlace()
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // the origin was checked, and exactly
	if err != nil {
		h.cfg.Log.Debug().Err(err).Msg("a request to watch was not a WebSocket handshake")
		return
	}
	ws.SetReadLimit(readLimit)
	c := &conn{
		hub: h, ws: ws, id: rand.Text(), subs: map[string]*subscription{},
		signal: make(chan struct{}, 1), replies: make(chan failure),
	}
	h.add(c)
	defer h.remove(c)
	c.serve(h.life)
}

// Close tells every client that the server goes away (close code 1001), after
// what is still to be told, gives them 2 s, and waits until all connections and
// their goroutines have ended. It may be called more than once. It returns nil.
func (h *Hub) Close() error {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.close()
	grace := time.AfterFunc(closeGrace, h.sever)
	defer grace.Stop()
	h.clients.Wait()
	h.sever()
	return nil
}

// welcome says whether the page that asks may connect. A browser always sends
// the Origin of the page with a WebSocket handshake (RFC 6455, 10.2).
func (h *Hub) welcome(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || slices.Contains(h.cfg.Origins, origin) {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host)
}

func (h *Hub) takePlace() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.places >= h.cfg.MaxConnections {
		return false
	}
	h.places++
	h.clients.Add(1)
	return true
}

func (h *Hub) leavePlace() {
	h.mu.Lock()
	h.places--
	h.mu.Unlock()
	h.clients.Done()
}

func (h *Hub) add(c *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns[c.id] = c
}

func (h *Hub) remove(c *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conns, c.id)
}

// refuse answers a request that is not upgraded, as RFC 9457 has it.
func refuse(w http.ResponseWriter, status int, code, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{ //nolint:errchkjson // strings and a number; a client that is gone is not waited for
		"type": "urn:usher:problem:" + code, "title": http.StatusText(status), "status": status,
		"code": code, "detail": detail,
	})
}
