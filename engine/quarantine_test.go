package engine_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"usher/engine"
	"usher/handlers"
)

// twoPlugins serves type a with a plugin that crashes, and the others with one that
// does not. The first is in quarantine until it was told to be well.
type twoPlugins struct {
	mu      sync.Mutex
	well    bool // guarded by mu, as the rest
	inHand  int
	most    int
	up      time.Time // it is, from then on
	crashes int
	ran     map[string]int
	changed chan struct{}
}

func (p *twoPlugins) Plugin(typ string) (string, bool) {
	return map[string]string{"a": "bad"}[typ] + "plugin", true
}
func (p *twoPlugins) Changed() <-chan struct{} { return p.changed }

func (p *twoPlugins) count(typ string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ran[typ]
}

func (p *twoPlugins) Credit(plugin string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case plugin != "badplugin" || p.well:
		return 1000
	case time.Now().Before(p.up):
		return 0
	}
	return 1
}

func (p *twoPlugins) Holds(typ string) (hold, probe bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return typ == "a" && !p.well, p.inHand == 0 && !time.Now().Before(p.up)
}

func (p *twoPlugins) HandleMessage(_ context.Context, m *handlers.Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ran[m.Type]++
	if m.Type != "a" || p.well {
		return nil
	}
	p.inHand++
	p.most = max(p.most, p.inHand)
	p.mu.Unlock()
	pass(100 * time.Millisecond)
	p.mu.Lock()
	p.inHand--
	p.crashes++
	p.up = time.Now().Add(5 * time.Second)
	return fmt.Errorf("it: %w", engine.ErrPluginLost)
}

func (p *twoPlugins) HandleAlone(context.Context, *handlers.Message) error { return nil }

func TestAPluginInQuarantineIsTriedWithOneMessageAndTheOthersFlow(t *testing.T) {
	p := &twoPlugins{ran: map[string]int{}}
	run(t, nil, func(r *rig) {
		for i := range 200 {
			r.send("a"+strconv.Itoa(i), "a", engine.HeaderPriority, "9")
			r.send("b"+strconv.Itoa(i), "b")
		}
		r.after(5 * time.Second)
		if n := p.count("b"); n != 200 {
			t.Errorf("%d of 200 messages of the other plugin ran within 5 s", n)
		}
		r.after(5 * time.Minute)
		p.mu.Lock()
		most, crashes := p.most, p.crashes
		p.mu.Unlock()
		if most != 1 || crashes < 20 || crashes > 65 {
			t.Errorf("%d crashes, at most %d messages at once; want one at a time, every five seconds or a little later", crashes, most)
		}
		if n := len(r.broker.Published()); n > 200 {
			t.Errorf("%d copies were sent while 200 wait and %d were tried", n, crashes)
		}
		dead := len(r.broker.Queue(engine.DeadQueue))
		if dead != 0 {
			t.Errorf("%d are dead", dead)
		}
		p.mu.Lock()
		p.well = true
		p.mu.Unlock()
		r.after(10 * time.Second)
		for i := range 200 {
			if rec := r.wantState("a"+strconv.Itoa(i), engine.Done); rec.Attempts > 1 {
				t.Errorf("a%d was charged %d attempts", i, rec.Attempts)
			}
		}
		r.wantEmpty()
	}, func(c *engine.Config) { p.changed, c.Handler = make(chan struct{}, 1), p })
}
