package webhook_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"usher/engine/monitor"
	"usher/engine/monitor/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hook is a Webhook to a server that the test plays.
func hook(t *testing.T, secret string, answer http.HandlerFunc) *webhook.Webhook {
	t.Helper()
	server := httptest.NewServer(answer)
	w, err := webhook.New(webhook.Config{URL: server.URL + "/services/T0/hunter2", Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		server.Close()
	})
	return w
}

func aNote() monitor.Note {
	return monitor.Note{V: 1, Text: "3 more", Type: "order.placed", Reason: "exhausted", Fingerprint: "0123456789ab", Count: 3, IDs: []string{"order-7"}, From: time.Unix(0, 0).UTC()}
}

func TestANoteIsPostedAsSignedJSON(t *testing.T) {
	got := make(chan *http.Request, 1)
	body := make(chan []byte, 1)
	w := hook(t, "s3cret", func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- r
		body <- b
	})
	if err := w.Tell(t.Context(), aNote()); err != nil {
		t.Fatal(err)
	}
	r, b := <-got, <-body
	var n monitor.Note
	if err := json.Unmarshal(b, &n); err != nil || n.Text != "3 more" || n.Count != 3 || n.IDs[0] != "order-7" {
		t.Errorf("%v: %s", err, b)
	}
	if r.Method != http.MethodPost || r.URL.Path != "/services/T0/hunter2" || r.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%s %s, %v", r.Method, r.URL, r.Header)
	}
	if sign := r.Header.Get(webhook.SignatureHeader); sign != webhook.Sign([]byte("s3cret"), b) || !strings.HasPrefix(sign, "sha256=") || len(sign) != 71 {
		t.Errorf("the signature is %q", sign)
	}
}

func TestWithoutASecretNothingIsSigned(t *testing.T) {
	w := hook(t, "", func(_ http.ResponseWriter, r *http.Request) {
		if _, signed := r.Header[webhook.SignatureHeader]; signed {
			t.Error("it is signed")
		}
	})
	if err := w.Tell(t.Context(), aNote()); err != nil {
		t.Fatal(err)
	}
}

// A well-known signature, so that receivers can check their code.
func TestTheSignatureIsHMACSHA256(t *testing.T) {
	const want = "sha256=f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8"
	if got := webhook.Sign([]byte("key"), []byte("The quick brown fox jumps over the lazy dog")); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestWhatAnAnswerMeans(t *testing.T) {
	for status, want := range map[int]struct{ taken, again bool }{
		200: {true, false}, 204: {true, false}, 301: {false, false}, 307: {false, false}, 400: {false, false}, 404: {false, false},
		408: {false, true}, 429: {false, true}, 500: {false, true}, 503: {false, true},
	} {
		asked := atomic.Int32{}
		w := hook(t, "", func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.Header().Set("Location", "/elsewhere")
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(status)
		})
		err := w.Tell(t.Context(), aNote())
		if (err == nil) != want.taken || asked.Load() != 1 {
			t.Errorf("%d: %v after %d requests", status, err, asked.Load())
		}
		if err == nil {
			continue
		}
		var says monitor.Again
		if !errors.As(err, &says) {
			t.Fatalf("%d: %v says nothing of trying again", status, err)
		}
		if after, ok := says.Again(); ok != want.again || after != 7*time.Second {
			t.Errorf("%d: again %v after %v", status, ok, after)
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%d: the error tells the URL: %v", status, err)
		}
	}
}

func TestWhoHangsIsGivenUp(t *testing.T) {
	free := make(chan struct{})
	w := hook(t, "", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-free:
		case <-r.Context().Done():
		}
	})
	defer close(free)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := w.Tell(ctx, aNote())
	if !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

func TestNobodyThere(t *testing.T) {
	w, err := webhook.New(webhook.Config{URL: "http://127.0.0.1:1/hunter2"})
	if err != nil {
		t.Fatal(err)
	}
	err = w.Tell(t.Context(), aNote())
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("got %v", err)
	}
}

func TestURLsThatCannotBe(t *testing.T) {
	for _, u := range []string{"", "ops.example", "ftp://ops.example", "https://", "http://%zz", "stomp://a:1"} {
		if _, err := webhook.New(webhook.Config{URL: u}); err == nil {
			t.Errorf("%q is accepted", u)
		}
	}
}
