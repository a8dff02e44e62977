package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"usher/engine"
	"usher/server"
)

// here runs a command in this process.
func here(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = Run(t.Context(), args, strings.NewReader(""), &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

func TestUsageErrorsExitTwo(t *testing.T) {
	for _, args := range [][]string{
		{"nonsense"}, {"config", "nonsense"}, {"send"}, {"send", "a", "b"}, {"send", "a", "--priority", "high"}, {"send", "a", "--priority", "10"},
		{"send", "a", "--delay", "soon"}, {"send", "a", "--header", "x"}, {"send", "a", "--count", "0"}, {"dev", "--no-such-flag"},
		{"msg", "show"}, {"delay", "set", "a"}, {"plugin", "serve", "nobody"}, {"dlq", "redrive"}, {"dlq", "redrive", "--all", "--rate", "0"}, {"dlq", "redrive", "a", "--all"}, {"dlq", "drop"}, {"dlq", "list", "--since", "soon"},
		{"dlq", "list", "--level", "10"}, {"run", "--roles", "cook", "--config", "/dev/null"}, {"run", "--roles", "", "--config", "/dev/null"}, {"run", "--roles", "monitor", "--config", "/dev/null"}, {"dev", "--for", "-1s"},
	} {
		if code, _, errs := here(t, args...); code != exitUsage || errs == "" {
			t.Errorf("usher %s: exit %d (%s), want 2 and a word", strings.Join(args, " "), code, errs)
		}
	}
}

func TestNobodyThereExitsFive(t *testing.T) {
	t.Setenv("USHER_URL", "http://127.0.0.1:1")
	t.Setenv("USHER_BROKER", "stomp://127.0.0.1:1")
	for _, args := range [][]string{
		{"send", "a"}, {"watch", "x"}, {"msg", "show", "x"}, {"queues"}, {"delay", "list"}, {"dlq", "list"}, {"plugin", "ls"}, {"doctor", "--ready"}, {"doctor"},
	} {
		if code, _, errs := here(t, args...); code != exitUnreachable || !strings.Contains(errs, "USHER_") {
			t.Errorf("usher %s: exit %d (%s), want 5 and the variable that says where", strings.Join(args, " "), code, errs)
		}
	}
}

func TestBadDataIsRefusedBeforeItIsSent(t *testing.T) {
	if code, _, errs := here(t, "send", "a", "--data", "{"); code != exitInvalid || !strings.Contains(errs, "JSON") {
		t.Errorf("exit %d: %s", code, errs)
	}
	if code, _, errs := here(t, "send", "a", "--data", "@/no/such/file"); code != exitInvalid || !strings.Contains(errs, "/no/such/file") {
		t.Errorf("exit %d: %s", code, errs)
	}
}

// TestEveryCommandHasHelpWithAnExample holds the command line to its own style.
func TestEveryCommandHasHelpWithAnExample(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Name() == "help" || c.Name() == "completion" || c.HasParent() && c.Parent().Name() == "completion" {
			return
		}
		if c.Short == "" || c.Example == "" {
			t.Errorf("%s has no short help or no example", c.CommandPath())
		}
		for line := range strings.Lines(c.Long + "\n" + c.Example) {
			if len(strings.TrimRight(line, "\n")) > 90 {
				t.Errorf("%s: a help line is %d wide: %s", c.CommandPath(), len(line), line)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot())
}

func TestAWrongConfigIsExplainedBeforeAnythingStarts(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("types:\n  a: {plugin: shp, prioirty: 9}\nplugins:\n  shop: {command: [usher, plugin, serve, shop]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"config", "validate", bad}, {"dev", "--config", bad, "--state", dir}, {"run", "--config", bad, "--state", dir}} {
		code, _, errs := here(t, args...)
		if code != exitInvalid || !strings.Contains(errs, "bad.yaml:2:") || !strings.Contains(errs, `"priority"`) || !strings.Contains(errs, `"shop"`) || !strings.Contains(errs, "^") {
			t.Errorf("usher %s: exit %d\n%s", strings.Join(args, " "), code, errs)
		}
	}
	code, _, errs := here(t, "dev", "--config", "/no/such.yaml", "--state", dir)
	if code != exitInvalid || !strings.Contains(errs, "/no/such.yaml") {
		t.Errorf("a missing file: exit %d\n%s", code, errs)
	}
}

func TestATakenPortAndAMissingPluginAreExplained(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	taken := ln.Addr().String()
	dir := t.TempDir()
	for _, flag := range []string{"--listen", "--stomp"} {
		other := map[string]string{"--listen": "--stomp", "--stomp": "--listen"}[flag]
		code, _, errs := here(t, "dev", "--demo", flag, taken, other, "127.0.0.1:0")
		if code != exitFailed || !strings.Contains(errs, taken) || !strings.Contains(errs, flag) {
			t.Errorf("%s: exit %d: %s", flag, code, errs)
		}
	}
	missing := filepath.Join(dir, "missing.yaml")
	if err := os.WriteFile(missing, []byte("types:\n  a: {plugin: p}\nplugins:\n  p: {command: [./no/such/program]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, errs := here(t, "dev", "--config", missing, "--state", dir, "--listen", "127.0.0.1:0", "--stomp", "127.0.0.1:0")
	if code != exitInvalid || !strings.Contains(errs, "no/such/program") {
		t.Errorf("a missing plugin: exit %d: %s", code, errs)
	}
}

func TestTheDemoEndsByItselfWithEveryMessageAccountedFor(t *testing.T) {
	u := newUsher(t)
	code, out, errs := u.cli("dev", "--demo", "--for", "6s", "--listen", "127.0.0.1:0", "--stomp", "127.0.0.1:0")
	if code != 0 || !strings.Contains(out, "every message is accounted for") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	for _, says := range []string{"LEVEL", "order.rush", "card.charge", "wait for their time", "p9"} {
		if !strings.Contains(out, says) {
			t.Errorf("the demo does not show %q:\n%s", says, out)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Error("there are escape codes although it is no terminal")
	}
}

func TestTheFirstFiveMinutes(t *testing.T) {
	u := newUsher(t)
	u.start()
	u.wantCLI(0, "done", "send", "order.rush", "--priority", "9", "--id", "order-7", "--data", `{"order":7}`, "--wait")
	u.wantCLI(0, "done", "msg", "show", "order-7")
	u.wantCLI(0, "done", "watch", "order-7")
	u.wantCLI(exitNotFound, "not seen", "msg", "show", "nobody")
	u.wantCLI(0, "LEVEL", "queues")
	u.wantCLI(0, "shop", "plugin", "ls")
	u.wantCLI(0, "ok", "doctor")
	u.wantCLI(0, "", "doctor", "--ready")
	u.wantCLI(0, "usher.yaml: valid", "config", "validate")
	u.wantCLI(0, "order.rush", "config", "show")
	u.wantCLI(0, "$schema", "config", "schema")
	u.wantCLI(0, "good", "dlq", "list")

	u.wantCLI(exitFailed, "dead", "send", "card.charge", "--id", "card-1", "--wait")
	u.wantCLI(exitFailed, "dead", "send", "no.such.type", "--id", "type-1", "--wait")
	u.archived(2)
	u.wantCLI(0, "exhausted", "dlq", "list", "--type", "card.charge")
	u.wantCLI(0, "usher_deadReason: unknown_type", "dlq", "show", "type-1")
	u.wantCLI(exitNotFound, "no dead letter", "dlq", "show", "order-7")
	u.wantCLI(0, "1 would be redriven", "dlq", "redrive", "card-1", "--dry-run")
	// It fails again within milliseconds, and must not be sent round and round.
	u.wantCLI(0, "1 of 1 are redriven", "dlq", "redrive", "card-1")
	u.eventually(5*time.Second, "dead again", func() bool { m := u.message("card-1"); return m.State == engine.Dead && m.Hop >= 3 })

	u.archived(2)
	var letters []server.Letter
	if err := json.Unmarshal([]byte(u.wantCLI(0, "", "dlq", "list", "--json")), &letters); err != nil || len(letters) != 2 {
		t.Errorf("%d dead letters (%v), want 2", len(letters), err)
	}
	u.wantCLI(0, "few-3", "send", "order.placed", "--count", "3", "--id", "few", "-p", "0")
	u.stop()
}

func TestAProblemOfBadInputEndsInTheDeadLetterQueueOnce(t *testing.T) {
	u := newUsher(t)
	u.start()
	client := u.dial()
	send := func(body string, headers ...string) {
		h := map[string]string{}
		for i := 0; i < len(headers); i += 2 {
			h[headers[i]] = headers[i+1]
		}
		if err := client.Send(t.Context(), engine.Outgoing{Queue: engine.WorkQueue, Headers: h, Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	send("{}", engine.HeaderID, "no-type")
	send("{}", engine.HeaderID, "unknown", engine.HeaderType, "zebra")
	send("{}", engine.HeaderID, strings.Repeat("x", 600), engine.HeaderType, "order.rush")
	send("{}", engine.HeaderID, "not-before", engine.HeaderType, "order.rush", engine.HeaderNotBefore, "tomorrow")
	send(strings.Repeat("x", engine.DefaultMaxBody+1), engine.HeaderID, "large", engine.HeaderType, "order.rush")
	send("{}", engine.HeaderID, "late", engine.HeaderType, "order.rush", engine.HeaderExpiresAt, "1000")
	send("one", engine.HeaderID, "twice", engine.HeaderType, "order.rush")
	u.eventually(5*time.Second, "done with the first", func() bool { return u.message("twice").State == engine.Done })
	send("two", engine.HeaderID, "twice", engine.HeaderType, "order.rush")

	want := map[string]string{
		"no-type": engine.ReasonNoType, "unknown": engine.ReasonUnknownType, "not-before": engine.ReasonBadHeader,
		"large": engine.ReasonTooLarge, "late": engine.ReasonExpired, "twice": engine.ReasonIDConflict, "": engine.ReasonBadID,
	}
	var letters []server.Letter
	u.eventually(10*time.Second, "done with bad input", func() bool {
		_, out, _ := u.cli("dlq", "list", "--json")
		return json.Unmarshal([]byte(out), &letters) == nil && len(letters) >= len(want)
	})
	if len(letters) != len(want) {
		t.Errorf("%d dead letters, want %d", len(letters), len(want))
	}
	for _, l := range letters {
		reason, known := want[l.ID]
		if !known {
			reason = want[""] // the bad id is replaced by the broker's
		}
		if l.Reason != reason || l.Detail == "" {
			t.Errorf("%.40q is dead for %q (%s), want %q", l.ID, l.Reason, l.Detail, reason)
		}
	}
	if code := u.get("/readyz", nil); code != 200 {
		t.Errorf("/readyz says %d after all that", code)
	}
	u.stop()
}

func TestLayersStopInReverse(t *testing.T) {
	var order []string
	part := func(name string) layer {
		return layer{name, func(ctx context.Context) error {
			<-ctx.Done()
			order = append(order, name)
			return nil
		}}
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := runLayers(ctx, part("broker"), part("plugins"), part("engine")); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(order, " "); got != "engine plugins broker" {
		t.Errorf("stopped in the order %s", got)
	}
}

func TestALayerThatEndsStopsTheOthersAndSaysWhy(t *testing.T) {
	err := runLayers(t.Context(),
		layer{"broker", func(ctx context.Context) error { <-ctx.Done(); return nil }},
		layer{"engine", func(context.Context) error { return context.DeadlineExceeded }},
	)
	if err == nil || !strings.Contains(err.Error(), "engine: context deadline exceeded") {
		t.Errorf("error %v", err)
	}
}
