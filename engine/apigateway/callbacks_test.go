package apigateway_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/apigateway"
	"usher/engine/enginetest"
	"usher/engine/watchframe"
	"usher/engine/watchtoken"
)

const secret = "a secret of the API alone"

// The callbacks take the engine's own methods.
var _ = apigateway.CallbacksConfig{NudgeFunc: (*engine.Engine)(nil).Watch}

func newKeys(t *testing.T, id string) watchtoken.Keys {
	t.Helper()
	keys, err := watchtoken.ParseKeys(id + ":" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat(id[:1], 32))))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func token(t *testing.T, keys watchtoken.Keys, stage, id string, ttl time.Duration) string {
	t.Helper()
	made, err := keys.Make(keys.IDs()[0], stage, id, time.Now().Add(ttl))
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// desk is callbacks, with the gateway that they push through and what they counted.
type desk struct {
	t         *testing.T
	table     *enginetest.Memory
	gateway   *gateway
	keys      watchtoken.Keys
	callbacks *apigateway.Callbacks

	mu      sync.Mutex
	refused []string         // guarded by mu
	nudged  []engine.Watcher // guarded by mu
}

func newDesk(t *testing.T, change func(*apigateway.CallbacksConfig)) *desk {
	t.Helper()
	d := &desk{t: t, table: enginetest.NewMemory(), gateway: newGateway(t, takesAll), keys: newKeys(t, "shop")}
	cfg := apigateway.CallbacksConfig{
		Table: d.table, Pusher: pusher(t, d.gateway.config()), Secret: secret, Origins: []string{"https://shop.example"},
		Keys: d.keys, Stage: stage, Log: zerolog.Nop(),
		RefusedFunc: func(cause string) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.refused = append(d.refused, cause)
		},
		NudgeFunc: func(_ string, w engine.Watcher) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.nudged = append(d.nudged, w)
		},
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if d.callbacks, err = apigateway.NewCallbacks(cfg); err != nil {
		t.Fatal(err)
	}
	return d
}

// call asks as the API's integration does.
func (d *desk) call(route, body string, headers map[string]string) *httptest.ResponseRecorder {
	d.t.Helper()
	r := httptest.NewRequestWithContext(d.t.Context(), http.MethodPost, route, strings.NewReader(body))
	r.Header.Set(apigateway.SecretHeader, secret)
	r.Header.Set(apigateway.ConnectionHeader, "c1=")
	for name, value := range headers {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	d.callbacks.ServeHTTP(w, r)
	return w
}

func (d *desk) frame(frame watchframe.Request) {
	d.t.Helper()
	data, err := json.Marshal(frame)
	if err != nil {
		d.t.Fatal(err)
	}
	d.send(string(data))
}

func (d *desk) send(body string) {
	d.t.Helper()
	if answer := d.call("/frame", body, nil); answer.Code != http.StatusOK || answer.Body.Len() > 0 {
		d.t.Errorf("API Gateway was answered %d with %d bytes", answer.Code, answer.Body.Len())
	}
}

func (d *desk) counted(want ...string) {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if strings.Join(d.refused, " ") != strings.Join(want, " ") {
		d.t.Errorf("refused were %q, want %q", d.refused, want)
	}
}

func TestWhoMayConnect(t *testing.T) {
	other := newKeys(t, "thief")
	good := newDesk(t, nil)
	fresh := token(t, good.keys, stage, "order-7", time.Minute)
	for name, c := range map[string]struct {
		headers map[string]string
		status  int
		refused string
	}{
		"a page of the shop": {map[string]string{apigateway.OriginHeader: "https://shop.example"}, 200, ""},
		"no browser":         {nil, 200, ""},
		"no secret":          {map[string]string{apigateway.SecretHeader: ""}, 401, "bad_secret"},
		"a wrong secret":     {map[string]string{apigateway.SecretHeader: secret + "."}, 401, "bad_secret"},
		"no connection":      {map[string]string{apigateway.ConnectionHeader: ""}, 400, "bad_connection"},
		"a foreign page":     {map[string]string{apigateway.OriginHeader: "https://shop.example.evil"}, 403, "bad_origin"},
		"another scheme":     {map[string]string{apigateway.OriginHeader: "http://shop.example"}, 403, "bad_origin"},
		"a sandboxed page":   {map[string]string{apigateway.OriginHeader: "null"}, 403, "bad_origin"},
		"no token":           {map[string]string{apigateway.TokenHeader: ""}, 403, "token_malformed"},
		"an expired token":   {map[string]string{apigateway.TokenHeader: token(t, good.keys, stage, "order-7", -time.Second)}, 403, "token_expired"},
		"of another message": {map[string]string{apigateway.TokenHeader: token(t, good.keys, stage, "order-8", time.Minute)}, 403, "token_foreign_id"},
		"of another stage":   {map[string]string{apigateway.TokenHeader: token(t, good.keys, "dev", "order-7", time.Minute)}, 403, "token_foreign_stage"},
		"of another key":     {map[string]string{apigateway.TokenHeader: token(t, other, stage, "order-7", time.Minute)}, 403, "token_unknown_key"},
		"a changed token":    {map[string]string{apigateway.TokenHeader: fresh[:len(fresh)-2] + "AA"}, 403, "token_changed"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, nil)
			headers := map[string]string{apigateway.IDHeader: "order-7", apigateway.TokenHeader: fresh}
			maps.Copy(headers, c.headers)
			if answer := d.call("/connect", "", headers); answer.Code != c.status {
				t.Errorf("answered %d, want %d", answer.Code, c.status)
			}
			if c.refused == "" {
				d.counted()
			} else {
				d.counted(c.refused)
			}
			if _, err := d.table.Record(t.Context(), "order-7"); !errors.Is(err, engine.ErrNotFound) {
				t.Errorf("to connect writes nothing, and there is a record: %v", err)
			}
		})
	}
}

func TestAForgedFrameChangesNothing(t *testing.T) {
	d := newDesk(t, nil)
	frame := `{"action":"subscribe","id":"order-7","token":"` + token(t, d.keys, stage, "order-7", time.Minute) + `"}`
	for _, route := range []string{"/frame", "/disconnect", "/connect", "/anything"} {
		if answer := d.call(route, frame, map[string]string{apigateway.SecretHeader: "x"}); answer.Code != http.StatusUnauthorized {
			t.Errorf("%s answered %d", route, answer.Code)
		}
	}
	d.counted("bad_secret", "bad_secret", "bad_secret", "bad_secret")
	if _, err := d.table.Record(t.Context(), "order-7"); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("there is a record: %v", err)
	}
}

func TestSubscribeEntersAndTellsWhereTheMessageIs(t *testing.T) {
	d := newDesk(t, nil)
	before := time.Now()
	d.frame(watchframe.Request{Action: "subscribe", ID: "order-7", Token: token(t, d.keys, stage, "order-7", time.Minute)})
	all := d.gateway.await("the snapshot", func(all []posted) bool { return len(all) == 1 })
	if s := statusOf(t, all[0]); all[0].connection != "c1=" || s.ID != "order-7" || s.State != engine.Queued {
		t.Errorf("%s was told %+v", all[0].connection, s)
	}
	rec, err := d.table.Record(t.Context(), "order-7")
	if err != nil || len(rec.Watchers) != 1 || rec.Watchers[0].Connection != apigateway.Prefix+"c1=" {
		t.Fatalf("the record is %+v (%v)", rec, err)
	}
	if until := rec.Watchers[0].Until.Sub(before); until > time.Minute+time.Second || until < time.Minute-2*time.Second {
		t.Errorf("it watches for %v, and its token is good for a minute", until)
	}
	if len(d.nudged) != 1 || d.nudged[0] != rec.Watchers[0] {
		t.Errorf("the engine was asked to tell %v", d.nudged)
	}
	d.counted()

	d.frame(watchframe.Request{Action: "unsubscribe", ID: "order-7"})
	if rec, err = d.table.Record(t.Context(), "order-7"); err != nil || len(rec.Watchers) != 0 {
		t.Errorf("after it unsubscribed the record is %+v (%v)", rec, err)
	}
}

// Who connects again says what it has, and is not told that twice.
func TestSubscribeWithASeqTellsLaterOnesOnly(t *testing.T) {
	d := newDesk(t, nil)
	mine := token(t, d.keys, stage, "order-7", time.Minute)
	d.frame(watchframe.Request{Action: "subscribe", ID: "order-7", Token: mine, Seq: "9.9"})
	d.frame(watchframe.Request{Action: "subscribe", ID: "order-8", Token: token(t, d.keys, stage, "order-8", time.Minute)})
	all := d.gateway.await("one snapshot", func(all []posted) bool { return len(all) == 1 })
	if s := statusOf(t, all[0]); s.ID != "order-8" {
		t.Errorf("it was told of %s, of which it has a later status", s.ID)
	}
}

func TestBadFramesAreAnswered(t *testing.T) {
	for name, c := range map[string]struct {
		body, code, id string
		refused        []string
	}{
		"no JSON":          {"hello", "bad_request", "", nil},
		"nothing":          {"", "bad_request", "", nil},
		"another action":   {`{"action":"publish","id":"m"}`, "bad_request", "", nil},
		"no id":            {`{"action":"subscribe"}`, "bad_request", "", nil},
		"no token":         {`{"action":"subscribe","id":"m"}`, "bad_token", "m", []string{"token_malformed"}},
		"a seq of nothing": {`{"action":"subscribe","id":"m","seq":"later"}`, "bad_request", "", nil},
		"too large":        {`{"action":"subscribe","id":"` + strings.Repeat("m", 5000) + `"}`, "bad_request", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, nil)
			d.send(c.body)
			all := d.gateway.await("the answer", func(all []posted) bool { return len(all) == 1 })
			var f watchframe.Failure
			if err := json.Unmarshal(all[0].body, &f); err != nil || f.Error != c.code || f.ID != c.id || f.Message == "" {
				t.Errorf("it was told %s (%v)", all[0].body, err)
			}
			d.counted(c.refused...)
		})
	}
}

// away is a table that cannot be reached.
type away struct{ *enginetest.Memory }

func (away) Watch(context.Context, string, engine.Watcher) (engine.Record, error) {
	return engine.Record{}, errors.New("the store is away")
}

func TestAStoreThatIsAwayIsSaid(t *testing.T) {
	d := newDesk(t, func(cfg *apigateway.CallbacksConfig) { cfg.Table = away{enginetest.NewMemory()} })
	d.frame(watchframe.Request{Action: "subscribe", ID: "m", Token: token(t, d.keys, stage, "m", time.Minute)})
	all := d.gateway.await("the answer", func(all []posted) bool { return len(all) == 1 })
	var f watchframe.Failure
	if err := json.Unmarshal(all[0].body, &f); err != nil || f.Error != "unavailable" || f.ID != "m" {
		t.Errorf("it was told %s (%v)", all[0].body, err)
	}
}

func TestWhoHasLeftIsNotTold(t *testing.T) {
	l := newLost()
	d := newDesk(t, func(c *apigateway.CallbacksConfig) {
		c.Pusher = pusher(t, apigateway.Config{Endpoint: "http://127.0.0.1:1", LostFunc: l.count}) // where nobody is, and nobody is asked
	})
	if answer := d.call("/disconnect", "", nil); answer.Code != http.StatusOK {
		t.Errorf("answered %d", answer.Code)
	}
	d.frame(watchframe.Request{Action: "subscribe", ID: "m", Token: token(t, d.keys, stage, "m", time.Minute)})
	l.await(t, "gone")
}

func TestWhatCallbacksNeed(t *testing.T) {
	full := apigateway.CallbacksConfig{
		Table: enginetest.NewMemory(), Pusher: pusher(t, newGateway(t, takesAll).config()), Secret: secret, Keys: newKeys(t, "shop"), Stage: stage,
	}
	for want, change := range map[string]func(*apigateway.CallbacksConfig){
		"Table and Pusher": func(c *apigateway.CallbacksConfig) { c.Table = nil },
		"16 bytes":         func(c *apigateway.CallbacksConfig) { c.Secret = "short" },
		"keys of tokens":   func(c *apigateway.CallbacksConfig) { c.Keys = watchtoken.Keys{} },
		"a stage is":       func(c *apigateway.CallbacksConfig) { c.Stage = "a b" },
	} {
		cfg := full
		change(&cfg)
		if _, err := apigateway.NewCallbacks(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without %s: %v", want, err)
		}
	}
}
