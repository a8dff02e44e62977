package live

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"usher/engine"
	"usher/engine/watchframe"
)

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
	closed bool                 // guarded by mu, as the rest
	places int                  // taken
	at     map[netip.Prefix]int // of them, by address; what has none is not in it
	conns  map[string]*conn     // by id
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
	h := &Hub{cfg: cfg, at: map[netip.Prefix]int{}, conns: map[string]*conn{}}
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
// many with 503, one too many of an address with 429. Where there are keys, a
// client needs a token for each message.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.serve(w, r, false) }

// Operators serves as the hub does, to those who may watch every message: no
// token is asked for. Who they are is for the caller to check.
func (h *Hub) Operators() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, true) })
}

func (h *Hub) serve(w http.ResponseWriter, r *http.Request, trusted bool) {
	if !h.welcome(r) {
		h.refuse(w, http.StatusForbidden, "bad_origin", "pages of this origin may not connect; list it under notify: origins if they should")
		return
	}
	from := addressOf(r)
	switch h.takePlace(from) {
	case placeTaken:
	case placeFull:
		h.refuse(w, http.StatusServiceUnavailable, "too_many_connections", "as many clients as this server takes are connected, or it stops")
		return
	case placeFullOf:
		h.refuse(w, http.StatusTooManyRequests, "too_many_from_address", fmt.Sprintf("%d clients of your address are connected; one connection can watch %d messages", h.cfg.MaxPerAddress, h.cfg.MaxSubscriptions))
		return
	}
	defer h.leavePlace(from)
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // the origin was checked, and exactly
	if err != nil {
		h.cfg.Log.Debug().Err(err).Msg("a request to watch was not a WebSocket handshake")
		return
	}
	ws.SetReadLimit(watchframe.MaxBytes)
	c := newConn(h, ws, trusted || !h.cfg.Keys.Any())
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

// addressOf is what the clients of one address are counted by. A whole /64 is one
// host's to choose from.
func addressOf(r *http.Request) netip.Prefix {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{} // not of the network
	}
	a := from.Addr().Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(a, bits).Masked()
}

// place says whether there is room for one more client.
type place int

const (
	placeTaken  place = iota // there is, and it is taken
	placeFull                // there is none
	placeFullOf              // there is none for this address
)

func (h *Hub) takePlace(from netip.Prefix) place {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed || h.places >= h.cfg.MaxConnections:
		return placeFull
	case h.at[from] >= h.cfg.MaxPerAddress:
		return placeFullOf
	}
	h.places++
	h.at[from]++
	h.clients.Add(1)
	return placeTaken
}

func (h *Hub) leavePlace(from netip.Prefix) {
	h.mu.Lock()
	h.places--
	if h.at[from]--; h.at[from] == 0 {
		delete(h.at, from)
	}
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

// refuse answers a request that is not upgraded, as RFC 9457 has it, and lets go
// of its connection.
func (h *Hub) refuse(w http.ResponseWriter, status int, code, detail string) {
	h.cfg.RefusedFunc(code)
	w.Header().Set("Connection", "close")
	w.Header().Set("Content-Type", "application/problem+json")
	if status != http.StatusForbidden {
		w.Header().Set("Retry-After", "5")
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{ //nolint:errchkjson // strings and a number; a client that is gone is not waited for
		"type": "urn:usher:problem:" + code, "title": http.StatusText(status), "status": status,
		"code": code, "detail": detail,
	})
}
