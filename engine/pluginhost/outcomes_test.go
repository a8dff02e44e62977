package pluginhost_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"usher/engine"
	"usher/engine/pluginhost"
	"usher/handlers"
)

func TestAnswersComeBackAsTheyWereGiven(t *testing.T) {
	h := launch(t, settings{types: []string{"nothing", "plain", "after", "defer", "permanent", "drop", "panic"}})
	for typ, want := range map[string]handlers.Outcome{
		"nothing":   {Kind: handlers.Done},
		"plain":     {Kind: handlers.Retry, Err: errors.New("try again")},
		"after":     {Kind: handlers.Retry, After: time.Minute, Err: errors.New("soon")},
		"defer":     {Kind: handlers.Deferred, After: time.Hour},
		"permanent": {Kind: handlers.Rejected, Code: "no_stock", Err: errors.New("no")},
		"drop":      {Kind: handlers.Dropped},
		"panic":     {Kind: handlers.Retry, Code: handlers.CodePanic, Err: errors.New("panic: boom")},
	} {
		_, err := h.do(message(typ))
		got := handlers.OutcomeOf(err)
		if got.Kind != want.Kind || got.After != want.After || got.Code != want.Code {
			t.Errorf("%s: got %+v", typ, got)
		}
		if want.Err != nil && (got.Err == nil || !strings.HasPrefix(got.Err.Error(), want.Err.Error())) {
			t.Errorf("%s: got the error %v", typ, got.Err)
		}
	}
	if s := h.status(); s.Restarts != 0 || s.Version != "1.2.3" || len(s.Types) != 7 || s.LastError != "" {
		t.Errorf("status %+v", s)
	}
}

func TestFollowOnsComeBackAsTheyWereGiven(t *testing.T) {
	h := launch(t, settings{types: []string{"emit"}})
	got, err := h.do(message("emit"))
	if err != nil || len(got) != 2 {
		t.Fatalf("got %+v, %v", got, err)
	}
	if f := got[0]; f.Type != "first" || string(f.Body) != "body" {
		t.Errorf("first: %+v", f)
	}
	f := got[1]
	if f.Type != "second" || !bytes.Equal(f.Body, []byte{0, 255}) || f.ContentType != "x/y" || f.Headers["a"] != "b" ||
		f.Priority == nil || *f.Priority != 9 || f.Delay != time.Second || f.Key != "k" {
		t.Errorf("second: %+v", f)
	}
}

func TestTypeThatNobodyServes(t *testing.T) {
	h := launch(t, settings{types: []string{"nothing"}})
	_, err := h.do(message("unheard"))
	if o := handlers.OutcomeOf(err); o.Kind != handlers.Rejected || o.Code != handlers.CodeNoHandler {
		t.Errorf("got %v", err)
	}
	if name, ok := h.Plugin("unheard"); ok || name != "" {
		t.Errorf("served by %q", name)
	}
	if name, ok := h.Plugin("nothing"); !ok || name != "test" {
		t.Errorf("served by %q", name)
	}
}

func TestPluginDownTakesNoMessages(t *testing.T) {
	h, err := pluginhost.New(pluginhost.Config{
		Plugins: map[string]pluginhost.Plugin{"test": {Command: os.Args[:1]}}, Types: map[string]string{"nothing": "test"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.HandleMessage(t.Context(), message("nothing")); !errors.Is(err, engine.ErrPluginLost) {
		t.Errorf("got %v", err)
	}
	if c := h.Credit("test") + h.Credit("unheard"); c != 0 {
		t.Errorf("credit %d", c)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Run(ended); err != nil {
		t.Errorf("Run: %v", err)
	}
	if err := h.Run(ended); err == nil {
		t.Error("Run ran twice")
	}
	if err := h.WaitReady(t.Context()); err == nil || !strings.Contains(err.Error(), "plugin test is not ready: the host has ended") {
		t.Errorf("WaitReady: %v", err)
	}
}

func TestPluginHasNoSecretOfTheHost(t *testing.T) {
	t.Setenv("USHER_BROKER_PASSCODE", "canary")
	h := launch(t, settings{types: []string{"env"}, env: map[string]string{"GREETING": "hello"}})
	got, err := h.do(message("env"))
	if err != nil {
		t.Fatal(err)
	}
	env := string(got[0].Body)
	if strings.Contains(env, "canary") || !strings.Contains(env, "GREETING=hello\n") {
		t.Errorf("the plugin has\n%s", env)
	}
	for line := range strings.SplitSeq(env, "\n") {
		name, _, _ := strings.Cut(line, "=")
		known := []string{"PATH", "HOME", "TMPDIR", "LANG", "TZ", "GREETING", "GORACE", role, "USHER_PLUGIN"}
		certificate := !strings.Contains(line, "=") || !isName(name)
		if !slices.Contains(known, name) && !strings.HasPrefix(name, "PLUGIN_") && !certificate {
			t.Errorf("the plugin has %s", line)
		}
	}
}

// Others of the machine reach no plugin: its socket is in a folder that is only its
// user's.
func TestNobodyElseReachesThePluginsSocket(t *testing.T) {
	dir := launch(t, settings{types: []string{"nothing"}}).dir
	var sockets []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type()&fs.ModeSocket != 0 {
			sockets = append(sockets, path)
		}
		return err
	})
	if err != nil || len(sockets) != 1 {
		t.Fatalf("the sockets are %q, %v", sockets, err)
	}
	for at := filepath.Dir(sockets[0]); at != dir; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 == 0 {
			return // nobody else enters it
		}
	}
	t.Errorf("others may enter the folder of %s", sockets[0])
}

// isName tells a variable from a line of the certificate.
func isName(s string) bool {
	return s == strings.ToUpper(s) && !strings.Contains(s, "/") && !strings.Contains(s, "+") && !strings.HasPrefix(s, "-----")
}

func TestPluginRunsInItsFolderAndGroup(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h := launch(t, settings{types: []string{"where"}, plugin: pluginhost.Plugin{Dir: dir}})
	got, err := h.do(message("where"))
	if err != nil {
		t.Fatal(err)
	}
	is := strings.Split(string(got[0].Body), "\n")
	if is[2] != dir || is[3] != is[4] || number(t, is[3]) != h.status().PID {
		t.Errorf("it is %q; the status is %+v", is, h.status())
	}
}

func TestNeverMoreMessagesThanCredit(t *testing.T) {
	h := launch(t, settings{types: []string{"crowd"}})
	if c := h.Credit("test"); c != concurrency {
		t.Errorf("credit %d", c)
	}
	var work sync.WaitGroup
	for range 16 {
		work.Go(func() {
			for range 25 {
				got, err := h.do(message("crowd"))
				if err != nil || number(t, string(got[0].Body)) > concurrency {
					t.Errorf("got %s, %v", got[0].Body, err)
				}
				if c := h.Credit("test"); c != concurrency {
					t.Errorf("credit %d", c)
				}
			}
		})
	}
	work.Wait()
	if got, err := h.do(message("crowd")); err != nil || string(got[0].Body) != "4" {
		t.Errorf("never were all places taken: %v, %v", got, err)
	}
}

func TestDeadlineCancels(t *testing.T) {
	h := launch(t, settings{types: []string{"obedient", "late"}})
	pid := h.status().PID
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	obedient, late := h.begin(ctx, message("obedient")), h.begin(ctx, message("late"))
	_, err := obedient.result()
	if o := handlers.OutcomeOf(err); o.Kind != handlers.Retry || o.Code != handlers.CodeTimeout {
		t.Errorf("got %v", err)
	}
	if got, err := late.result(); err != nil || len(got) != 1 {
		t.Errorf("done late is done: got %v, %v", got, err)
	}
	if s := h.status(); s.PID != pid || s.State != pluginhost.Ready || s.InFlight != 0 {
		t.Errorf("status %+v", s)
	}
}

func TestHangIsKilledAfterTheGrace(t *testing.T) {
	h := launch(t, settings{types: []string{"hang", "obedient", "nothing"}, plugin: pluginhost.Plugin{Grace: 300 * time.Millisecond}})
	pid := h.status().PID
	bystander := h.begin(t.Context(), message("obedient"))
	bystander.awaitBegun()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := h.begin(ctx, message("hang")).result()
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, engine.ErrPluginLost) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took < 400*time.Millisecond {
		t.Errorf("killed after %v", took)
	}
	_, err = bystander.result()
	if !errors.Is(err, engine.ErrPluginLost) || errors.Is(err, context.DeadlineExceeded) ||
		!strings.Contains(err.Error(), `the message "id-hang" did not end within 300ms after it was cancelled`) {
		t.Errorf("the other message: %v", err)
	}
	if s := h.again(pid); s.Restarts != 1 || !strings.Contains(s.LastError, "id-hang") {
		t.Errorf("status %+v", s)
	}
	if _, err := h.do(message("nothing")); err != nil {
		t.Error(err)
	}
}

func TestCauseOfCancelComesBack(t *testing.T) {
	h := launch(t, settings{types: []string{"hang", "obedient"}, plugin: pluginhost.Plugin{Grace: 50 * time.Millisecond}})
	ctx, cancel := context.WithCancelCause(t.Context())
	obedient, hang := h.begin(ctx, message("obedient")), h.begin(ctx, message("hang"))
	obedient.awaitBegun()
	hang.awaitBegun()
	cancel(engine.ErrStopping)
	if _, err := obedient.result(); err == nil || !strings.Contains(err.Error(), "usher is stopping") {
		t.Errorf("obedient: %v", err)
	}
	if _, err := hang.result(); !errors.Is(err, engine.ErrStopping) || errors.Is(err, engine.ErrPluginLost) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hang: %v", err)
	}
}
