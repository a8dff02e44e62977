package apigateway

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/watchframe"
	"usher/engine/watchtoken"
)

// The headers that the API's integrations map (deploy/template.yaml). Those of the
// client itself are not passed on but for the Origin.
const (
	SecretHeader     = "X-Usher-Secret"
	ConnectionHeader = "X-Usher-Connection"
	OriginHeader     = "X-Usher-Origin"
	IDHeader         = "X-Usher-Id"
	TokenHeader      = "X-Usher-Token" //nolint:gosec // the name of a header
)

// MinSecretBytes is the length of the shortest secret that is taken.
const MinSecretBytes = 16

const (
	watchFor     = 2 * time.Hour   // as long as API Gateway holds a connection
	tableTimeout = 5 * time.Second // for one call of the record table
)

// Table is what Callbacks need of the record table; see [engine.Table].
type Table interface {
	Watch(ctx context.Context, id string, w engine.Watcher) (engine.Record, error)
	Unwatch(ctx context.Context, id, connection string) error
}

// CallbacksConfig is what Callbacks are made from. All but NudgeFunc, RefusedFunc,
// Origins and Log is required.
type CallbacksConfig struct {
	// Table keeps who watches which message.
	Table Table
	// Pusher tells clients what they asked for.
	Pusher *Pusher
	// Secret is what API Gateway shows, and nobody else has.
	Secret string
	// Origins are the web origins, exactly as a browser sends them, whose pages may
	// connect. Clients that send no Origin are no browsers and may.
	Origins []string
	// Keys are those of the tokens that a client needs to connect, and for each message.
	Keys watchtoken.Keys
	// Stage is what tokens are for.
	Stage string
	// NudgeFunc asks the engine that has the message in hand to tell a new watcher
	// where it is, as [engine.Engine.Watch] does. Nil: nobody is asked.
	NudgeFunc func(id string, w engine.Watcher)
	// RefusedFunc is called with the cause of each refusal, one of a few words. It may
	// be called concurrently and must not block. Nil: nobody is told.
	RefusedFunc func(cause string)
	Log         zerolog.Logger
}

// Callbacks answers what API Gateway asks: /connect, /disconnect and /frame, each a
// POST of an HTTP_PROXY integration. Whoever does not know the secret is refused with
// 401; a client that may not connect, with 403, and API Gateway closes its connection.
// It is safe for concurrent use.
type Callbacks struct {
	cfg    CallbacksConfig
	secret [sha256.Size]byte
	routes *http.ServeMux
}

// NewCallbacks makes Callbacks. The error says what is missing.
func NewCallbacks(cfg CallbacksConfig) (*Callbacks, error) {
	switch {
	case cfg.Table == nil || cfg.Pusher == nil:
		return nil, errors.New("apigateway: Table and Pusher are required")
	case len(cfg.Secret) < MinSecretBytes:
		return nil, errors.New("apigateway: the secret that API Gateway shows has to have 16 bytes or more")
	case !cfg.Keys.Any():
		return nil, errors.New("apigateway: without keys of tokens everybody on the Internet could watch every message")
	case !watchtoken.ValidName(cfg.Stage):
		return nil, errors.New("apigateway: a stage is 1 to 64 of A-Z a-z 0-9 _ -")
	}
	if cfg.NudgeFunc == nil {
		cfg.NudgeFunc = func(string, engine.Watcher) {}
	}
	if cfg.RefusedFunc == nil {
		cfg.RefusedFunc = func(string) {}
	}
	c := &Callbacks{cfg: cfg, secret: sha256.Sum256([]byte(cfg.Secret)), routes: http.NewServeMux()}
	c.routes.HandleFunc("POST /connect", c.connect)
	c.routes.HandleFunc("POST /disconnect", c.disconnect)
	c.routes.HandleFunc("POST /frame", c.frame)
	return c, nil
}

func (c *Callbacks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	shown := sha256.Sum256([]byte(r.Header.Get(SecretHeader)))
	if subtle.ConstantTimeCompare(shown[:], c.secret[:]) != 1 {
		c.refuse(w, http.StatusUnauthorized, "bad_secret", "only the WebSocket API may call this: its integrations show a secret in "+SecretHeader)
		return
	}
	if id := r.Header.Get(ConnectionHeader); id == "" || len(id) > engine.MaxIDBytes {
		c.refuse(w, http.StatusBadRequest, "bad_connection", ConnectionHeader+" has to be the connection's id: map it from context.connectionId")
		return
	}
	c.routes.ServeHTTP(w, r)
}

// connect says whether a client may connect. Nothing is stored and nothing is sent:
// until this is answered the connection takes nothing.
func (c *Callbacks) connect(w http.ResponseWriter, r *http.Request) {
	if origin := r.Header.Get(OriginHeader); origin != "" && !slices.Contains(c.cfg.Origins, origin) {
		c.refuse(w, http.StatusForbidden, "bad_origin", "pages of this origin may not connect; list it under notify: origins if they should")
		return
	}
	id := r.Header.Get(IDHeader)
	if _, err := c.cfg.Keys.Check(r.Header.Get(TokenHeader), c.cfg.Stage, id, time.Now()); err != nil {
		c.cfg.Log.Debug().Err(err).Str("id", id).Msg("a watcher was refused")
		c.refuse(w, http.StatusForbidden, "token_"+watchtoken.Cause(err), "connect with ?id=…&token=… of a message")
		return
	}
	w.WriteHeader(http.StatusOK)
}

// disconnect forgets a client. Its entries in records end by themselves.
func (c *Callbacks) disconnect(w http.ResponseWriter, r *http.Request) {
	c.cfg.Pusher.forget(r.Header.Get(ConnectionHeader))
	w.WriteHeader(http.StatusOK)
}

// frame does what a client asks for. What it is told goes the way of all it is told;
// API Gateway itself is answered with nothing, because that would reach the client too.
func (c *Callbacks) frame(w http.ResponseWriter, r *http.Request) {
	connection := r.Header.Get(ConnectionHeader)
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, watchframe.MaxBytes))
	if err != nil {
		c.fail(connection, watchframe.Fail(watchframe.BadRequest, "", "a frame is at most 4 KiB"))
		w.WriteHeader(http.StatusOK)
		return
	}
	request, err := watchframe.Parse(data)
	switch {
	case err != nil:
		c.fail(connection, watchframe.Fail(watchframe.BadRequest, "", err.Error()))
	case request.Action == watchframe.Unsubscribe:
		c.unsubscribe(r.Context(), connection, request.ID)
	default:
		c.subscribe(r.Context(), connection, request)
	}
	w.WriteHeader(http.StatusOK)
}

// subscribe enters a client as a watcher, until its token ends, and tells it where the
// message is.
func (c *Callbacks) subscribe(ctx context.Context, connection string, r watchframe.Request) {
	now := time.Now()
	until, err := c.cfg.Keys.Check(r.Token, c.cfg.Stage, r.ID, now)
	if err != nil {
		c.cfg.RefusedFunc("token_" + watchtoken.Cause(err))
		c.cfg.Log.Debug().Err(err).Str("id", r.ID).Str("connection", connection).Msg("a watcher was refused")
		c.fail(connection, watchframe.FailToken(r.ID))
		return
	}
	watcher := engine.Watcher{Connection: Prefix + connection, Until: now.Add(watchFor).UTC()}
	if until.Before(watcher.Until) {
		watcher.Until = until
	}
	ctx, cancel := context.WithTimeout(ctx, tableTimeout)
	defer cancel()
	record, err := c.cfg.Table.Watch(ctx, r.ID, watcher)
	if err != nil {
		c.cfg.Log.Warn().Err(err).Str("id", r.ID).Msg("a watcher could not be entered")
		c.fail(connection, watchframe.FailUnavailable(r.ID))
		return
	}
	if s := record.Snapshot(now); r.Since == nil || r.Since.Less(s.Seq) {
		c.cfg.Pusher.Notify([]engine.Watcher{watcher}, s)
	}
	c.cfg.NudgeFunc(r.ID, watcher)
}

// unsubscribe takes a client out of a record. Where that fails the entry ends by itself.
func (c *Callbacks) unsubscribe(ctx context.Context, connection, id string) {
	ctx, cancel := context.WithTimeout(ctx, tableTimeout)
	defer cancel()
	if err := c.cfg.Table.Unwatch(ctx, id, Prefix+connection); err != nil {
		c.cfg.Log.Debug().Err(err).Str("id", id).Msg("a watcher stays in the record until its time is over")
	}
}

func (c *Callbacks) fail(connection string, f watchframe.Failure) {
	c.cfg.Pusher.tell(connection, failureFrame(f))
}

// refuse answers what is not done, as RFC 9457 has it.
func (c *Callbacks) refuse(w http.ResponseWriter, status int, code, detail string) {
	c.cfg.RefusedFunc(code)
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{ //nolint:errchkjson // strings and a number; API Gateway does not wait
		"type": "urn:usher:problem:" + code, "title": http.StatusText(status), "status": status,
		"code": code, "detail": detail,
	})
}
