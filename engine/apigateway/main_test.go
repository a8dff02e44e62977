package apigateway_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"usher/engine"
	"usher/engine/apigateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadline is how long a test waits for what has to come.
const deadline = 30 * time.Second

const (
	region, keyID, secretKey = "eu-central-1", "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	stage                    = "prod"
)

// posted is one request that the management API took.
type posted struct {
	connection string
	body       []byte
}

// gateway stands for the management API of one stage: it refuses what is not signed as
// AWS has it, and answers each connection as the test says.
type gateway struct {
	*httptest.Server

	t      *testing.T
	answer func(connection string, nth int) (status int, kind string) // 200: it is taken

	mu    sync.Mutex
	all   []posted       // guarded by mu, as the rest
	asked map[string]int // by connection
	more  chan struct{}  // something was added to all
}

func newGateway(t *testing.T, answer func(connection string, nth int) (int, string)) *gateway {
	t.Helper()
	g := &gateway{t: t, answer: answer, asked: map[string]int{}, more: make(chan struct{}, 1)}
	g.Server = httptest.NewServer(g)
	t.Cleanup(g.Close)
	return g
}

func takesAll(string, int) (int, string) { return http.StatusOK, "" }

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client gave up
	}
	escaped, ok := strings.CutPrefix(r.URL.EscapedPath(), "/"+stage+"/@connections/")
	connection, err := url.PathUnescape(escaped)
	if !ok || err != nil || r.Method != http.MethodPost {
		g.t.Errorf("there is no %s %s", r.Method, r.URL.EscapedPath())
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if err := signed(r, body); err != nil {
		g.t.Error(err)
		w.WriteHeader(http.StatusForbidden)
		return
	}
	g.mu.Lock()
	g.asked[connection]++
	nth := g.asked[connection]
	g.mu.Unlock()
	status, kind := g.answer(connection, nth)
	if status != http.StatusOK {
		w.Header().Set("X-Amzn-Errortype", kind)
		w.WriteHeader(status)
		return
	}
	g.mu.Lock()
	g.all = append(g.all, posted{connection, body})
	g.mu.Unlock()
	select {
	case g.more <- struct{}{}:
	default:
	}
}

// signed says whether the signature is that of AWS's Signature Version 4, computed here
// from the request as it came.
func signed(r *http.Request, body []byte) error {
	fields := map[string]string{}
	list, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	if !ok {
		return fmt.Errorf("Authorization is %q", r.Header.Get("Authorization"))
	}
	for field := range strings.SplitSeq(list, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		fields[name] = value
	}
	at := r.Header.Get("X-Amz-Date")
	if len(at) < 8 {
		return fmt.Errorf("X-Amz-Date is %q", at)
	}
	scope := at[:8] + "/" + region + "/execute-api/aws4_request"
	if fields["Credential"] != keyID+"/"+scope {
		return fmt.Errorf("the credential is %q, not of %s", fields["Credential"], scope)
	}
	var headers strings.Builder
	for name := range strings.SplitSeq(fields["SignedHeaders"], ";") {
		value := r.Header.Get(name)
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = fmt.Sprint(r.ContentLength)
		}
		fmt.Fprintf(&headers, "%s:%s\n", name, value)
	}
	digest := sha256.Sum256(body)
	// Each segment of the path is escaped once more than it is sent.
	segments := strings.Split(r.URL.EscapedPath(), "/")
	for i, segment := range segments {
		segments[i] = strings.ReplaceAll(url.QueryEscape(segment), "+", "%20")
	}
	canonical := strings.Join([]string{
		r.Method, strings.Join(segments, "/"), r.URL.RawQuery, headers.String(), fields["SignedHeaders"], hex.EncodeToString(digest[:]),
	}, "\n")
	hash := sha256.Sum256([]byte(canonical))
	key := []byte("AWS4" + secretKey)
	for _, part := range []string{at[:8], region, "execute-api", "aws4_request", "AWS4-HMAC-SHA256\n" + at + "\n" + scope + "\n" + hex.EncodeToString(hash[:])} {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	if fields["Signature"] != hex.EncodeToString(key) {
		return fmt.Errorf("the signature %s is not that of\n%s", fields["Signature"], canonical)
	}
	return nil
}

// await waits until what was posted fulfils a condition.
func (g *gateway) await(what string, ok func([]posted) bool) []posted {
	g.t.Helper()
	end := time.NewTimer(deadline)
	defer end.Stop()
	for {
		g.mu.Lock()
		all := append([]posted{}, g.all...)
		g.mu.Unlock()
		if ok(all) {
			return all
		}
		select {
		case <-g.more:
		case <-end.C:
			g.t.Fatalf("%s: did not come in %v; %d were posted", what, deadline, len(all))
		}
	}
}

func (g *gateway) requests(connection string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asked[connection]
}

func (g *gateway) config() apigateway.Config {
	return apigateway.Config{
		AWS:      aws.Config{Region: region, Credentials: credentials.NewStaticCredentialsProvider(keyID, secretKey, "")},
		Endpoint: g.URL + "/" + stage, Log: zerolog.Nop(),
	}
}

// lost counts what was given up, by cause.
type lost struct {
	mu     sync.Mutex
	counts map[string]int // guarded by mu
	more   chan string
}

func newLost() *lost { return &lost{counts: map[string]int{}, more: make(chan string, 1000)} }

func (l *lost) count(cause string) {
	l.mu.Lock()
	l.counts[cause]++
	l.mu.Unlock()
	l.more <- cause
}

// await waits for the next one.
func (l *lost) await(t *testing.T, cause string) {
	t.Helper()
	select {
	case got := <-l.more:
		if got != cause {
			t.Fatalf("lost for %q, want %q", got, cause)
		}
	case <-time.After(deadline):
		t.Fatalf("nothing was lost in %v, want %q", deadline, cause)
	}
}

func pusher(t *testing.T, cfg apigateway.Config) *apigateway.Pusher {
	t.Helper()
	p := apigateway.New(cfg)
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func status(id string, counter int) engine.Status {
	return engine.Status{V: engine.StatusVersion, ID: id, Seq: engine.Seq{Hop: 1, Count: counter}, State: engine.Processing, Attempt: 1, At: time.Now().UTC()}
}

func watchers(connections ...string) []engine.Watcher {
	list := make([]engine.Watcher, len(connections))
	for i, c := range connections {
		list[i] = engine.Watcher{Connection: apigateway.Prefix + c, Until: time.Now().Add(time.Hour)}
	}
	return list
}

// statusOf reads what a client gets.
func statusOf(t *testing.T, p posted) engine.Status {
	t.Helper()
	var s engine.Status
	if err := json.NewDecoder(bytes.NewReader(p.body)).Decode(&s); err != nil {
		t.Fatalf("%s: %v", p.body, err)
	}
	return s
}
