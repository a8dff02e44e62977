package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"usher/engine"
	"usher/engine/enginetest/process"
	"usher/engine/monitor"
	"usher/engine/monitor/webhook"
	"usher/server"
)

// archived waits until so many dead letters wait for somebody.
func (u *usher) archived(n int) {
	u.t.Helper()
	u.eventually(10*time.Second, fmt.Sprintf("done with archiving %d", n), func() bool {
		var tally server.TallyList
		u.get("/api/v1/dead/tally", &tally)
		return tally.Total == n
	})
}

// sendDead sends messages that die at once, for their type is unknown.
func (u *usher) sendDead(typ, body string, ids ...string) {
	u.t.Helper()
	client := u.dial()
	for _, id := range ids {
		out := engine.Outgoing{Queue: engine.WorkQueue, Body: []byte(body), Headers: map[string]string{engine.HeaderID: id, engine.HeaderType: typ, engine.HeaderPriority: "6"}}
		if err := client.Send(u.t.Context(), out); err != nil {
			u.t.Fatal(err)
		}
	}
}

func TestDeadLettersAreLookedAfter(t *testing.T) {
	u := newUsher(t)
	u.start()
	u.wantCLI(exitNotFound, "no dead letter matches", "dlq", "list", "--type", "zebra")
	u.wantCLI(exitNotFound, "no dead letter matches", "dlq", "redrive", "--type", "zebra")
	u.wantCLI(exitNotFound, "no dead letter matches", "dlq", "drop", "--all")
	u.wantCLI(exitNotFound, "no dead letter matches", "dlq", "export")
	u.sendDead("zebra", "\x1b[2Jsecret\x00", "z-1", "z-2", "z-3")
	u.sendDead("giraffe", "tall", "g-1")
	u.archived(4)

	out := u.wantCLI(0, "unknown_type", "dlq", "list", "--level", "6", "--since", "1h")
	if strings.Contains(out, "secret") || strings.Count(out, "\n") != 5 {
		t.Errorf("the list is\n%s", out)
	}
	var kinds []letterKind
	if err := json.Unmarshal([]byte(u.wantCLI(0, "", "dlq", "list", "--kinds", "--json")), &kinds); err != nil || len(kinds) != 2 || kinds[0].Count != 3 || kinds[0].Type != "zebra" {
		t.Errorf("%v, the kinds are %+v", err, kinds)
	}
	u.wantCLI(0, "z-2", "dlq", "list", "--fingerprint", kinds[0].Fingerprint)
	shown := u.wantCLI(0, `\x1b[2Jsecret\x00`, "dlq", "show", "z-1")
	if strings.Contains(shown, "\x1b") || !strings.Contains(shown, "usher_deadReason: unknown_type") {
		t.Errorf("it is shown as\n%q", shown)
	}
	u.wantCLI(exitNotFound, "no dead letter nobody", "dlq", "show", "nobody")
	u.wantCLI(exitNotFound, "no dead letter nobody", "dlq", "redrive", "nobody")

	u.wantExport("z-1", "z-2", "z-3")
	u.wantCLI(0, "1 would be dropped", "dlq", "drop", "g-1", "--dry-run")
	u.wantCLI(0, "1 of 1 are dropped", "dlq", "drop", "g-1")
	u.wantCLI(0, "forgotten", "dlq", "show", "g-1")
	u.wantCLI(0, "3 would be redriven", "dlq", "redrive", "--type", "zebra", "--dry-run")
	u.archived(3)
	u.wantCLI(0, "3 dead letters wait for somebody: unknown_type 3", "doctor")
	u.stop()
}

// wantExport exports all that wait of the type zebra, to a file and to standard output.
func (u *usher) wantExport(ids ...string) {
	u.t.Helper()
	file := filepath.Join(u.dir, "letters.jsonl")
	u.wantCLI(0, fmt.Sprintf("%d dead letters are exported", len(ids)), "dlq", "export", "--type", "zebra", "--out", file)
	u.wantCLI(exitFailed, "exists", "dlq", "export", "--type", "zebra", "--out", file)
	text, err := os.ReadFile(file)
	if err != nil {
		u.t.Fatal(err)
	}
	if out := u.wantCLI(0, "", "dlq", "export", "--type", "zebra"); out != string(text) {
		u.t.Errorf("standard output has\n%s, and the file\n%s", out, text)
	}
	var got []string
	for line := range strings.Lines(string(text)) {
		var l struct {
			ID      string            `json:"id"`
			Body    string            `json:"body"`
			Headers map[string]string `json:"headers"`
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.Headers[engine.HeaderType] != "zebra" {
			u.t.Fatalf("%v in the line %s", err, line)
		}
		if body, err := base64.StdEncoding.DecodeString(l.Body); err != nil || string(body) != "\x1b[2Jsecret\x00" {
			u.t.Errorf("the body of %s is %q, %v", l.ID, body, err)
		}
		got = append(got, l.ID)
	}
	if slices.Sort(got); !slices.Equal(got, ids) {
		u.t.Errorf("exported are %v, want %v", got, ids)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		u.t.Errorf("the file is %v, %v", info.Mode(), err)
	}
}

// What fails each time it is redriven must not go round for ever.
func TestARedriveLoopEnds(t *testing.T) {
	u := newUsher(t)
	u.start()
	u.sendDead("zebra", "x", "z-1")
	for range engine.MaxRedrives {
		u.archived(1)
		u.wantCLI(0, "1 of 1 are redriven", "dlq", "redrive", "z-1")
	}
	u.archived(1)
	u.wantCLI(exitConflict, "was redriven 3 times", "dlq", "redrive", "z-1")
	u.wantCLI(exitConflict, "redrive_loop", "dlq", "redrive", "--all", "--json")
	u.wantCLI(0, "1 of 1 are redriven", "dlq", "redrive", "z-1", "--force")
	u.archived(1)
	u.stop()
}

func TestARedrivenMessageThatDiesAgainIsAnotherLetter(t *testing.T) {
	u := newUsher(t)
	u.start()
	u.sendDead("zebra", "x", "z-1", "z-2")
	u.archived(2)
	u.wantCLI(0, "1 of 1 are redriven", "dlq", "redrive", "z-1")
	u.eventually(10*time.Second, "dead again", func() bool { return u.message("z-1").Hop >= 3 })
	u.archived(2)
	if got := u.wantCLI(0, "redriven", "dlq", "list", "--state", "all"); strings.Count(got, "z-1") != 2 {
		t.Errorf("the list is\n%s", got)
	}
	code, out, errs := u.cli("dlq", "redrive", "z-1", "z-2", "--json")
	var r passResult
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 || r.Chosen != 2 || r.Done != 2 {
		t.Errorf("exit %d, %v: %s%s", code, err, out, errs)
	}
	u.stop()
}

// Somebody sent the message again, and that copy was done.
func TestWhatIsDoneAlreadyIsNotRedriven(t *testing.T) {
	u := newUsher(t)
	u.start()
	client := u.dial()
	headers := map[string]string{engine.HeaderID: "order-7", engine.HeaderType: "order.rush"}
	if err := client.Send(t.Context(), engine.Outgoing{Queue: engine.WorkQueue, Body: []byte("{}"), Headers: headers}); err != nil {
		t.Fatal(err)
	}
	u.eventually(10*time.Second, "done with it", func() bool { return u.message("order-7").State == engine.Done })
	headers[engine.HeaderDeadReason] = engine.ReasonExhausted
	if err := client.Send(t.Context(), engine.Outgoing{Queue: engine.DeadQueue, Body: []byte("{}"), Headers: headers}); err != nil {
		t.Fatal(err)
	}
	u.archived(1)
	u.wantCLI(exitConflict, "order-7 is done already", "dlq", "redrive", "order-7")
	u.archived(1)
	u.stop()
}

func TestRedrivingAtARateIsEven(t *testing.T) {
	u := newUsher(t)
	u.start()
	const n, rate = 200, 100
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("z-%03d", i)
	}
	u.sendDead("zebra", "x", ids...)
	u.archived(n)
	began := time.Now()
	u.wantCLI(0, "200 of 200 are redriven", "dlq", "redrive", "--all", "--rate", fmt.Sprint(rate))
	took := time.Since(began).Seconds()
	if got := n / took; got > rate*1.06 || got < rate*0.5 {
		t.Errorf("%d were redriven in %.2f s: %.0f a second, want at most %d", n, took, got, rate)
	}
	u.archived(n) // each died again, once
	u.stop()
}

// The pace is even, catches up what a slow moment cost, and no more than that.
func TestAPacerKeepsItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		p := newPacer(500)
		for i := range 10_000 {
			if i%1000 == 500 {
				<-time.After(200 * time.Millisecond) // a slow moment
			}
			if err := p.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if rate := 10_000 / time.Since(began).Seconds(); math.Abs(rate-500) > 5 {
			t.Errorf("10,000 took %v: %.1f a second, want 500", time.Since(began), rate)
		}
		<-time.After(time.Minute)
		began = time.Now()
		for range 1000 {
			if err := p.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took < 900*time.Millisecond {
			t.Errorf("after a pause 1000 took %v: that is no rate", took)
		}
	})
}

// A receiver that fails at first is told all the same, and holds up nothing.
func TestPeopleAreTold(t *testing.T) {
	asked := 0
	notes := make(chan string, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if asked++; asked == 1 || err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		if sign := r.Header.Get(webhook.SignatureHeader); sign != webhook.Sign([]byte("s3cret"), body) {
			t.Errorf("the signature is %q", sign)
		}
		notes <- string(body)
	}))
	defer receiver.Close()
	t.Setenv("USHER_WEBHOOK_SECRET", "s3cret")
	t.Setenv("USHER__MONITOR__WEBHOOK__URL", receiver.URL+"/T0/hunter2")
	t.Setenv("USHER__MONITOR__WINDOW", "2s")
	u := newUsher(t)
	u.start()
	u.sendDead("zebra", "payload", "z-1")
	u.archived(1)
	u.sendDead("zebra", "payload", "z-2", "z-3")
	for _, want := range []struct {
		first bool
		count int
	}{{true, 1}, {false, 2}} {
		select {
		case body := <-notes:
			var n monitor.Note
			if err := json.Unmarshal([]byte(body), &n); err != nil || n.First != want.first || n.Count != want.count || n.Type != "zebra" || strings.Contains(body, "payload") {
				t.Errorf("%v, the note is %s, want %+v", err, body, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("no note came after %d requests\n%s", asked, u.stderr)
		}
	}
	u.stop()
	if strings.Contains(u.stderr.String(), "hunter2") {
		t.Errorf("the log tells the URL:\n%s", u.stderr)
	}
}

// An engine and a monitor in two processes, on one broker and one record table.
func TestEngineAndMonitorInTwoProcesses(t *testing.T) {
	u := newUsher(t)
	u.start() // its broker is the one of the two others
	dir := t.TempDir()
	process := func(role string) *usher {
		other := &usher{t: t, dir: dir, http: process.FreeAddress(t), stomp: u.stomp, stderr: &bytes.Buffer{}, exited: make(chan error, 1)}
		file := filepath.Join(dir, role+".yaml")
		text := fmt.Sprintf("broker: {urls: [\"stomp://%s\"], queue: other.work}\nserver: {listen: %s}\n"+
			"types: {order.rush: {plugin: shop}}\nplugins: {shop: {command: [usher, plugin, serve, shop]}}\n", u.stomp, other.http)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		other.cmd = exec.Command(binary(t), "run", "--config", file, "--roles", role)
		other.cmd.Dir, other.cmd.Stderr = dir, other.stderr
		if err := other.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if other.cmd != nil {
				other.kill()
			}
		})
		go func(cmd *exec.Cmd) { other.exited <- cmd.Wait() }(other.cmd)
		other.eventually(20*time.Second, "ready", func() bool { return other.get("/readyz", nil) == http.StatusOK })
		return other
	}
	e, m := process(roleEngine), process(roleMonitor)
	client := u.dial()
	out := engine.Outgoing{Queue: "other.work", Body: []byte("x"), Headers: map[string]string{engine.HeaderID: "z-1", engine.HeaderType: "zebra"}}
	if err := client.Send(t.Context(), out); err != nil {
		t.Fatal(err)
	}
	m.archived(1)
	e.archived(1)
	e.wantCLI(0, "z-1", "dlq", "list")
	m.wantCLI(0, "1 of 1 are redriven", "dlq", "redrive", "z-1")
	e.eventually(10*time.Second, "done with it again", func() bool { m := e.message("z-1"); return m.State == engine.Dead && m.Hop == 3 })
	e.archived(1)
	m.stop()
	e.stop()
	u.stop()
}
