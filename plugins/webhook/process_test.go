package webhook

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"usher/engine/pluginhost"
	"usher/handlers"
	"usher/handlers/handlertest"
)

// role makes this test binary be the plugin when a test starts it.
const role = "USHER_TEST_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(role) == "webhook" {
		Serve()
		return
	}
	goleak.VerifyTestMain(m)
}

// lines collects a log; safe for concurrent use.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// launch runs the plugin as a process, as usher does.
func launch(t *testing.T, env map[string]string) (*pluginhost.Host, *lines) {
	t.Helper()
	env[role] = "webhook"
	log := &lines{}
	host, err := pluginhost.New(pluginhost.Config{
		Plugins: map[string]pluginhost.Plugin{"hooks": {Command: os.Args[:1], Env: env}},
		Types:   map[string]string{"order.placed": "hooks"}, Log: zerolog.New(log),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- host.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return host, log
}

func TestARealProcessSendsAndIsAnswered(t *testing.T) {
	status := make(chan int, 1)
	port := serve(t, "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if string(body) != `{"order":7}` || !strings.HasPrefix(r.Header.Get("Webhook-Signature"), "v1,") {
			t.Errorf("got %q, signed %q", body, r.Header.Get("Webhook-Signature"))
		}
		w.Header().Set("Retry-After", "120")
		w.WriteHeader(<-status)
	}))
	host, log := launch(t, map[string]string{
		"WEBHOOK_URLS": "order.placed=http://127.0.0.1:" + port, "WEBHOOK_SECRET": secret, "WEBHOOK_ALLOW_HTTP": "true", "WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := host.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		status int
		kind   handlers.Kind
		code   string
		after  time.Duration
	}{
		{204, handlers.Done, "", 0}, {429, handlers.Retry, "", 2 * time.Minute}, {422, handlers.Rejected, "http_422", 0}, {302, handlers.Rejected, "redirect", 0},
	} {
		status <- c.status
		o := handlertest.Run(t, host, handlertest.Message("order.placed", []byte(`{"order":7}`))).Outcome
		if o.Kind != c.kind || o.Code != c.code || o.After != c.after {
			t.Errorf("%d: %+v", c.status, o)
		}
	}
	if strings.Contains(log.String(), "MDEyMzQ1") {
		t.Errorf("the log shows the secret:\n%s", log)
	}
}

func TestARealProcessSaysWhatIsWrongWithItsSettings(t *testing.T) {
	host, log := launch(t, map[string]string{"WEBHOOK_URLS": "order.placed=https://10.0.0.1/", "WEBHOOK_SECRET": "hidden"})
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	over := time.After(20 * time.Second)
	for host.Status()[0].LastError == "" {
		select {
		case <-tick.C:
		case <-over:
			t.Fatal("it does not say that it has ended")
		}
	}
	said := log.String() + host.Status()[0].LastError
	if !strings.Contains(said, "the address is not a public one: 10.0.0.1") || !strings.Contains(said, "WEBHOOK_SECRET") || strings.Contains(said, "hidden") {
		t.Errorf("it says:\n%s", said)
	}
}
