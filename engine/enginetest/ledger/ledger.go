package ledger

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/stomp"
)

const (
	// sendTimeout is how long a producer waits for a receipt.
	sendTimeout = 5 * time.Second
	// dialPause is how long a producer waits before it connects again.
	dialPause = 50 * time.Millisecond
)

// Config is what a ledger is opened with.
type Config struct {
	// Broker is where producers send: host:port; Standby, if there is one, where they
	// try next.
	Broker, Standby string
	// Kinds are what they send, each as often as another.
	Kinds []Kind
	// Every is how long a producer waits after a message was acknowledged.
	Every time.Duration
	// Seed decides, with a producer's name, what it sends; so a run can be repeated.
	Seed uint64
}

func (c Config) urls() []string {
	urls := []string{"stomp://" + c.Broker}
	if c.Standby != "" {
		urls = append(urls, "stomp://"+c.Standby)
	}
	return urls
}

// Ledger is what producers know of what they sent. It is safe for concurrent use.
type Ledger struct {
	config Config

	mu      sync.Mutex // guards the rest
	sent    map[string]*entry
	unknown int // sends without an answer
}

// entry is one message that was sent, once or more often.
type entry struct {
	kind         Kind
	acknowledged bool
}

// New opens an empty ledger.
func New(config Config) *Ledger { return &Ledger{config: config, sent: map[string]*entry{}} }

// Acknowledged gives the ids that the broker has acknowledged until now: of messages of
// the types, or of all if none is named.
func (l *Ledger) Acknowledged(types ...string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []string
	for id, e := range l.sent {
		if e.acknowledged && (len(types) == 0 || slices.Contains(types, e.kind.Type)) {
			ids = append(ids, id)
		}
	}
	return ids
}

// Produce sends messages of the kinds, those of the config if there is none, and of all levels, one after the other, until ctx
// ends, and connects again whenever the broker is gone. What was not acknowledged
// is sent again under the same id, or given up, as the seed has it. name begins
// the ids; no two producers share one.
func (l *Ledger) Produce(ctx context.Context, name string, kinds ...Kind) {
	hash := fnv.New64a()
	fmt.Fprint(hash, name)
	if len(kinds) == 0 {
		kinds = l.config.Kinds
	}
	p := &producer{ledger: l, kinds: kinds, random: rand.New(rand.NewPCG(l.config.Seed, hash.Sum64()))}
	defer p.hangUp()
	for n := 0; ctx.Err() == nil; n++ {
		p.produce(ctx, fmt.Sprintf("%s-%d", name, n))
		pause(ctx, l.config.Every)
	}
}

// producer is one client with its connection.
type producer struct {
	ledger *Ledger
	kinds  []Kind
	random *rand.Rand
	client *stomp.Client // nil: none now
}

// produce sends one message until it is acknowledged or given up.
func (p *producer) produce(ctx context.Context, id string) {
	kind := p.kinds[p.random.IntN(len(p.kinds))]
	out := engine.Outgoing{Queue: engine.WorkQueue, Body: []byte(`{"id":"` + id + `"}`), Headers: map[string]string{
		engine.HeaderID: id, engine.HeaderType: kind.Type, engine.HeaderPriority: strconv.Itoa(p.random.IntN(engine.Levels)),
	}}
	if kind.MaxDelay > 0 {
		delay := 1 + p.random.Int64N(kind.MaxDelay.Milliseconds())
		out.Headers[engine.HeaderDelay] = strconv.FormatInt(delay, 10)
	}
	if kind.Level > 0 {
		out.Headers[engine.HeaderPriority] = strconv.Itoa(kind.Level)
	}
	if !kind.Due.IsZero() {
		out.Headers[engine.HeaderNotBefore] = kind.Due.UTC().Format(time.RFC3339Nano)
	}
	stubborn := p.random.IntN(4) > 0
	for ctx.Err() == nil {
		if !p.connect(ctx) {
			pause(ctx, dialPause)
			continue
		}
		p.ledger.attempt(id, kind)
		sending, cancel := context.WithTimeout(ctx, sendTimeout)
		err := p.client.Send(sending, out)
		cancel()
		if err == nil {
			p.ledger.acknowledge(id)
			return
		}
		p.hangUp()
		p.ledger.unanswered()
		if !stubborn {
			return
		}
	}
}

func (p *producer) connect(ctx context.Context) bool {
	if p.client == nil {
		client, err := stomp.Dial(ctx, stomp.Config{URLs: p.ledger.config.urls(), Log: zerolog.Nop()})
		if err != nil {
			return false
		}
		p.client = client
	}
	return true
}

func (p *producer) hangUp() {
	if p.client != nil {
		_ = p.client.Close() // it returns nil
		p.client = nil
	}
}

func (l *Ledger) attempt(id string, kind Kind) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sent[id] == nil {
		l.sent[id] = &entry{kind: kind}
	}
}

func (l *Ledger) acknowledge(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent[id].acknowledged = true
}

func (l *Ledger) unanswered() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unknown++
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
