package server_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"usher/engine"
	"usher/server"
)

// withArchive serves the dead letters of the table, with a Redriver to sent.
func withArchive(sent *[]engine.Outgoing) func(*server.Config) {
	return func(c *server.Config) {
		table := c.Table.(interface {
			server.Table
			engine.Archive
		})
		c.Archive = table
		c.RedriveFunc = (&engine.Redriver{Archive: table, Records: table, Broker: outbox{sent}, Queue: engine.WorkQueue}).Redrive
	}
}

// outbox keeps what is published.
type outbox struct{ sent *[]engine.Outgoing }

func (o outbox) Publish(_ context.Context, out engine.Outgoing) error {
	*o.sent = append(*o.sent, out)
	return nil
}

// letter puts a dead letter into the archive, so many minutes old.
func (r *rig) letter(id string, minutes int, body string, headers ...string) engine.DeadLetter {
	r.t.Helper()
	h := map[string]string{
		engine.HeaderID: id, engine.HeaderType: "order.placed", engine.HeaderPriority: "7", engine.HeaderHop: "1", engine.HeaderAttempts: "3",
		engine.HeaderDeadReason: engine.ReasonExhausted, engine.HeaderDeadDetail: "boom", engine.HeaderOrigin: engine.WorkQueue,
	}
	for i := 0; i < len(headers); i += 2 {
		h[headers[i]] = headers[i+1]
	}
	l, content := engine.DeadLetterOf(engine.Delivery{BrokerID: "ID:" + id, Headers: h, Body: []byte(body)}, engine.DeadQueue, nowPlus(-minutes))
	l, _, err := r.table.Put(r.t.Context(), l, content)
	if err != nil {
		r.t.Fatal(err)
	}
	return l
}

func TestDeadLettersAreListedWithoutTheirContent(t *testing.T) {
	r := setup(t, withArchive(nil))
	var keys []string
	for i := range 7 {
		keys = append(keys, r.letter(fmt.Sprint("order-", i), i, "secret body").Key)
	}
	var got []string
	after := ""
	for {
		var list server.LetterList
		w := r.want(http.StatusOK, &list, http.MethodGet, "/api/v1/dead?limit=3&after="+after, "")
		if strings.Contains(w.Body.String(), "secret") || strings.Contains(w.Body.String(), base64.StdEncoding.EncodeToString([]byte("secret"))[:6]) {
			t.Fatal("a body is in the list")
		}
		for _, l := range list.Items {
			got = append(got, l.Key)
		}
		if after = list.Next; after == "" {
			break
		}
	}
	if !slices.Equal(got, keys) {
		t.Errorf("the list is %v, want %v", got, keys)
	}
}

func TestDeadLettersAreChosen(t *testing.T) {
	r := setup(t, withArchive(nil))
	a := r.letter("a", 60, "1")
	b := r.letter("b", 30, "2", engine.HeaderType, "other", engine.HeaderPriority, "0", engine.HeaderDeadReason, engine.ReasonExpired)
	dropped := r.letter("c", 10, "3")
	if _, err := r.table.Settle(t.Context(), engine.LetterChange{Key: dropped.Key, State: engine.LetterDropped, Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	half := url.QueryEscape(nowPlus(-45).Format(time.RFC3339))
	for query, want := range map[string]string{
		"": "ba", "state=all": "cba", "state=dropped": "c", "state=redriven": "", "id=a": "a", "type=other": "b", "level=0": "b", "level=7": "a",
		"reason=expired": "b", "fingerprint=" + a.Why.Fingerprint: "a", "fingerprint=" + b.Why.Fingerprint: "b", "since=" + half: "b", "until=" + half: "a",
		"type=other&level=7": "",
	} {
		var list server.LetterList
		r.want(http.StatusOK, &list, http.MethodGet, "/api/v1/dead?"+query, "")
		got := ""
		for _, l := range list.Items {
			got += l.ID
		}
		if got != want {
			t.Errorf("%q chooses %q, want %q", query, got, want)
		}
	}
	for query, code := range map[string]string{
		"state=lost": "bad_state", "level=10": "bad_level", "level=x": "bad_level", "since=yesterday": "bad_time", "until=1": "bad_time", "limit=0": "bad_limit", "after=x": "bad_cursor",
	} {
		r.wantProblem(http.StatusBadRequest, code, http.MethodGet, "/api/v1/dead?"+query, "")
	}
}

func TestADeadLetterIsShownWhole(t *testing.T) {
	r := setup(t, withArchive(nil))
	l := r.letter("a", 1, "line\n\x1b[31mred\x00\u202eé", "customer", "42")
	var whole server.LetterWhole
	r.want(http.StatusOK, &whole, http.MethodGet, "/api/v1/dead/"+l.Key, "")
	if whole.ID != "a" || whole.Reason != engine.ReasonExhausted || whole.Attempts != 3 || whole.Level != 7 || whole.Headers["customer"] != "42" ||
		string(whole.Body) != "line\n\x1b[31mred\x00\u202eé" || whole.Text != `line`+"\n"+`\x1b[31mred\x00\u202eé` {
		t.Errorf("it is %+v, text %q", whole, whole.Text)
	}
	r.wantProblem(http.StatusNotFound, "no_letter", http.MethodGet, "/api/v1/dead/nobody", "")
	r.wantProblem(http.StatusNotFound, "no_letter", http.MethodDelete, "/api/v1/dead/nobody", "")
	r.wantProblem(http.StatusNotFound, "no_letter", http.MethodPost, "/api/v1/dead/nobody/redrive", "")
}

func TestPrintableBodies(t *testing.T) {
	for body, want := range map[string]string{
		"": "", "plain\ttext\n": "plain\ttext\n", "\xff\xfe": "", "a\rb": `a\rb`, "\u009b31m": `\u009b31m`, "\u2028": `\u2028`, "日本": "日本",
	} {
		if got := server.Printable([]byte(body)); got != want {
			t.Errorf("%q is %q, want %q", body, got, want)
		}
	}
	if long := server.Printable([]byte(strings.Repeat("é", 1<<20))); len(long) > 70<<10 || !strings.HasSuffix(long, "(2097152 bytes in all)") {
		t.Errorf("a long one has %d bytes, and ends %q", len(long), long[len(long)-40:])
	}
}

func TestADeadLetterIsDroppedOnce(t *testing.T) {
	r := setup(t, withArchive(nil))
	l := r.letter("a", 1, "body")
	var dropped server.Letter
	r.want(http.StatusOK, &dropped, http.MethodDelete, "/api/v1/dead/"+l.Key, "")
	if dropped.State != engine.LetterDropped {
		t.Errorf("it is %+v", dropped)
	}
	r.wantProblem(http.StatusConflict, "settled", http.MethodDelete, "/api/v1/dead/"+l.Key, "")
	r.wantProblem(http.StatusConflict, "settled", http.MethodPost, "/api/v1/dead/"+l.Key+"/redrive", "")
	if _, content, err := r.table.Letter(t.Context(), l.Key); err != nil || content.Body != nil {
		t.Errorf("it still has %d bytes, %v", len(content.Body), err)
	}
}

func TestADeadLetterIsRedriven(t *testing.T) {
	var sent []engine.Outgoing
	r := setup(t, withArchive(&sent))
	l := r.letter("a", 1, "body", "customer", "42")
	r.write("a", engine.Dead, func(c *engine.Change) {
		c.Digest, c.NextHop, c.Reason = engine.DigestOf([]byte("body")), 1, engine.ReasonExhausted
	})
	var redriven server.Letter
	r.want(http.StatusOK, &redriven, http.MethodPost, "/api/v1/dead/"+l.Key+"/redrive", "")
	if redriven.State != engine.LetterRedriven || len(sent) != 1 {
		t.Fatalf("it is %+v, and %d were sent", redriven, len(sent))
	}
	out := sent[0]
	if out.Queue != engine.WorkQueue || string(out.Body) != "body" || out.Headers["customer"] != "42" || out.Headers[engine.HeaderID] != "a" || out.Headers[engine.HeaderPriority] != "7" ||
		out.Headers[engine.HeaderHop] != "2" || out.Headers[engine.HeaderAttempts] != "0" || out.Headers[engine.HeaderRedrives] != "1" {
		t.Errorf("sent %+v", out)
	}
	r.wantProblem(http.StatusConflict, "settled", http.MethodPost, "/api/v1/dead/"+l.Key+"/redrive", "")
	r.wantProblem(http.StatusBadRequest, "bad_body", http.MethodPost, "/api/v1/dead/"+l.Key+"/redrive", `{"farce":true}`)
}

func TestWhatIsNotRedriven(t *testing.T) {
	digest := engine.DigestOf([]byte("body"))
	for code, tt := range map[string]struct {
		headers []string
		state   engine.State
		change  func(*engine.Change)
		forced  bool // with force it is
	}{
		"redrive_loop": {[]string{engine.HeaderRedrives, "3"}, engine.Dead, func(c *engine.Change) { c.NextHop = 1 }, true},
		"stays":        {[]string{engine.HeaderTooLarge, "5000000"}, engine.Dead, nil, false},
		"done_already": {nil, engine.Done, nil, false},
		"cancelled":    {nil, engine.Cancelled, nil, false},
		"superseded":   {nil, engine.Retrying, func(c *engine.Change) { c.NextHop = 2 }, false},
		"id_conflict":  {nil, engine.Done, func(c *engine.Change) { c.Digest = "of another" }, false},
	} {
		var sent []engine.Outgoing
		r := setup(t, withArchive(&sent))
		l := r.letter("a", 1, "body", tt.headers...)
		r.write("a", tt.state, func(c *engine.Change) {
			c.Digest = digest
			if tt.change != nil {
				tt.change(c)
			}
		})
		path := "/api/v1/dead/" + l.Key + "/redrive"
		w := r.wantProblem(http.StatusConflict, code, http.MethodPost, path, `{"force":false}`)
		if !strings.Contains(w.Body.String(), "a") || len(sent) > 0 {
			t.Errorf("%s: %s, and %d were sent", code, w.Body, len(sent))
		}
		if tt.forced {
			var redriven server.Letter
			r.want(http.StatusOK, &redriven, http.MethodPost, path, `{"force":true}`)
		} else {
			r.wantProblem(http.StatusConflict, code, http.MethodPost, path, `{"force":true}`)
		}
	}
}

func TestARedriveThatCannotBeSentLeavesTheLetter(t *testing.T) {
	r := setup(t, withArchive(nil), func(c *server.Config) {
		c.RedriveFunc = (&engine.Redriver{Archive: c.Archive, Records: c.Table, Broker: noBroker{}, Queue: engine.WorkQueue}).Redrive
	})
	l := r.letter("a", 1, "body")
	r.wantProblem(http.StatusServiceUnavailable, "unavailable", http.MethodPost, "/api/v1/dead/"+l.Key+"/redrive", "")
	if kept, _, err := r.table.Letter(t.Context(), l.Key); err != nil || kept.State != engine.LetterKept {
		t.Errorf("it is %+v, %v", kept, err)
	}
}

type noBroker struct{}

func (noBroker) Publish(context.Context, engine.Outgoing) error {
	return errors.New("stomp: no connection")
}

func TestDeadLettersAreCounted(t *testing.T) {
	r := setup(t, withArchive(nil))
	r.letter("a", 60, "1")
	r.letter("b", 30, "2")
	r.letter("c", 90, "3", engine.HeaderDeadReason, engine.ReasonExpired)
	var tally server.TallyList
	r.want(http.StatusOK, &tally, http.MethodGet, "/api/v1/dead/tally", "")
	if tally.Total != 3 || len(tally.Items) != 2 || tally.Items[0].Reason != engine.ReasonExhausted || tally.Items[0].Count != 2 {
		t.Errorf("the tally is %+v", tally)
	}
	metrics := r.ask(http.MethodGet, "/metrics", "").Body.String()
	for _, want := range []string{`usher_dead_letters{reason="exhausted"} 2`, `usher_dead_letters{reason="expired"} 1`, `usher_dead_letters_oldest_seconds{reason="expired"} 54`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics do not have %s", want)
		}
	}
}

func TestWithoutAnArchiveThereAreNoDeadLetters(t *testing.T) {
	r := setup(t)
	r.wantProblem(http.StatusNotFound, "no_route", http.MethodGet, "/api/v1/dead", "")
}

func TestAProcessWithoutAnEngineIsReadyWithoutOne(t *testing.T) {
	r := setup(t, func(c *server.Config) { c.Engine = nil })
	var ready server.Readiness
	r.want(http.StatusOK, &ready, http.MethodGet, "/readyz", "", "Accept", "application/json")
	for _, c := range ready.Checks {
		if c.Name == "engine" || c.Name == "broker" {
			t.Errorf("%s is checked", c.Name)
		}
	}
	r.wantProblem(http.StatusNotFound, "not_seen", http.MethodGet, "/api/v1/messages/a", "")
}
