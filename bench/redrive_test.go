package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/stomp"
)

const (
	lettersMany = 10_000
	rateAsked   = 500
)

// redrives is how an operator sends ten thousand dead letters anew.
func redrives(*rig) measurement {
	const extra, missing = "extra runs", "without an effect"
	return measurement{
		name:  "redrive",
		title: "Ten thousand dead letters, redriven",
		how: `10,000 messages of a type that nobody serves are dead letters in the archive of a running ` + "`usher dev`" + `. The type is put into its configuration, and
` + "`usher dlq redrive --all --rate 500`" + ` sends them anew; its rate is from its start to its end, less nothing. Each run of a handler writes the message's idempotency
key to a file: a key that is there more than once is an extra run, which a keyed effect makes harmless.`,
		ways: []way{{"usher", func(t testing.TB) []value {
			u := startUsher(t)
			u.makeLetters(t)
			u.configure(t, true)
			took := u.redrive(t)
			runs := u.keys(t)
			return []value{rate("rate", lettersMany, took), {extra, "", float64(runs.all - runs.distinct)}, {missing, "", float64(lettersMany - runs.distinct)}}
		}}},
		answers: func(res results) []answer {
			off := make(series, 0, len(res.of("usher", "rate")))
			for _, v := range res.of("usher", "rate") {
				off = append(off, max(v/rateAsked-1, 1-v/rateAsked)*100)
			}
			return []answer{
				{"10,000 redriven at 500/s: off by", "at most 5 %", "%", off, atMost(5)},
				{"10,000 redriven: without an effect", "0", "", res.of("usher", missing), never(0)},
				{"10,000 redriven: extra runs (harmless)", "counted", "", res.of("usher", extra), func(series) bool { return true }},
			}
		},
	}
}

// usher is a running `usher dev`.
type usher struct {
	binary, dir, http, stomp, told string
}

func startUsher(t testing.TB) *usher {
	t.Helper()
	u := &usher{dir: t.TempDir(), http: freePort(t), stomp: freePort(t)}
	u.binary, u.told = filepath.Join(u.dir, "usher"), filepath.Join(u.dir, "told")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", u.binary, "usher").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if err := os.WriteFile(u.told, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	u.configure(t, false)
	cmd := exec.Command(u.binary, "dev", "--listen", u.http, "--stomp", u.stomp)
	var log bytes.Buffer
	cmd.Dir, cmd.Stderr = u.dir, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("usher dev: %v\n%.3000s", err, log.String())
		}
	})
	eventually(t, "usher is ready", func() bool { return u.get("/readyz", nil) })
	return u
}

func freePort(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// configure writes the configuration, with or without the type of the letters.
func (u *usher) configure(t testing.TB, known bool) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	types := typeNothing + ": {plugin: bench}"
	if known {
		types += "\n  " + typeEffect + ": {plugin: bench}"
	}
	text := fmt.Sprintf("log: {level: warn}\ntypes:\n  %s\nplugins:\n  bench: {command: [%q], env: {%s: %q}}\n", types, self, pluginRole, u.told)
	file := filepath.Join(u.dir, "usher.yaml")
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	if known {
		eventually(t, "the type is known", func() bool {
			var list struct {
				Items []struct{ Name string } `json:"items"`
			}
			return u.get("/api/v1/types", &list) && len(list.Items) == 2
		})
	}
}

// get asks for something; false if it is not there.
func (u *usher) get(path string, into any) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+u.http+path, http.NoBody)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK && (into == nil || json.Unmarshal(body, into) == nil)
}

// makeLetters sends what nobody serves yet, and waits until it is in the archive.
func (u *usher) makeLetters(t testing.TB) {
	t.Helper()
	p := &pair{address: u.stomp}
	var err error
	if p.client, err = stomp.Dial(t.Context(), stomp.Config{URLs: []string{"stomp://" + u.stomp}, Log: zerolog.Nop()}); err != nil {
		t.Fatal(err)
	}
	defer p.client.Close()
	p.fill(t, lettersMany, engine.WorkQueue, typeEffect, func(i int) int { return i % engine.Levels })
	eventually(t, "all are in the archive", func() bool {
		var tally struct {
			Total int `json:"total"`
		}
		return u.get("/api/v1/dead/tally", &tally) && tally.Total == lettersMany
	})
}

// redrive is what the operator types.
func (u *usher) redrive(t testing.TB) time.Duration {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), u.binary, "dlq", "redrive", "--all", "--rate", fmt.Sprint(rateAsked))
	cmd.Env = append(os.Environ(), "USHER_URL=http://"+u.http)
	began := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(began)
	if want := fmt.Sprintf("%d of %d are redriven", lettersMany, lettersMany); err != nil || !strings.Contains(string(out), want) {
		t.Fatalf("%v: %.2000s", err, out)
	}
	return took
}

type ran struct{ all, distinct int }

// keys waits until all have run, and counts their keys.
func (u *usher) keys(t testing.TB) (r ran) {
	t.Helper()
	eventually(t, "all have run", func() bool {
		text, err := os.ReadFile(u.told)
		if err != nil {
			return false
		}
		keys := map[string]bool{}
		r = ran{}
		for line := range strings.Lines(string(text)) {
			keys[line] = true
			r.all++
		}
		r.distinct = len(keys)
		return r.distinct >= lettersMany
	})
	return r
}
