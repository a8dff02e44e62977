package cli

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"usher/engine"
)

// spans is a collector that keeps what it is told.
type spans struct {
	mu  sync.Mutex
	all []*traces.Span
}

func (c *spans) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var req collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &req)
	}
	if err != nil || r.URL.Path != "/v1/traces" {
		http.Error(w, fmt.Sprint(err), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range req.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			c.all = append(c.all, scope.GetSpans()...)
		}
	}
}

func (c *spans) of(id string) (found []*traces.Span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.all {
		for _, a := range s.GetAttributes() {
			if a.GetKey() == "messaging.message.id" && a.GetValue().GetStringValue() == id {
				found = append(found, s)
			}
		}
	}
	return found
}

const fromProducer, parentID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

func TestATraceGoesFromTheProducerThroughTheEngineToThePlugin(t *testing.T) {
	c := &spans{}
	at := httptest.NewServer(c)
	defer at.Close()
	u := newUsher(t)
	u.hasAssassin()
	u.rewriteFile(func(text string) string { return text + fmt.Sprintf("traces: {otlp: %q}\n", at.URL) })
	u.start()
	u.wantCLI(0, "", "send", "order.placed", "--id", "traced", "--wait", "-H", "traceparent=00-"+fromProducer+"-"+parentID+"-01")
	heard, err := os.ReadFile(u.heard())
	if err != nil {
		t.Fatal(err)
	}
	u.wantCLI(0, "", "send", "order.placed", "--id", "untraced", "--wait", "-H", "traceparent=junk")
	u.eventually(15*time.Second, "telling of both", func() bool { return len(c.of("traced")) == 1 && len(c.of("untraced")) == 1 })
	span := c.of("traced")[0]
	id := hex.EncodeToString(span.GetSpanId())
	if hex.EncodeToString(span.GetTraceId()) != fromProducer || hex.EncodeToString(span.GetParentSpanId()) != parentID || span.GetName() != "process order.placed" {
		t.Errorf("the span is %v; want it in the producer's trace, below his span", span)
	}
	if want := "00-" + fromProducer + "-" + id + "-01"; string(heard) != want {
		t.Errorf("the plugin got the traceparent %s, want %s", heard, want)
	}
	if other := c.of("untraced")[0]; len(other.GetParentSpanId()) > 0 || hex.EncodeToString(other.GetTraceId()) == fromProducer {
		t.Errorf("the span of one without a trace is %v; want a trace of its own", other)
	}
	u.stop()
}

func TestACollectorThatIsAwayHoldsNobodyUp(t *testing.T) {
	at := httptest.NewServer(http.NotFoundHandler())
	defer at.Close()
	u := newUsher(t)
	u.rewriteFile(func(text string) string { return text + fmt.Sprintf("traces: {otlp: %q}\n", at.URL) })
	u.start()
	u.wantCLI(0, "", "send", "order.placed", "--id", "m", "--wait")
	u.eventually(15*time.Second, "telling of lost spans", func() bool { n := u.metric("usher_trace_spans_lost_total"); return n != "" && n != "0" })
	u.wantCLI(0, "", "send", "order.placed", "--id", "n", "--wait")
	u.stop()
	if n := strings.Count(u.stderr.String(), "the collector does not take spans"); n != 1 {
		t.Errorf("it was logged %d times, want once:\n%s", n, u.stderr)
	}
}

func TestEverySettledMessageHasALine(t *testing.T) {
	u := newUsher(t)
	u.rewriteFile(func(text string) string { return text + "log: {format: json}\n" })
	u.start()
	u.wantCLI(0, "", "send", "order.placed", "--id", "fine", "--priority", "6", "--wait", "-H", "traceparent=00-"+fromProducer+"-"+parentID+"-01")
	u.sendDead("nobody.knows", "{}", "lost")
	u.eventually(10*time.Second, "done with it", func() bool { return u.message("lost").State == engine.Dead })
	u.stop()
	lines := map[string]map[string]any{}
	for s := bufio.NewScanner(bytes.NewReader(u.stderr.Bytes())); s.Scan(); {
		var line map[string]any
		if json.Unmarshal(s.Bytes(), &line) == nil && line["message"] == "settled" {
			lines[fmt.Sprint(line["id"])] = line
		}
	}
	fine, lost := lines["fine"], lines["lost"]
	for key, want := range map[string]any{
		"level": "info", "type": "order.placed", "outcome": "done", "attempt": 1.0, "hop": 0.0, "plugin": "shop", "part": "messages",
		"trace_id": fromProducer,
	} {
		if fine[key] != want {
			t.Errorf("%s is %v, want %v, in %v", key, fine[key], want, fine)
		}
	}
	wait, _ := fine["wait_ms"].(float64)
	run, _ := fine["run_ms"].(float64)
	if wait <= 0 || run <= 0 || fine["reason"] != nil {
		t.Errorf("the line is %v; want how long it waited and ran, and no reason", fine)
	}
	if lost["reason"] != "unknown_type" || lost["outcome"] != "dead_lettered" || lost["detail"] == "" {
		t.Errorf("the line of a dead one is %v", lost)
	}
}
