package process

import (
	"bytes"
	"context"
	"net/http"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// startTimeout is how long a server has until it answers.
const startTimeout = 30 * time.Second

// Serve starts a command that serves HTTP at a URL and returns when it answers. It is
// killed by t.Cleanup; what it wrote is logged if the test failed.
func Serve(t testing.TB, name, url string, cmd *exec.Cmd) {
	t.Helper()
	var out output
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := Start(cmd)
	if err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Errorf("kill %s: %v", name, err)
		}
		if t.Failed() {
			t.Logf("what %s wrote:\n%s", name, out.text())
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(req)
		if err == nil {
			answer.Body.Close()
			return
		}
		select {
		case <-tick.C:
		case <-p.Ended:
			t.Fatalf("%s ended while it started", name)
		case <-ctx.Done():
			t.Fatalf("%s does not answer after %v: %v", name, startTimeout, err)
		}
	}
}

// output gathers what a process writes, from two streams.
type output struct {
	mu  sync.Mutex
	all bytes.Buffer // guarded by mu
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.Write(p)
}

func (o *output) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.String()
}
