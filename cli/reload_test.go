package cli

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/embedded/records"
	"usher/engine/enginetest/ledger"
	"usher/server"
)

// rewrite replaces the configuration as careful editors do, and waits until it was
// read; problem is a part of what must be wrong with it.
func (u *usher) rewrite(problem string, change func(text string) string) {
	u.t.Helper()
	var before, after server.ConfigReport
	u.get("/api/v1/config", &before)
	u.rewriteFile(change)
	u.eventually(5*time.Second, "reading its configuration again", func() bool {
		after = server.ConfigReport{}
		u.get("/api/v1/config", &after)
		return problem != "" && strings.Contains(after.Problem, problem) || problem == "" && after.LoadedAt.After(before.LoadedAt)
	})
}

// rewriteFile is rewrite, of an usher that does not run.
func (u *usher) rewriteFile(change func(text string) string) {
	u.t.Helper()
	file := filepath.Join(u.dir, "usher.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		u.t.Fatal(err)
	}
	if err := os.WriteFile(file+".new", []byte(change(string(text))), 0o600); err != nil {
		u.t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		u.t.Fatal(err)
	}
}

func replaced(old, with string) func(string) string {
	return func(text string) string {
		if !strings.Contains(text, old) {
			panic("the configuration does not have " + old)
		}
		return strings.Replace(text, old, with, 1)
	}
}

// metric reads one number from /metrics.
func (u *usher) metric(name string) (value string) {
	u.t.Helper()
	resp, err := http.Get("http://" + u.http + "/metrics")
	if err != nil {
		u.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		u.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if after, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(after)
		}
	}
	return ""
}

func TestAChangedConfigurationIsFollowedAndABadOneIsNot(t *testing.T) {
	u := newUsher(t)
	u.start()
	u.wantCLI(1, "server.listen: "+u.http+" -> 127.0.0.1:8080 (after a restart)", "config", "diff", "--exit-code") // a flag says otherwise
	u.wantCLI(0, "no difference", "config", "diff", "--exit-code", "--with", "usher.yaml")
	u.rewrite("", replaced("order.placed:  {plugin: shop}", "order.placed:  {plugin: shop, delay: {default: 1h}}"))
	u.wantCLI(0, "early", "send", "order.placed", "--id", "early")
	u.eventually(5*time.Second, "delaying by the new rule", func() bool { return u.message("early").State == engine.Delayed })

	u.rewrite("prioirty", replaced("{plugin: shop, priority: 3}", "{plugin: shop, prioirty: 3}"))
	if v := u.metric("usher_config_last_reload_successful"); v != "0" {
		t.Errorf("the metric says %q of a bad configuration, want 0", v)
	}
	u.wantCLI(1, "did you mean", "doctor")
	u.wantCLI(0, "done", "send", "receipt.email", "--id", "mail", "--wait")
	u.wantCLI(3, "usher.yaml:6", "config", "diff")

	u.rewrite("", replaced("prioirty", "priority"))
	if v := u.metric("usher_config_last_reload_successful"); v != "1" {
		t.Errorf("the metric says %q of a good configuration, want 1", v)
	}
	u.rewrite("", replaced("slots: 16", "slots: 8, window: 50"))
	u.wantCLI(0, "after a restart: engine.window", "doctor")
	u.stop()
	for _, says := range []string{`"key":"types.order.placed.delay.default"`, `"line":6`, `"engine.window"`} {
		if !strings.Contains(u.stderr.String(), says) {
			t.Errorf("the log does not say %s", says)
		}
	}
}

func TestARemovedTypeWaitsAndDoctorSaysSo(t *testing.T) {
	u := newUsher(t)
	u.start()
	const line = "  report.daily:  {plugin: shop, priority: 2}\n"
	u.rewrite("", replaced(line, ""))
	u.wantCLI(0, "kept-3", "send", "report.daily", "--id", "kept", "--count", "3")
	u.eventually(10*time.Second, "holding it", func() bool { return u.message("kept-2").Held })
	u.eventually(5*time.Second, "telling of it", func() bool {
		var l server.TypeList
		u.get("/api/v1/types", &l)
		return slices.ContainsFunc(l.Items, func(item server.Type) bool { return item.Name == "report.daily" && item.Waiting == 3 })
	})
	u.wantCLI(1, "report.daily is not in the configuration any more", "doctor")
	u.wantCLI(0, "held", "delay", "list", "--type", "report.daily")
	u.rewrite("", replaced("types:\n", "types:\n"+line))
	u.eventually(10*time.Second, "done with it", func() bool {
		return u.message("kept-1").State == engine.Done && u.message("kept-3").State == engine.Done
	})
	u.stop()
}

func TestATypeIsPausedAndResumed(t *testing.T) {
	u := newUsher(t)
	u.start()
	u.wantCLI(0, "report.daily is paused", "type", "pause", "report.daily")
	u.wantCLI(4, "no type", "type", "pause", "report.weekly")
	u.eventually(5*time.Second, "holding it", func() bool {
		var l server.TypeList
		u.get("/api/v1/types", &l)
		return slices.ContainsFunc(l.Items, func(item server.Type) bool { return item.Name == "report.daily" && item.Held })
	})
	u.wantCLI(0, "p", "send", "report.daily", "--id", "p")
	u.eventually(10*time.Second, "parking it", func() bool { return u.message("p").Held })
	u.stop() // it outlives the engine
	u.start()
	u.wantCLI(0, "1 wait", "type", "list")
	u.wantCLI(0, "report.daily runs", "type", "resume", "report.daily")
	u.eventually(10*time.Second, "done with it", func() bool { return u.message("p").State == engine.Done })
	u.stop()
}

// generation changes the plugin's environment, so that its process is swapped.
func generation(i int) func(text string) string {
	return func(text string) string {
		head, _, _ := strings.Cut(text, ", GENERATION")
		head = strings.TrimSuffix(strings.TrimSpace(head), "}}")
		return fmt.Sprintf("%s, GENERATION: \"%d\"}}\n", head, i)
	}
}

// TestNothingIsLostWhenTheConfigurationChangesUnderLoad swaps the plugin's process,
// and types' settings, again and again.
func TestNothingIsLostWhenTheConfigurationChangesUnderLoad(t *testing.T) {
	const reloads = 8
	seed := rand.Uint64()
	u := newUsher(t)
	u.start()
	l := ledger.New(ledger.Config{Broker: u.stomp, Kinds: ledger.Shop(), Every: 10 * time.Millisecond, Seed: seed})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var producers sync.WaitGroup
	for p := range 4 {
		producers.Go(func() { l.Produce(ctx, fmt.Sprintf("p%d", p)) })
	}
	for i := range reloads {
		u.rewrite("", generation(i))
	}
	stop()
	producers.Wait()
	u.drained()
	r, err := records.Open(records.Config{Path: u.dir + "/.usher/records.db", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	a, err := l.Close(t.Context(), ledger.Evidence{Effects: []string{u.effects}, Broker: u.stomp, Table: r, Archive: r})
	if err != nil {
		t.Fatal(err)
	}
	u.stop()
	t.Logf("ledger after %d reloads, seed %d: %v", reloads, seed, a)
	if a.Lost != 0 || a.Unexpected != 0 || a.Duplicated != 0 || a.Acknowledged < 100 {
		t.Errorf("lost %d, unexpected %d, duplicated %d, acknowledged %d; want 0, 0, 0 and at least 100", a.Lost, a.Unexpected, a.Duplicated, a.Acknowledged)
	}
	if n := strings.Count(u.stderr.String(), "takes over when it is ready"); n != reloads {
		t.Errorf("the plugin was swapped %d times, want %d", n, reloads)
	}
}
