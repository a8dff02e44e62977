package demo

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"usher/engine"
)

// Sender sends one message and returns when the broker has it for good.
type Sender interface {
	Send(ctx context.Context, out engine.Outgoing) error
}

// Player sends what happens in a small shop.
type Player struct {
	sender Sender
	run    string // makes the ids of this run its own

	mu   sync.Mutex
	sent []string // ids that the broker has acknowledged; guarded by mu
	next int      // guarded by mu
}

// NewPlayer makes a player that sends with s.
func NewPlayer(s Sender) *Player {
	return &Player{sender: s, run: strconv.FormatInt(time.Now().Unix()%100_000, 36)}
}

// scene is one kind of traffic.
type scene struct {
	typ      string
	priority int
	every    time.Duration
	burst    int    // messages at once; 0 is one
	delay    string // usher_delay
	body     string
}

// scenes is the shop: urgent orders among many ordinary ones, reports that
// wait, a flaky warehouse, a card service that is down, an unknown street, an
// import that panics.
func scenes() []scene {
	return []scene{
		{typ: "order.rush", priority: 9, every: 250 * time.Millisecond, body: `{"order":%d,"express":true}`},
		{typ: "order.placed", priority: 5, every: 100 * time.Millisecond, body: `{"order":%d}`},
		{typ: "order.placed", priority: 1, every: 8 * time.Second, burst: 400, body: `{"order":%d,"imported":true}`},
		{typ: "report.daily", priority: 2, every: time.Second, body: `{"report":%d}`},
		{typ: "report.daily", priority: 2, every: 3 * time.Second, delay: "5s", body: `{"report":%d,"asked":"in 5s"}`},
		{typ: "stock.sync", priority: 4, every: 500 * time.Millisecond, body: `{"shelf":%d}`},
		{typ: "card.charge", priority: 6, every: 2500 * time.Millisecond, body: `{"order":%d}`},
		{typ: "address.check", priority: 4, every: 3 * time.Second, body: `{"order":%d,"street":"Nowhere 1"}`},
		{typ: "legacy.import", priority: 3, every: 4 * time.Second, body: `{"row":%d}`},
	}
}

// Run plays until ctx ends, and returns nil then. The error is of a send.
func (p *Player) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range scenes() {
		g.Go(func() error { return p.play(ctx, s) })
	}
	return g.Wait()
}

func (p *Player) play(ctx context.Context, s scene) error {
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	for {
		for range max(s.burst, 1) {
			if err := p.send(ctx, s); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return fmt.Errorf("demo: send %s: %w", s.typ, err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (p *Player) send(ctx context.Context, s scene) error {
	p.mu.Lock()
	p.next++
	n := p.next
	p.mu.Unlock()
	id := fmt.Sprintf("demo-%s-%d", p.run, n)
	h := map[string]string{
		engine.HeaderType: s.typ, engine.HeaderID: id, engine.HeaderPriority: strconv.Itoa(s.priority),
		engine.HeaderContentType: "application/json",
	}
	if s.delay != "" {
		h[engine.HeaderDelay] = s.delay
	}
	// A send that is under way when the demo ends is waited for: it counts.
	sending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := p.sender.Send(sending, engine.Outgoing{Queue: engine.WorkQueue, Headers: h, Body: fmt.Appendf(nil, s.body, n)}); err != nil {
		return err
	}
	p.mu.Lock()
	p.sent = append(p.sent, id)
	p.mu.Unlock()
	return nil
}

// Sent lists the ids of what the broker has acknowledged.
func (p *Player) Sent() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.sent...)
}
