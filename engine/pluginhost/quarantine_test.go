package pluginhost_test

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"usher/engine"
	"usher/engine/pluginhost"
)

// crashes has the plugin crash so often, each time with a process that is up.
func (h *host) crashes(times int) {
	h.t.Helper()
	for range times {
		pid := h.status().PID
		if _, err := h.do(message("crash")); !errors.Is(err, engine.ErrPluginLost) {
			h.t.Fatalf("got %v", err)
		}
		h.again(pid)
	}
}

func TestAPluginThatCrashesOftenIsInQuarantineUntilMessagesComeBack(t *testing.T) {
	h := launch(t, settings{types: []string{"crash", "nothing", "plain", "obedient"}})
	h.crashes(4)
	if hold, _ := h.Holds("nothing"); hold || h.Credit("test") != concurrency || h.status().Crashes != 4 {
		t.Errorf("after 4 crashes: held %v, credit %d, status %+v; want it to be as always", hold, h.Credit("test"), h.status())
	}
	h.crashes(1)
	if hold, probe := h.Holds("nothing"); !hold || !probe || h.Credit("test") != 1 {
		t.Errorf("after 5 crashes: held %v, to be tried %v, credit %d; want true, true, 1", hold, probe, h.Credit("test"))
	}
	if s := h.status(); s.Quarantined.IsZero() || s.Crashes != 5 || s.State != pluginhost.Ready {
		t.Errorf("the status is %+v", s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	m := h.begin(ctx, message("obedient"))
	m.awaitBegun()
	if hold, probe := h.Holds("nothing"); !hold || probe {
		t.Errorf("while a message is in hand: held %v, to be tried %v; want true, false", hold, probe)
	}
	cancel()
	if _, err := m.result(); err == nil || errors.Is(err, engine.ErrPluginLost) {
		t.Errorf("got %v", err)
	}
	if _, err := h.do(message("plain")); err == nil {
		t.Error("it did not fail")
	}
	h.crashes(1) // two had come back; they count no more
	for i := range 3 {
		if h.status().Quarantined.IsZero() {
			t.Errorf("the quarantine is over after %d messages", i)
		}
		if _, err := h.do(message("nothing")); err != nil {
			t.Error(err)
		}
	}
	if hold, _ := h.Holds("nothing"); hold || h.Credit("test") != concurrency || !h.status().Quarantined.IsZero() || h.status().Crashes != 0 {
		t.Errorf("after three that came back: held %v, credit %d, status %+v", hold, h.Credit("test"), h.status())
	}
	for _, words := range []string{"in quarantine", "out of quarantine"} {
		if strings.Count(h.log.String(), words) != 1 {
			t.Errorf("the log does not say once: %s", words)
		}
	}
}

func TestAChangedPluginBeginsWithoutQuarantine(t *testing.T) {
	h := launch(t, settings{types: []string{"crash", "env"}})
	h.crashes(5)
	h.reconfigure(h.variant("two"))
	eventually(t, "the new process is there", func() bool { hold, _ := h.Holds("env"); return !hold })
	if s := h.status(); !s.Quarantined.IsZero() || h.Credit("test") != concurrency {
		t.Errorf("credit %d, status %+v", h.Credit("test"), s)
	}
}

func TestAMessageAloneCrashesNobodyElsesProcess(t *testing.T) {
	h := launch(t, settings{types: []string{"crash", "obedient", "where", "nothing"}})
	pid := h.status().PID
	ctx, cancel := context.WithCancel(t.Context())
	m := h.begin(ctx, message("obedient"))
	m.awaitBegun()
	for range 6 {
		err := h.HandleAlone(t.Context(), message("crash"))
		if !errors.Is(err, engine.ErrPluginLost) || errors.Is(err, engine.ErrPluginAway) || !strings.Contains(err.Error(), "alone in its process") || !strings.Contains(err.Error(), "the disk is on fire") {
			t.Errorf("got %v", err)
		}
	}
	if s := h.status(); s.PID != pid || s.Crashes != 0 || s.Restarts != 0 || h.Credit("test") != concurrency {
		t.Errorf("the plugin's own status is %+v, credit %d", s, h.Credit("test"))
	}
	cancel()
	if _, err := m.result(); err == nil || errors.Is(err, engine.ErrPluginLost) {
		t.Errorf("the message beside it: %v", err)
	}
}

func TestTheProcessApartIsKeptForTheNext(t *testing.T) {
	h := launch(t, settings{types: []string{"nothing"}})
	for range 3 {
		if err := h.HandleAlone(t.Context(), message("nothing")); err != nil {
			t.Error(err)
		}
	}
	if n := len(h.pids()); n != 2 {
		t.Errorf("%d processes were started, want the plugin's and one apart", n)
	}
	next := h.variant("two")
	h.reconfigure(next)
	eventually(t, "the new process is there", func() bool { return h.status().Next == nil && len(h.pids()) == 3 })
	if err := h.HandleAlone(t.Context(), message("nothing")); err != nil {
		t.Error(err)
	}
	if n := len(h.pids()); n != 4 {
		t.Errorf("%d processes were started, want a new one apart as well", n)
	}
	h.reconfigure(pluginhost.Config{})
	for _, pid := range h.pids() {
		eventually(t, "all processes of a removed plugin are gone", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
	}
	h.reconfigure(next)
	h.waitReady()
}

func TestOneMessageAloneAtATime(t *testing.T) {
	h := launch(t, settings{types: []string{"short", "obedient"}})
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- h.HandleAlone(t.Context(), message("short")) }()
	go func() { second <- h.HandleAlone(t.Context(), message("short")) }()
	if err := errors.Join(<-first, <-second); err != nil {
		t.Error(err)
	}
	if n := len(h.pids()); n != 2 {
		t.Errorf("%d processes were started, want the plugin's and one apart", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := h.HandleAlone(ctx, message("obedient")); err == nil || errors.Is(err, engine.ErrPluginLost) {
		t.Errorf("got %v", err)
	}
}

func TestWhatDoesNotStartApartHadNothing(t *testing.T) {
	h := launch(t, settings{role: "broken", types: []string{"nothing"}, unready: true})
	h.await("it runs", func(s pluginhost.PluginStatus) bool { return s.LastError != "" })
	err := h.HandleAlone(t.Context(), message("nothing"))
	if !errors.Is(err, engine.ErrPluginAway) || !strings.Contains(err.Error(), "cannot read prices.csv") {
		t.Errorf("got %v", err)
	}
	h.end()
	if err := h.HandleAlone(t.Context(), message("nothing")); !errors.Is(err, engine.ErrPluginAway) {
		t.Errorf("after Run: %v", err)
	}
}
