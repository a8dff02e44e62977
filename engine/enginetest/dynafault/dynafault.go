// Package dynafault is a proxy before a DynamoDB of tests. It counts requests, and
// does what the real one does on bad days: it throttles, fails, is slow, loses the
// answer to what it has done, leaves keys unprocessed, answers look-ups as they were a
// while ago, and lags with its indexes. Only tests import it.
package dynafault

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// Faults are what goes wrong; the zero value is nothing. Shares are of 1.
type Faults struct {
	Throttle float64 // of requests that are refused with ProvisionedThroughputExceededException
	Fail     float64 // of requests that are answered with 500 and not carried out
	// LoseEach is which of the calls are carried out, and answered with 500: each third
	// for 3. What is repeated is answered. 0: none.
	LoseEach int
	// Unprocessed is the share of batches of which the last half of the keys is not read.
	Unprocessed float64
	Delay       time.Duration // before each request is passed on
	// Lag is how long look-ups and queries of an index do not see a write.
	Lag time.Duration
	// Gone ends connections without an answer.
	Gone bool
	// Clock is how far the clock that answers show is ahead of this machine's.
	Clock time.Duration
}

// Proxy is one that listens. Its methods are safe for concurrent use.
type Proxy struct {
	server *httptest.Server
	target string
	client *http.Client

	mu     sync.Mutex
	faults Faults         // guarded by mu
	calls  int            // all ever, however often repeated; guarded by mu
	counts map[string]int // requests that came, by operation; guarded by mu
	items  []named        // items of those that were passed on; guarded by mu
	random *rand.Rand     // guarded by mu
	past   past           // guarded by mu
}

// Start starts a proxy before the server at target; it ends with the test. The seed
// decides which requests the faults hit.
func Start(t testing.TB, target string, seed uint64) *Proxy {
	t.Helper()
	p := &Proxy{
		target: target, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 128}},
		counts: map[string]int{}, random: rand.New(rand.NewPCG(seed, 0)), past: past{},
	}
	p.server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(func() {
		p.server.Close()
		p.client.CloseIdleConnections()
	})
	return p
}

// Endpoint is its address as a URL.
func (p *Proxy) Endpoint() string { return p.server.URL }

// Set replaces the faults.
func (p *Proxy) Set(f Faults) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = f
}

// Requests are how many came since Reset, by operation, those that failed included.
func (p *Proxy) Requests() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.counts)
}

// Items are how many items the requests that were passed on since Reset named, by
// operation: each key of a batch is one. Counted are those whose id is of the kind.
func (p *Proxy) Items(kind func(id string) bool) map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := map[string]int{}
	for _, item := range p.items {
		if kind(item.id) {
			n[item.operation]++
		}
	}
	return n
}

// named is an item that a request named.
type named struct{ operation, id string }

// Reset counts anew.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.counts)
	p.items = nil
}

// fate is what happens to one request.
type fate struct {
	Faults

	throttled, failed, lost, unprocessed bool
}

// meet counts a request and decides its fate.
func (p *Proxy) meet(operation string, first bool) fate {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts[operation]++
	f := p.faults
	hit := func(share float64) bool { return share > 0 && p.random.Float64() < share }
	if first {
		p.calls++
	}
	return fate{f, hit(f.Throttle), hit(f.Fail), first && f.LoseEach > 0 && p.calls%f.LoseEach == 0, hit(f.Unprocessed)}
}

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	if r.Method == http.MethodGet {
		p.healthy(w)
		return
	}
	fate := p.meet(operation, strings.Contains(r.Header.Get("Amz-Sdk-Request"), "attempt=1;"))
	date(w, fate.Faults)
	body, err := io.ReadAll(r.Body)
	switch {
	case fate.Gone || err != nil:
		panic(http.ErrAbortHandler)
	case fate.throttled:
		refuse(w, http.StatusBadRequest, "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException")
		return
	case fate.failed:
		refuse(w, http.StatusInternalServerError, "com.amazonaws.dynamodb.v20120810#InternalServerError")
		return
	}
	if fate.Delay > 0 {
		select {
		case <-time.After(fate.Delay):
		case <-r.Context().Done():
			return
		}
	}
	status, answer, err := p.carryOut(r, operation, body, fate)
	switch {
	case err != nil:
		panic(http.ErrAbortHandler)
	case fate.lost && status == http.StatusOK:
		refuse(w, http.StatusInternalServerError, "com.amazonaws.dynamodb.v20120810#InternalServerError")
	default:
		w.Header().Set("Content-Type", "application/x-amz-json-1.0")
		w.WriteHeader(status)
		_, _ = w.Write(answer) // the client may have gone
	}
}

// healthy answers who asks for no more than an answer, as DynamoDB does. It is not
// counted.
func (p *Proxy) healthy(w http.ResponseWriter) {
	p.mu.Lock()
	f := p.faults
	p.mu.Unlock()
	if f.Gone {
		panic(http.ErrAbortHandler)
	}
	date(w, f)
	_, _ = io.WriteString(w, "healthy: a proxy of tests") // the client may have gone
}

// date sets the time of an answer.
func date(w http.ResponseWriter, f Faults) {
	if f.Clock != 0 {
		w.Header().Set("Date", time.Now().Add(f.Clock).UTC().Format(http.TimeFormat))
	}
}

// carryOut passes a request on, with what the fate does to it and to its answer.
func (p *Proxy) carryOut(r *http.Request, operation string, body []byte, fate fate) (int, []byte, error) {
	var request document
	if err := json.Unmarshal(body, &request); err != nil {
		return 0, nil, err
	}
	switch operation {
	case "BatchGetItem":
		return p.batch(r, request, fate)
	case "PutItem", "UpdateItem", "DeleteItem":
		if fate.Lag > 0 {
			if err := p.remember(r, operation, request); err != nil {
				return 0, nil, err
			}
		}
	}
	p.count(operation, keyOf(operation, request))
	status, answer, err := p.pass(r, operation, body)
	if err == nil && status == http.StatusOK && operation == "Query" && fate.Lag > 0 && request["IndexName"] != nil {
		answer, err = p.lagging(request, answer, fate.Lag)
	}
	return status, answer, err
}

// batch passes a BatchGetItem on, perhaps without some of its keys.
func (p *Proxy) batch(r *http.Request, request document, fate fate) (int, []byte, error) {
	left := document{}
	for table, of := range in(request, "RequestItems") {
		asked, _ := of.(document)
		keys, _ := asked["Keys"].([]any)
		if fate.unprocessed && len(keys) > 1 {
			half := len(keys) / 2
			left[table] = document{"Keys": keys[half:]}
			keys = keys[:half]
			asked["Keys"] = keys
		}
		for _, k := range keys {
			key, _ := k.(document)
			p.count("BatchGetItem", key)
		}
	}
	body, err := json.Marshal(request)
	if err != nil {
		return 0, nil, err
	}
	status, text, err := p.pass(r, "BatchGetItem", body)
	if err != nil || status != http.StatusOK {
		return status, text, err
	}
	var answer document
	if err := json.Unmarshal(text, &answer); err != nil {
		return 0, nil, err
	}
	if len(left) > 0 {
		answer["UnprocessedKeys"] = left
	}
	if fate.Lag > 0 {
		p.stale(request, answer, fate.Lag)
	}
	text, err = json.Marshal(answer)
	return status, text, err
}

// pass has the server carry out a request. The signature is not that of what was
// changed in it: no server of tests looks.
func (p *Proxy) pass(r *http.Request, operation string, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, p.target, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header = r.Header.Clone()
	prefix, _, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	req.Header.Set("X-Amz-Target", prefix+"."+operation)
	req.Header.Del("Accept-Encoding")
	answer, err := p.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, text, err
}

func (p *Proxy) count(operation string, key document) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.items = append(p.items, named{operation, value(key, "id", "S") + value(key, "key", "S")})
}

func refuse(w http.ResponseWriter, status int, kind string) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	w.WriteHeader(status)
	text, err := json.Marshal(map[string]string{"__type": kind, "message": "a fault of the test"})
	if err != nil {
		panic(err) // strings can be marshalled
	}
	_, _ = w.Write(text) // the client may have gone
}
