package pluginhost_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"usher/engine"
	"usher/engine/pluginhost"
)

// variant is the configuration with another environment of the plugin.
func (h *host) variant(name string) pluginhost.Config {
	cfg := h.cfg
	p := cfg.Plugins["test"]
	p.Env = maps.Clone(p.Env)
	p.Env["VARIANT"] = name
	cfg.Plugins = map[string]pluginhost.Plugin{"test": p}
	return cfg
}

func (h *host) reconfigure(cfg pluginhost.Config) {
	h.t.Helper()
	if err := h.Reconfigure(cfg); err != nil {
		h.t.Fatal(err)
	}
}

// env is the environment of the process that runs the message.
func (h *host) env() string {
	h.t.Helper()
	out, err := h.do(message("env"))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(out[0].Body)
}

func TestASwapLetsTheOldProcessFinishWhatItHas(t *testing.T) {
	h := launch(t, settings{types: []string{"short", "obedient", "env"}, drain: time.Millisecond})
	old := h.status().PID
	ctx, cancel := context.WithCancel(t.Context())
	m := h.begin(ctx, message("obedient"))
	m.awaitBegun()
	h.reconfigure(h.variant("two"))
	h.again(old)
	if env := h.env(); !strings.Contains(env, "VARIANT=two") {
		t.Error("the new process does not have the new environment")
	}
	if len(members(t, old)) == 0 {
		t.Error("the old process ended before its message, which takes longer than the time to drain")
	}
	select {
	case <-m.done:
		t.Errorf("the message in hand ended: %v", m.err)
	default:
	}
	cancel()
	if _, err := m.result(); err == nil || errors.Is(err, engine.ErrPluginLost) {
		t.Errorf("the message in hand: %v", err)
	}
	eventually(t, "the old process ends", func() bool { return len(members(t, old)) == 0 })
}

func TestWhatDoesNotStartTakesNoPlace(t *testing.T) {
	h := launch(t, settings{types: []string{"env"}})
	old := h.status().PID
	broken := h.variant("broken")
	p := broken.Plugins["test"]
	p.Env[role] = "broken"
	h.reconfigure(broken)
	s := h.await("the new process has failed twice", func(s pluginhost.PluginStatus) bool { return s.Next != nil && s.Next.Restarts > 1 })
	if s.PID != old || s.State != pluginhost.Ready || !strings.Contains(s.Next.LastError, "cannot read prices.csv") {
		t.Errorf("meanwhile: %+v, next %+v; want the old one ready, and why the next is not", s, s.Next)
	}
	h.env()
	h.reconfigure(h.variant("mended"))
	h.again(old)
	if env := h.env(); !strings.Contains(env, "VARIANT=mended") {
		t.Error("the one that is mended did not take the place")
	}
	h.reconfigure(h.variant("mended"))
	if s := h.status(); s.Next != nil {
		t.Errorf("the same again is started anew: %+v", s.Next)
	}
}

func TestOfManySwapsTheLastCountsAndThereAreNeverMoreThanTwo(t *testing.T) {
	h := launch(t, settings{types: []string{"env", "nothing"}, env: map[string]string{"CONCURRENCY": "32"}})
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	var done, away int
	var mu sync.Mutex
	longest, last := time.Duration(0), time.Now()
	for range 8 {
		load.Go(func() {
			for ctx.Err() == nil {
				_, err := h.begin(context.Background(), message("nothing")).result()
				mu.Lock()
				switch {
				case err == nil:
					done++
					longest, last = max(longest, time.Since(last)), time.Now()
				case errors.Is(err, engine.ErrPluginAway):
					away++
				default:
					t.Errorf("a message failed: %v", err)
				}
				mu.Unlock()
			}
		})
	}
	const swaps = 50
	most := 0
	for i := range swaps {
		h.reconfigure(h.variant(strconv.Itoa(i)))
		live := 0
		for _, pid := range h.pids() {
			if len(members(t, pid)) > 0 {
				live++
			}
		}
		most = max(most, live)
		if i%10 == 9 { // let one of them come through
			h.await("a swap is over", func(s pluginhost.PluginStatus) bool { return s.Next == nil })
		}
	}
	h.await("the last swap is over", func(s pluginhost.PluginStatus) bool { return s.Next == nil && s.State == pluginhost.Ready })
	eventually(t, "the last one runs", func() bool {
		return strings.Contains(h.env(), fmt.Sprintf("VARIANT=%d\n", swaps-1)) || strings.HasSuffix(h.env(), fmt.Sprintf("VARIANT=%d", swaps-1))
	})
	stop()
	load.Wait()
	if most > 2 {
		t.Errorf("%d processes at once", most)
	}
	t.Logf("%d messages done, %d not started and to be tried again, the longest pause %v", done, away, longest)
}

func TestTypesAreRoutedAnew(t *testing.T) {
	h := launch(t, settings{types: []string{"env"}})
	cfg := h.cfg
	cfg.Types = map[string]string{"nothing": "test"}
	h.reconfigure(cfg)
	if _, served := h.Plugin("env"); served {
		t.Error("a type that was taken away is still served")
	}
	if _, err := h.do(message("nothing")); err != nil {
		t.Errorf("a type that was added: %v", err)
	}
	if s := h.status(); len(s.Types) != 1 || s.Types[0] != "nothing" || s.Restarts != 0 {
		t.Errorf("status %+v", s)
	}
	cfg.Types = map[string]string{"nothing": "test", "unheard": "test"}
	if err := h.Reconfigure(cfg); err == nil || !strings.Contains(err.Error(), "unheard") {
		t.Errorf("a type that it does not handle: %v", err)
	}
	cfg.Types = map[string]string{"nothing": "absent"}
	if err := h.Reconfigure(cfg); err == nil {
		t.Error("a type of a plugin that is not there is no error")
	}
	if _, err := h.do(message("nothing")); err != nil {
		t.Errorf("after two errors: %v", err)
	}
}

func TestATypeThatOnlyTheNewProcessServesWaitsForIt(t *testing.T) {
	h := launch(t, settings{types: []string{"env"}})
	cfg := h.variant("slow")
	cfg.Plugins["test"].Env[role] = "mute" // it is never ready
	cfg.Types = map[string]string{"env": "test", "nothing": "test"}
	h.reconfigure(cfg)
	held := func(typ string) bool { hold, _ := h.Holds(typ); return hold }
	if !held("nothing") || held("env") {
		t.Errorf("held: the new type %v, the old one %v; want only the new", held("nothing"), held("env"))
	}
	cfg = h.variant("quick")
	cfg.Types = map[string]string{"env": "test", "nothing": "test"}
	h.reconfigure(cfg)
	eventually(t, "the new type is served", func() bool { return !held("nothing") })
	if _, err := h.do(message("nothing")); err != nil {
		t.Error(err)
	}
}

func TestPluginsComeAndGo(t *testing.T) {
	h := launch(t, settings{types: []string{"env", "short"}})
	old := h.status().PID
	m := h.begin(t.Context(), message("short"))
	m.awaitBegun()
	cfg := h.cfg
	cfg.Plugins = map[string]pluginhost.Plugin{"other": {Command: os.Args[:1], Env: map[string]string{role: "plugin"}}}
	cfg.Types = map[string]string{"nothing": "other"}
	h.reconfigure(cfg)
	if _, err := m.result(); err != nil {
		t.Errorf("what the removed plugin had in hand: %v", err)
	}
	eventually(t, "the removed one ends", func() bool { return len(members(t, old)) == 0 })
	h.waitReady()
	if _, err := h.do(message("nothing")); err != nil {
		t.Error(err)
	}
	if all := h.Status(); len(all) != 1 || all[0].Name != "other" {
		t.Errorf("status %+v", all)
	}
}

func TestAHostWithoutPluginsRunsUntilItIsStopped(t *testing.T) {
	h, err := pluginhost.New(pluginhost.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	if err := h.Reconfigure(pluginhost.Config{}); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		t.Fatalf("it ended by itself: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
