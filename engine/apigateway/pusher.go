package apigateway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/apigatewaymanagementapi"
	"github.com/aws/aws-sdk-go-v2/service/apigatewaymanagementapi/types"
	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/watchframe"
)

// Config says where connections are held.
type Config struct {
	// AWS has the region and the credentials.
	AWS aws.Config
	// Endpoint is the API's address for back ends, stage included:
	// https://{api}.execute-api.{region}.amazonaws.com/{stage}.
	Endpoint string
	// CallTimeout bounds one request; 0: 3 s.
	CallTimeout time.Duration
	// LostFunc is called with the cause of each frame that was given up, one of a few
	// words. It may be called concurrently and must not block. Nil: nobody is told.
	LostFunc func(cause string)
	Log      zerolog.Logger
}

const (
	callTimeout = 3 * time.Second
	// maxConnections is how many connections have something to be told at once; of
	// more, the statuses are lost.
	maxConnections = 10_000
	// maxMessages is how many messages one connection has something to be told of at once.
	maxMessages = 100
	// attempts is how often a frame is sent that API Gateway answers with an error of
	// its own; between them it is waited as for a slow connection.
	attempts = 4
	// A connection that is slow is left alone for twice as long each time.
	firstPause, lastPause = 250 * time.Millisecond, 8 * time.Second
	// goneFor is how long it is remembered that a connection is gone. Ids are not
	// used again, and a record forgets a watcher by itself.
	goneFor = 2 * time.Hour
	maxGone = 100_000
)

// The causes of what is lost.
const (
	lostGone    = "gone"      // the client has left
	lostMany    = "too_many"  // connections, or messages of one
	lostFailed  = "failed"    // API Gateway answers errors, or not at all
	lostRefused = "refused"   // it does not allow it: rights, or a wrong endpoint
	lostLarge   = "too_large" // the frame
	lostClosed  = "shutting_down"
)

// Pusher is the engine's Notifier over API Gateway. Its methods are safe for
// concurrent use.
type Pusher struct {
	cfg         Config
	client      *apigatewaymanagementapi.Client
	connections *http.Transport
	ctx         context.Context // ends with Close
	stop        context.CancelFunc
	senders     sync.WaitGroup

	mu     sync.Mutex
	closed bool                 // guarded by mu, as the rest
	boxes  map[string]*box      // by connection; of those that have something to be told
	gone   map[string]time.Time // when it is forgotten that they are
}

var _ engine.Notifier = (*Pusher)(nil)

// box is what one connection is still to be told: the latest frame of each subject, in
// the order in which they came. The Pusher's mu guards it.
type box struct {
	latest map[string]frame
	order  []string
}

// frame is what a client is told: a status, or what went wrong with its own frame.
type frame struct {
	subject string // the message, or the answer about one
	seq     engine.Seq
	body    any
}

func statusFrame(s engine.Status) frame { return frame{subject: s.ID, seq: s.Seq, body: s} }

// failureFrame is not replaced by a status, nor one by it: no id begins with a NUL.
func failureFrame(f watchframe.Failure) frame { return frame{subject: "\x00" + f.ID, body: f} }

// New makes a Pusher; it asks nothing. Whoever makes it closes it.
func New(cfg Config) *Pusher {
	if cfg.LostFunc == nil {
		cfg.LostFunc = func(string) {}
	}
	p := &Pusher{
		cfg: cfg, boxes: map[string]*box{}, gone: map[string]time.Time{},
		connections: &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSHandshakeTimeout: callTimeout,
			MaxIdleConnsPerHost: 128, IdleConnTimeout: 90 * time.Second,
		},
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.client = apigatewaymanagementapi.NewFromConfig(cfg.AWS, func(o *apigatewaymanagementapi.Options) {
		o.BaseEndpoint = aws.String(cfg.Endpoint)
		o.HTTPClient = &http.Client{Timeout: cmp.Or(cfg.CallTimeout, callTimeout), Transport: p.connections}
		o.Retryer = aws.NopRetryer{} // what is repeated is the latest, and that is here
	})
	return p
}

// Prefix is what the connections of watchers begin with that are API Gateway's; others
// are connected elsewhere.
const Prefix = "gw:"

// Notify tells the watchers of a status. It never blocks.
func (p *Pusher) Notify(watchers []engine.Watcher, s engine.Status) {
	for _, w := range watchers {
		if connection, ours := strings.CutPrefix(w.Connection, Prefix); ours {
			p.tell(connection, statusFrame(s))
		}
	}
}

// tell has a connection told. It never blocks.
func (p *Pusher) tell(connection string, f frame) {
	if cause := p.put(connection, f); cause != "" {
		p.cfg.LostFunc(cause)
	}
}

// put puts a frame into a connection's box, in the place of an older one of the same
// subject, and says why it is lost if it is.
func (p *Pusher) put(connection string, f frame) (lost string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return lostClosed
	}
	if until, gone := p.gone[connection]; gone && time.Now().Before(until) {
		return lostGone
	}
	b := p.boxes[connection]
	if b == nil {
		if len(p.boxes) >= maxConnections {
			return lostMany
		}
		b = &box{latest: map[string]frame{}}
		p.boxes[connection] = b
		p.senders.Go(func() { p.send(connection, b) })
	}
	old, waits := b.latest[f.subject]
	switch {
	case waits && f.seq.Less(old.seq):
		return ""
	case !waits && len(b.order) >= maxMessages:
		return lostMany
	case !waits:
		b.order = append(b.order, f.subject)
	}
	b.latest[f.subject] = f
	return ""
}

// take gives the next frame of a box, or ends the box.
func (p *Pusher) take(connection string, b *box) (frame, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(b.order) == 0 {
		delete(p.boxes, connection)
		return frame{}, false
	}
	f := b.latest[b.order[0]]
	delete(b.latest, b.order[0])
	b.order = b.order[1:]
	return f, true
}

// giveBack puts a frame back into its box, at the head, unless a later one has come.
func (p *Pusher) giveBack(b *box, f frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, later := b.latest[f.subject]; later {
		return
	}
	b.latest[f.subject] = f
	b.order = append([]string{f.subject}, b.order...)
}

// send tells a connection what is in its box, one after the other, until it is empty.
func (p *Pusher) send(connection string, b *box) {
	pause, failures := firstPause, 0
	for {
		f, more := p.take(connection, b)
		if !more {
			return
		}
		err := p.post(connection, f)
		switch what := outcomeOf(err); {
		case p.ctx.Err() != nil:
			p.end(connection, b, lostClosed)
			return
		case what == told:
			pause, failures = firstPause, 0
			continue
		case what == gone:
			p.forget(connection)
			p.end(connection, b, lostGone)
			return
		case what == never:
			p.cfg.LostFunc(lostLarge)
			continue
		case what == notAllowed:
			p.cfg.Log.Error().Err(err).Str("connection", connection).Msg("watchers cannot be told: check notify.apigateway.endpoint, and that the role may execute-api:ManageConnections on it")
			p.end(connection, b, lostRefused)
			return
		case what == failed:
			if failures++; failures >= attempts {
				p.cfg.Log.Warn().Err(err).Str("connection", connection).Msg("a watcher could not be told")
				p.end(connection, b, lostFailed)
				return
			}
		}
		p.giveBack(b, f)
		p.rest(pause)
		pause = min(2*pause, lastPause)
	}
}

// rest waits for about a time.
func (p *Pusher) rest(d time.Duration) {
	timer := time.NewTimer(d/2 + rand.N(d))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.ctx.Done():
	}
}

// end gives up what is in a box.
func (p *Pusher) end(connection string, b *box, cause string) {
	p.mu.Lock()
	n := len(b.order) + 1
	delete(p.boxes, connection)
	p.mu.Unlock()
	for range n {
		p.cfg.LostFunc(cause)
	}
}

// forget remembers that a connection is gone.
func (p *Pusher) forget(connection string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if len(p.gone) >= maxGone {
		for other, until := range p.gone {
			if len(p.gone) < maxGone && now.Before(until) {
				continue
			}
			delete(p.gone, other)
		}
	}
	p.gone[connection] = now.Add(goneFor)
}

func (p *Pusher) post(connection string, f frame) error {
	data, err := json.Marshal(f.body)
	if err != nil {
		return err
	}
	_, err = p.client.PostToConnection(p.ctx, &apigatewaymanagementapi.PostToConnectionInput{ConnectionId: aws.String(connection), Data: data})
	return err
}

// outcome is what came of a request.
type outcome int

const (
	told       outcome = iota
	gone               // 410
	slow               // 429: the connection, or the account, takes no more now
	notAllowed         // 403
	never              // it is not taken whenever it is sent
	failed             // 5xx, or no answer
)

func outcomeOf(err error) outcome {
	if err == nil {
		return told
	}
	if _, is := errors.AsType[*types.GoneException](err); is {
		return gone
	}
	if _, is := errors.AsType[*types.LimitExceededException](err); is {
		return slow
	}
	if _, is := errors.AsType[*types.ForbiddenException](err); is {
		return notAllowed
	}
	if _, is := errors.AsType[*types.PayloadTooLargeException](err); is {
		return never
	}
	answer, is := errors.AsType[interface {
		error
		HTTPStatusCode() int
	}](err)
	if !is {
		return failed
	}
	switch answer.HTTPStatusCode() {
	case http.StatusGone:
		return gone
	case http.StatusTooManyRequests:
		return slow
	case http.StatusForbidden, http.StatusNotFound:
		return notAllowed
	case http.StatusRequestEntityTooLarge:
		return never
	}
	return failed
}

// Close gives up what is still to be told and waits until all senders have ended. It is
// idempotent and returns nil.
func (p *Pusher) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.stop()
	p.senders.Wait()
	p.connections.CloseIdleConnections()
	return nil
}
