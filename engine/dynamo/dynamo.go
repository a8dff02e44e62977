package dynamo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"

	"usher/engine"
)

// ErrClosed is answered by calls after Close.
var ErrClosed = errors.New("dynamo: the table was closed")

// Config says which tables, and where.
type Config struct {
	// AWS has the region and the credentials.
	AWS aws.Config
	// Endpoint is an address in place of the region's; "": the region's.
	Endpoint string
	Names    Names
	// CallTimeout bounds one request; 0: 3 s.
	CallTimeout time.Duration

	transport http.RoundTripper // nil: that of everybody
}

// How a request that was throttled, or failed in the store or on its way, is
// repeated: with jitter, and out of a budget that all calls of a Records share.
// When it is used up calls fail at once, and the engine takes less until they work.
const (
	callTimeout  = 3 * time.Second
	callAttempts = 4
	callBackoff  = 20 * time.Millisecond // about, before the first repetition; it doubles
	retryBudget  = 100                   // each costs one, each success gives some back
)

// Records is the record table, the bodies and the archive. Its methods are safe for
// concurrent use.
type Records struct {
	client      *dynamodb.Client
	connections *http.Transport
	names       Names

	ctx   context.Context // ends with Close
	close context.CancelFunc
	calls sync.WaitGroup

	mu      sync.Mutex
	shelves map[string]bool // the held ones that are noted in the table; guarded by mu
}

// Open makes Records; it asks nothing. Whoever opens it closes it.
func Open(cfg Config) *Records {
	ctx, stop := context.WithCancel(context.Background())
	connections := newTransport()
	cfg.transport = connections
	return &Records{client: NewClient(cfg), connections: connections, names: cfg.Names, ctx: ctx, close: stop, shelves: map[string]bool{}}
}

// NewClient makes the client that Records uses.
func NewClient(cfg Config) *dynamodb.Client {
	transport := &timed{read: thisMachine(), next: &probing{next: cmp.Or[http.RoundTripper](cfg.transport, http.DefaultTransport)}}
	return dynamodb.NewFromConfig(cfg.AWS, func(o *dynamodb.Options) {
		if cfg.Endpoint != "" {
			o.BaseEndpoint = aws.String(cfg.Endpoint)
		}
		o.HTTPClient = &http.Client{Timeout: cmp.Or(cfg.CallTimeout, callTimeout), Transport: transport}
		o.Retryer = retry.NewStandard(func(s *retry.StandardOptions) {
			s.MaxAttempts, s.Backoff = callAttempts, retry.BackoffDelayerFunc(backoff)
			s.RateLimiter = newBudget(retryBudget)
			s.Retryables = append([]retry.IsErrorRetryable{retry.IsErrorRetryableFunc(notSent)}, s.Retryables...)
		})
	})
}

// notSent has a request that was not sent not repeated.
func notSent(err error) aws.Ternary {
	if _, off := errors.AsType[clockError](err); off || errors.Is(err, errGone) {
		return aws.FalseTernary
	}
	return aws.UnknownTernary
}

// backoff is how long a call waits before it is repeated: half of it is random.
func backoff(attempt int, _ error) (time.Duration, error) {
	half := callBackoff << min(max(attempt-1, 0), callAttempts) / 2
	return half + rand.N(half), nil
}

// newTransport keeps as many idle connections as there are calls at once.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSHandshakeTimeout: callTimeout,
		MaxIdleConnsPerHost: 128, IdleConnTimeout: 90 * time.Second,
	}
}

// Close ends calls that are still running; later ones answer ErrClosed. It is
// idempotent.
func (r *Records) Close() error {
	r.mu.Lock()
	r.close()
	r.mu.Unlock()
	r.calls.Wait()
	r.connections.CloseIdleConnections()
	return nil
}

// begin gives a call a context that also ends with Close; end must be called.
func (r *Records) begin(ctx context.Context) (_ context.Context, end func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return nil, nil, ErrClosed
	}
	r.calls.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(r.ctx, func() { cancel(ErrClosed) })
	return ctx, func() { stop(); cancel(nil); r.calls.Done() }, nil
}

// explain says what was tried, and what to do about what the store answered.
func (r *Records) explain(what string, err error) error {
	if err == nil {
		return nil
	}
	if off, is := errors.AsType[clockError](err); is {
		return fmt.Errorf("dynamo: %s: %w", what, off) // without what the SDK says around it
	}
	remedy := ""
	api, answered := errors.AsType[smithy.APIError](err)
	_, missing := errors.AsType[*types.ResourceNotFoundException](err)
	switch {
	case missing:
		remedy = ": the table or its index is not there: check its name, the account and the region, or create it with deploy/template.yaml"
	case !answered:
	case strings.Contains(api.ErrorCode(), "AccessDenied"):
		remedy = ": the role may not do this: give it the permissions that deploy/template.yaml gives the engine"
	case strings.Contains(api.ErrorCode(), "ExpiredToken"), strings.Contains(api.ErrorCode(), "UnrecognizedClient"), strings.Contains(api.ErrorCode(), "InvalidSignature"):
		remedy = ": the credentials are not valid (any more): renew them, and check the clock of this machine"
	}
	return fmt.Errorf("dynamo: %s: %w%s", what, err, remedy)
}

// normal is a record as the table gives it back.
func normal(r engine.Record, now time.Time) engine.Record {
	if !r.State.Final() {
		r.ExpiresAt = time.Time{} // set in final states only
	}
	for _, t := range []*time.Time{&r.Due, &r.GatedAt, &r.Claim.Until, &r.UpdatedAt, &r.ExpiresAt} {
		*t = fromMillis(toMillis(*t))
	}
	var live []engine.Watcher
	for _, w := range r.Watchers {
		if w.Until.After(now) {
			live = append(live, engine.Watcher{Connection: w.Connection, Until: fromMillis(toMillis(w.Until))})
		}
	}
	r.Watchers = live
	return r
}
