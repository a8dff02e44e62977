package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"usher/handlers"
	"usher/handlers/handlertest"
	"usher/handlers/plugin/plugintest"
)

const secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=" // 0123456789abcdef twice

// serve runs a receiver until the test ends, and gives its port.
func serve(t *testing.T, address string, h http.Handler) string {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	t.Cleanup(func() {
		if err := errors.Join(server.Close(), <-served); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func resolveBy(server string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", server)
	}
}

// open makes a webhook of an environment, with a secret if it names none.
func open(t *testing.T, environ ...string) *webhook {
	t.Helper()
	if all := strings.Join(environ, "\n"); !strings.Contains(all, "WEBHOOK_SECRET") && !strings.Contains(all, unsignedVariable) {
		environ = append(environ, "WEBHOOK_SECRET="+secret)
	}
	s, err := read(environ)
	if err != nil {
		t.Fatal(err)
	}
	w := newWebhook(s)
	t.Cleanup(w.transport.CloseIdleConnections)
	return w
}

// to is a webhook whose type "a" goes to a receiver of this machine.
func to(t *testing.T, h http.Handler, environ ...string) *webhook {
	t.Helper()
	port := serve(t, "127.0.0.1:0", h)
	return open(t, append(environ, "WEBHOOK_URLS=a=http://127.0.0.1:"+port+"/hook?k=v", "WEBHOOK_ALLOW_HTTP=true", "WEBHOOK_ALLOW_NETWORKS=127.0.0.0/8")...)
}

func TestWhatEachAnswerMeans(t *testing.T) {
	var status int
	header := http.Header{}
	w := to(t, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		maps.Copy(rw.Header(), header)
		rw.WriteHeader(status)
		if status >= 400 {
			_, _ = io.WriteString(rw, "no such\norder")
		}
	}), "WEBHOOK_MAX_RETRY_AFTER=10m")
	sides := map[string]handlers.Handler{"in process": w, "across": plugintest.Across(t, w)}
	date := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	for _, c := range []struct {
		status int
		retry  string
		kind   handlers.Kind
		code   string
		after  time.Duration // to the second, downwards
	}{
		{200, "", handlers.Done, "", 0},
		{201, "", handlers.Done, "", 0},
		{202, "60", handlers.Done, "", 0},
		{204, "", handlers.Done, "", 0},
		{299, "", handlers.Done, "", 0},
		{300, "", handlers.Rejected, "redirect", 0},
		{301, "", handlers.Rejected, "redirect", 0},
		{304, "", handlers.Rejected, "redirect", 0},
		{308, "5", handlers.Rejected, "redirect", 0},
		{400, "", handlers.Rejected, "http_400", 0},
		{401, "", handlers.Rejected, "http_401", 0},
		{404, "60", handlers.Rejected, "http_404", 0},
		{409, "", handlers.Rejected, "http_409", 0},
		{410, "", handlers.Rejected, "http_410", 0},
		{422, "", handlers.Rejected, "http_422", 0},
		{499, "", handlers.Rejected, "http_499", 0},
		{408, "", handlers.Retry, "", 0},
		{425, "", handlers.Retry, "", 0},
		{429, "", handlers.Retry, "", 0},
		{429, "0", handlers.Retry, "", 0},
		{429, "7", handlers.Retry, "", 7 * time.Second},
		{429, "99999999999999999999999", handlers.Retry, "", 10 * time.Minute},
		{429, "soon", handlers.Retry, "", 0},
		{429, "-5", handlers.Retry, "", 0},
		{429, "1.5", handlers.Retry, "", 0},
		{503, date(90*time.Second + 500*time.Millisecond), handlers.Retry, "", 89 * time.Second},
		{503, date(-time.Hour), handlers.Retry, "", 0},
		{503, date(100 * 365 * 24 * time.Hour), handlers.Retry, "", 10 * time.Minute},
		{500, "", handlers.Retry, "", 0},
		{501, "", handlers.Retry, "", 0},
		{599, "30", handlers.Retry, "", 30 * time.Second},
		{700, "", handlers.Retry, "", 0},
	} {
		status = c.status
		header.Del("Retry-After")
		header.Set("Location", "http://127.0.0.1:1/elsewhere")
		if c.retry != "" {
			header.Set("Retry-After", c.retry)
		}
		for side, h := range sides {
			o := handlertest.Run(t, h, handlertest.Message("a", []byte("{}"))).Outcome
			if o.Kind != c.kind || o.Code != c.code || o.After < c.after || o.After > c.after+2*time.Second {
				t.Errorf("%s: %d with Retry-After %q: got %+v", side, c.status, c.retry, o)
			}
			if c.status >= 400 && (o.Err == nil || !strings.Contains(o.Err.Error(), "no such order") || strings.Contains(o.Err.Error(), "k=v")) {
				t.Errorf("%s: %d is told as %v", side, c.status, o.Err)
			}
		}
	}
}

func TestTheRequestSaysAllThereIs(t *testing.T) {
	var got *http.Request
	var body []byte
	w := to(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
	}), "WEBHOOK_SECRET=whsec_"+base64.StdEncoding.EncodeToString(make([]byte, 24))+" "+secret)
	m := handlertest.Message("a", []byte("\x00 body, byte for byte \xff"))
	m.ID, m.IdempotencyKey, m.Attempt, m.ContentType = "order.7", "order.7", 3, "text/plain; charset=utf-8"
	m.Headers = map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b", "x-other": "stays here"}
	began := time.Now().Unix()
	if o := handlertest.Run(t, w, m).Outcome; o.Kind != handlers.Done {
		t.Fatalf("%+v", o)
	}
	for name, want := range map[string]string{
		"Content-Type": m.ContentType, "Idempotency-Key": "order.7", "Usher-Type": "a", "Usher-Attempt": "3", "Traceparent": m.Headers["traceparent"],
		"Tracestate": "a=b", "Webhook-Id": "order%2E7", "User-Agent": "usher-webhook", "X-Other": "", "Accept-Encoding": "", "Authorization": "",
	} {
		if got.Header.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, got.Header.Get(name), want)
		}
	}
	if got.Method != http.MethodPost || got.URL.String() != "/hook?k=v" || string(body) != string(m.Body) {
		t.Errorf("%s %s with %q", got.Method, got.URL, body)
	}
	var at int64
	if _, err := fmt.Sscan(got.Header.Get("Webhook-Timestamp"), &at); err != nil || at < began || at > time.Now().Unix() {
		t.Errorf("the time is %q", got.Header.Get("Webhook-Timestamp"))
	}
	signatures := strings.Fields(got.Header.Get("Webhook-Signature"))
	if len(signatures) != 2 {
		t.Fatalf("the signatures are %v", signatures)
	}
	mac := hmac.New(sha256.New, []byte("0123456789abcdef0123456789abcdef"))
	fmt.Fprintf(mac, "order%%2E7.%d.%s", at, m.Body)
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); signatures[1] != want {
		t.Errorf("the second signature is %s, want %s", signatures[1], want)
	}
}

// The example of the specification, so that receivers can use any library for it.
func TestSignaturesAreThoseOfStandardWebhooks(t *testing.T) {
	w := open(t, "WEBHOOK_URLS=a=https://hooks.example", "WEBHOOK_SECRET=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	h := http.Header{}
	w.sign(h, &handlers.Message{IdempotencyKey: "msg_p5jXN8AQM9LWM0D4loKWxJek", Body: []byte(`{"test": 2432232314}`)}, time.Unix(1614265330, 0))
	if got, want := h.Get("Webhook-Signature"), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("signed as %s, want %s", got, want)
	}
}

// Nothing but the very same id, time and body is signed alike.
func TestWhatIsSignedCanBeReadInOneWayOnly(t *testing.T) {
	text := rapid.StringOfN(rapid.RuneFrom([]rune("a.1% ~/")), 1, 6, -1)
	rapid.Check(t, func(t *rapid.T) {
		one, other := text.Draw(t, "one"), text.Draw(t, "other")
		if one != other && plainID(one) == plainID(other) {
			t.Fatalf("%q and %q are sent as %q", one, other, plainID(one))
		}
		if strings.ContainsAny(plainID(one), ". ") {
			t.Fatalf("%q is sent as %q", one, plainID(one))
		}
	})
}

func TestOneConnectionServesManyMessages(t *testing.T) {
	var connections atomic.Int64
	var messages atomic.Int64
	answer := strings.Repeat("x", 10<<10)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, answer)
		messages.Add(1)
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	server.StartTLS()
	defer server.Close()
	w := open(t, "WEBHOOK_URLS=a="+server.URL, "WEBHOOK_ALLOW_NETWORKS=127.0.0.0/8")
	w.transport.TLSClientConfig = trusting(server)
	const many = 500
	for range many {
		if o := handlertest.Run(t, w, handlertest.Message("a", []byte("{}"))).Outcome; o.Kind != handlers.Done {
			t.Fatalf("%+v", o)
		}
	}
	if connections.Load() != 1 || messages.Load() != many {
		t.Errorf("%d messages took %d connections", messages.Load(), connections.Load())
	}
}

func trusting(server *httptest.Server) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

func TestACertificateThatNobodyKnowsIsTriedAgain(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was called") }))
	server.Config.ErrorLog = nil
	server.StartTLS()
	defer server.Close()
	w := open(t, "WEBHOOK_URLS=a="+server.URL, "WEBHOOK_ALLOW_NETWORKS=127.0.0.0/8")
	if o := handlertest.Run(t, w, handlertest.Message("a", nil)).Outcome; o.Kind != handlers.Retry || o.Code != "" {
		t.Errorf("%+v", o)
	}
}

func TestLongAnswersAreReadToABound(t *testing.T) {
	var sent atomic.Int64
	w := to(t, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		for {
			n, err := rw.Write(make([]byte, 64<<10))
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	}), "WEBHOOK_MAX_RESPONSE=4096")
	if o := handlertest.Run(t, w, handlertest.Message("a", nil)).Outcome; o.Kind != handlers.Done {
		t.Errorf("%+v", o)
	}
	if sent.Load() > 32<<20 {
		t.Errorf("%d bytes were taken", sent.Load())
	}
}

func TestAnAnswerThatNeverEndsIsNotWaitedFor(t *testing.T) {
	w := to(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, "it goes on …")
		rw.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	began := time.Now()
	if o := handlertest.Run(t, w, handlertest.Message("a", nil)).Outcome; o.Kind != handlers.Done {
		t.Errorf("%+v", o)
	}
	if took := time.Since(began); took < drainTime || took > 10*drainTime {
		t.Errorf("it took %v", took)
	}
}

func TestNoAnswerIsTriedAgain(t *testing.T) {
	w := to(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), "WEBHOOK_TIMEOUT=50ms")
	if o := handlertest.Run(t, w, handlertest.Message("a", nil)).Outcome; o.Kind != handlers.Retry || o.Code != handlers.CodeTimeout {
		t.Errorf("%+v", o)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	w = open(t, "WEBHOOK_URLS=a=http://"+ln.Addr().String()+"/private", "WEBHOOK_ALLOW_HTTP=true", "WEBHOOK_ALLOW_NETWORKS=127.0.0.0/8")
	o := handlertest.Run(t, w, handlertest.Message("a", nil)).Outcome
	if o.Kind != handlers.Retry || o.Code != "" || strings.Contains(o.Err.Error(), "private") {
		t.Errorf("%+v", o)
	}
	w = to(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	if o := handlertest.Run(t, w, handlertest.Message("a", nil)).Outcome; o.Kind != handlers.Retry || o.Code != "" {
		t.Errorf("%+v", o)
	}
}

func TestCancellingAborts(t *testing.T) {
	called, gone := make(chan struct{}), make(chan struct{})
	w := to(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(called)
		<-r.Context().Done()
		close(gone)
	}))
	ctx, cancel := context.WithCancelCause(t.Context())
	stops := errors.New("the engine stops")
	go func() { <-called; cancel(stops) }()
	if err := w.HandleMessage(ctx, handlertest.Message("a", nil)); !errors.Is(err, context.Canceled) && !errors.Is(err, stops) {
		t.Errorf("it answers %v", err)
	}
	<-gone // the receiver sees that nobody waits
}

func TestAProducerChoosesAmongWhatIsOfferedOnly(t *testing.T) {
	var mu sync.Mutex
	var paths []string
	port := serve(t, "127.0.0.1:0", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		paths = append(paths, r.URL.Path)
	}))
	base := "http://127.0.0.1:" + port
	w := open(t, "WEBHOOK_URL="+base+"/default", "WEBHOOK_TYPES=a b", "WEBHOOK_CHOICES=billing="+base+"/billing", "WEBHOOK_ALLOW_HTTP=true", "WEBHOOK_ALLOW_NETWORKS=127.0.0.1/32")
	for choice, code := range map[string]string{
		"-": "", "billing": "", "": CodeChoice, "crm": CodeChoice, base + "/default": CodeChoice, "http://169.254.169.254/": CodeChoice,
	} {
		m := handlertest.Message("b", nil)
		if choice != "-" {
			m.Headers[ChoiceHeader] = choice
		}
		if o := handlertest.Run(t, w, m).Outcome; o.Code != code {
			t.Errorf("%q: %+v", choice, o)
		}
	}
	if all := strings.Join(paths, " "); len(paths) != 2 || !strings.Contains(all, "/default") || !strings.Contains(all, "/billing") {
		t.Errorf("called: %s", all)
	}
	if o := handlertest.Run(t, w, handlertest.Message("c", nil)).Outcome; o.Code != handlers.CodeNoHandler {
		t.Errorf("a type without a URL: %+v", o)
	}
}

func TestHeadersThatCannotBeSentAreRefused(t *testing.T) {
	calls := 0
	w := to(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		calls++
		if r.Header.Get("Traceparent")+r.Header.Get("Tracestate") != "" {
			t.Errorf("a trace of %q", r.Header)
		}
	}))
	for _, change := range []func(*handlers.Message){
		func(m *handlers.Message) { m.ContentType = "a/b\r\nX-Evil: 1" },
		func(m *handlers.Message) { m.ContentType = "" },
		func(m *handlers.Message) { m.ContentType = "text/plän" },
		func(m *handlers.Message) { m.IdempotencyKey = " order" },
	} {
		m := handlertest.Message("a", nil)
		change(m)
		if o := handlertest.Run(t, w, m).Outcome; o.Kind != handlers.Rejected || o.Code != CodeHeader {
			t.Errorf("%+v", o)
		}
	}
	m := handlertest.Message("a", nil)
	m.Headers = map[string]string{"traceparent": "00-xyz", "tracestate": "a=b"}
	if o := handlertest.Run(t, w, m).Outcome; o.Kind != handlers.Done || calls != 1 {
		t.Errorf("a broken trace: %+v, %d calls", o, calls)
	}
}

func TestItKeepsThePromisesOfEveryHandler(t *testing.T) {
	w := to(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		rw.WriteHeader(http.StatusAccepted)
	}))
	handlertest.Check(t, w, handlertest.Message("a", []byte("{}")))
}
