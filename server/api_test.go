package server_test

import (
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

// nowPlus is so many minutes from now, as records keep it.
func nowPlus(minutes int) time.Time {
	return time.UnixMilli(time.Now().Add(time.Duration(minutes) * time.Minute).UnixMilli()).UTC()
}

func TestAMessageIsToldFromItsRecord(t *testing.T) {
	r := setup(t)
	due := nowPlus(5)
	r.write("orders/7", engine.Retrying, func(c *engine.Change) {
		c.Due, c.DueBy, c.NextHop, c.Attempts, c.Redeliveries = due, engine.ByRetry, 3, 2, 1
	})
	var m server.Message
	r.want(http.StatusOK, &m, http.MethodGet, "/api/v1/messages/orders%2F7", "")
	if m.ID != "orders/7" || m.Type != "order.placed" || m.Priority == nil || *m.Priority != 7 || m.State != engine.Retrying || !m.Seen ||
		m.Hop != 3 || m.Attempts != 2 || m.Redeliveries != 1 || m.SetBy != engine.ByRetry || m.UpdatedAt.IsZero() || m.Live != nil {
		t.Errorf("the message is %+v", m)
	}
	if m.ProcessingTimestamp == nil || *m.ProcessingTimestamp != due.UnixMilli() || !m.ProcessingTime.Equal(due) {
		t.Errorf("it is due at %v, %v, want %v", m.ProcessingTimestamp, m.ProcessingTime, due)
	}
}

func TestAPriorityOf0IsTold(t *testing.T) {
	r := setup(t)
	r.write("m", engine.Dead, func(c *engine.Change) { c.Priority, c.Reason = 0, "permanent:card_declined" })
	body := r.ask(http.MethodGet, "/api/v1/messages/m", "").Body.String()
	for _, want := range []string{`"priority":0`, `"reason":"permanent:card_declined"`, `"hop":0`} {
		if !strings.Contains(body, want) {
			t.Errorf("%s is not in %s", want, body)
		}
	}
	for _, not := range []string{"processingTime", "setBy", `"live"`} {
		if strings.Contains(body, not) {
			t.Errorf("%s, which is not set, is in %s", not, body)
		}
	}
}

func TestAMessageThatRunsIsToldLive(t *testing.T) {
	r := setup(t)
	ratio := 0.5
	running := engine.Status{
		V: 1, ID: "m", Seq: engine.Seq{Hop: 1, Count: int(nowPlus(60).UnixMicro())}, State: engine.Processing, Attempt: 2, Of: 3,
		Progress: &ratio, Note: "packing", At: time.Now().UTC(),
	}
	r.engine.inHand["m"] = running

	// Before its first run has ended it has no record.
	var m server.Message
	r.want(http.StatusOK, &m, http.MethodGet, "/api/v1/messages/m", "")
	if m.State != engine.Processing || !m.Seen || m.Attempts != 1 || m.Hop != 1 || m.Live == nil || m.Live.Note != "packing" || m.Priority != nil {
		t.Errorf("without a record it is %+v", m)
	}
	r.waits("m", nowPlus(-1))
	r.want(http.StatusOK, &m, http.MethodGet, "/api/v1/messages/m", "")
	if m.State != engine.Processing || m.Live == nil || m.Live.Seq != running.Seq || m.Type != "order.placed" {
		t.Errorf("with a record it is %+v", m)
	}
}

func TestARecordThatIsNewerThanTheEngineWins(t *testing.T) {
	r := setup(t)
	r.engine.inHand["m"] = engine.Status{V: 1, ID: "m", Seq: engine.Seq{Hop: 1, Count: 2}, State: engine.Processing, At: time.Now()}
	r.write("m", engine.Done, func(c *engine.Change) { c.Hop, c.NextHop = 1, 1 })
	var m server.Message
	r.want(http.StatusOK, &m, http.MethodGet, "/api/v1/messages/m", "")
	if m.State != engine.Done || m.Live != nil {
		t.Errorf("it is %+v", m)
	}
}

func TestAnIDThatNobodyHasSeenIs404(t *testing.T) {
	r := setup(t)
	w := r.wantProblem(http.StatusNotFound, "not_seen", http.MethodGet, "/api/v1/messages/m", "")
	if !strings.Contains(w.Body.String(), `"title":"not seen"`) {
		t.Errorf("it is answered with %s", w.Body)
	}
	if _, err := r.table.Record(t.Context(), "m"); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("asking made a record: %v", err)
	}
}

func TestBadIDsAreRefused(t *testing.T) {
	r := setup(t)
	for _, id := range []string{"", "%00", "a%0Ab", "%C3%A4", "%FF", strings.Repeat("i", engine.MaxIDBytes+1)} {
		r.wantProblem(http.StatusBadRequest, "bad_id", http.MethodGet, "/api/v1/messages/"+id, "")
		r.wantProblem(http.StatusBadRequest, "bad_id", http.MethodPut, "/api/v1/delays/"+id, `{"in":"1s"}`)
		r.wantProblem(http.StatusBadRequest, "bad_id", http.MethodDelete, "/api/v1/delays/"+id, "")
	}
	r.wantProblem(http.StatusNotFound, "not_seen", http.MethodGet, "/api/v1/messages/"+strings.Repeat("i", engine.MaxIDBytes), "")
}

func TestWhatWaitsIsListedPageByPage(t *testing.T) {
	r := setup(t)
	var want []string
	for i := range 25 {
		id := fmt.Sprintf("m %02d", i)
		r.waits(id, nowPlus(10+i/3)) // three at the same time
		want = append(want, id)
	}
	r.write("done", engine.Done, nil)
	var got []string
	after := ""
	for pages := 1; ; pages++ {
		var list server.DelayList
		r.want(http.StatusOK, &list, http.MethodGet, "/api/v1/delays?limit=5&after="+url.QueryEscape(after), "")
		for _, m := range list.Items {
			if m.State != engine.Delayed || m.ProcessingTimestamp == nil || m.SetBy != engine.ByRule {
				t.Errorf("an item is %+v", m)
			}
			got = append(got, m.ID)
		}
		if after = list.Next; after == "" {
			if pages != 5 {
				t.Errorf("there were %d pages", pages)
			}
			break
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the list is %v, want %v", got, want)
	}
}

func TestAnEmptyListIsAList(t *testing.T) {
	r := setup(t)
	for path, want := range map[string]string{"/api/v1/delays": `{"items":[]}`, "/api/v1/plugins": `{"items":[]}`} {
		if got := strings.TrimSpace(r.ask(http.MethodGet, path, "").Body.String()); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
}

func TestBadPagesAreRefused(t *testing.T) {
	r := setup(t)
	for _, limit := range []string{"0", "-1", "501", "99999999999999999999", "many", "1e2", " 5"} {
		r.wantProblem(http.StatusBadRequest, "bad_limit", http.MethodGet, "/api/v1/delays?limit="+url.QueryEscape(limit), "")
	}
	cursor := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	for _, after := range []string{"junk!", "====", cursor("12"), cursor("x m"), cursor("12 "), cursor("12 \x00"), cursor("12 " + strings.Repeat("i", 513))} {
		r.wantProblem(http.StatusBadRequest, "bad_cursor", http.MethodGet, "/api/v1/delays?after="+url.QueryEscape(after), "")
	}
}

func TestAnOperatorMovesAMessage(t *testing.T) {
	r := setup(t)
	r.waits("m", nowPlus(60))
	until := nowPlus(90).In(time.FixedZone("", 3600))
	var d server.Delay
	r.want(http.StatusOK, &d, http.MethodPut, "/api/v1/delays/m", `{"until":"`+until.Format(time.RFC3339Nano)+`"}`)
	if !d.ProcessingTime.Equal(until) || d.SetBy != engine.ByOperator || d.State != engine.Delayed || d.TakesEffectWithin != "2s" || d.Note == "" {
		t.Errorf("the answer is %+v", d)
	}
	if rec, err := r.table.Record(t.Context(), "m"); err != nil || !rec.Due.Equal(until) {
		t.Errorf("the record is %+v, %v", rec, err)
	}
	before := time.Now()
	r.want(http.StatusOK, &d, http.MethodPut, "/api/v1/delays/m", ` {"in":"15m"} `)
	if low, high := before.Add(15*time.Minute-time.Millisecond), time.Now().Add(15*time.Minute); d.ProcessingTime.Before(low) || d.ProcessingTime.After(high) {
		t.Errorf("in 15m is %v", d.ProcessingTime)
	}
}

func TestATimeThatIsPastIsNow(t *testing.T) {
	r := setup(t)
	before := time.Now().Add(-time.Millisecond)
	for _, body := range []string{`{"in":"0s"}`, `{"until":"1999-12-31T23:59:59Z"}`, `{"until":"0001-01-01T00:00:00Z"}`} {
		var d server.Delay
		r.want(http.StatusOK, &d, http.MethodPut, "/api/v1/delays/m", body)
		if d.ProcessingTime.Before(before) || d.ProcessingTime.After(time.Now()) || d.Seen {
			t.Errorf("%s: the answer is %+v", body, d)
		}
	}
}

func TestReleaseRunsAMessageNow(t *testing.T) {
	r := setup(t)
	r.wantProblem(http.StatusNotFound, "not_seen", http.MethodDelete, "/api/v1/delays/m", "")
	r.waits("m", nowPlus(60))
	var d server.Delay
	r.want(http.StatusOK, &d, http.MethodDelete, "/api/v1/delays/m", "")
	if d.ProcessingTime.After(time.Now()) || d.SetBy != engine.ByOperator || d.TakesEffectWithin != "2s" {
		t.Errorf("the answer is %+v", d)
	}
}

func TestAFinishedMessageIsNotMoved(t *testing.T) {
	r := setup(t)
	for _, state := range []engine.State{engine.Done, engine.Dead, engine.Cancelled} {
		id := string(state)
		r.write(id, state, nil)
		r.wantProblem(http.StatusConflict, "finished", http.MethodPut, "/api/v1/delays/"+id, `{"in":"1s"}`)
		r.wantProblem(http.StatusConflict, "finished", http.MethodDelete, "/api/v1/delays/"+id, "")
	}
}

func TestBadTimesAreRefused(t *testing.T) {
	r := setup(t)
	for body, code := range map[string]string{
		``:                                 "bad_body",
		`null`:                             "bad_body",
		`{}`:                               "bad_body",
		`"15m"`:                            "bad_body",
		`{"in":15}`:                        "bad_body",
		`{"in":"15m","until":""}`:          "bad_body",
		`{"in":"15m"}{"in":"1m"}`:          "bad_body",
		`{"in":"15m"} x`:                   "bad_body",
		`{"In":"1m","at":"now"}`:           "bad_body",
		`{"in":""}`:                        "bad_time",
		`{"in":"-1s"}`:                     "bad_time",
		`{"in":"tomorrow"}`:                "bad_time",
		`{"in":"87601h"}`:                  "bad_time",
		`{"in":"9999999999h"}`:             "bad_time",
		`{"until":""}`:                     "bad_time",
		`{"until":"2030-01-02"}`:           "bad_time",
		`{"until":"2030-01-02T15:04:05"}`:  "bad_time",
		`{"until":"9999-01-02T15:04:05Z"}`: "bad_time",
		`{"until":"` + strings.Repeat("2", 1000) + `"}`: "bad_time",
	} {
		r.wantProblem(http.StatusBadRequest, code, http.MethodPut, "/api/v1/delays/m", body)
	}
	r.wantProblem(http.StatusRequestEntityTooLarge, "too_large", http.MethodPut, "/api/v1/delays/m", `{"in":"`+strings.Repeat("1", 5000)+`s"}`)
	if _, err := r.table.Record(t.Context(), "m"); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("a bad request made a record: %v", err)
	}
}

func TestQueuesTellWhatTheBrokerTells(t *testing.T) {
	r := setup(t)
	r.engine.view.Ready[9], r.engine.view.InHand, r.engine.view.Floor = 4, 6, 2
	r.engine.view.ByPlugin = map[string]int{"orders": 2}
	var q server.QueueReport
	w := r.want(http.StatusOK, &q, http.MethodGet, "/api/v1/queues", "")
	if len(q.Levels) != 10 || q.Levels[9].Level != 0 || !q.Connected || q.InHand != 6 || q.Floor != 2 || q.Running["orders"] != 2 || q.Note != "" {
		t.Fatalf("the report is %s", w.Body)
	}
	if l := q.Levels[0]; l.Level != 9 || l.Queue != "usher.work.p9" || *l.Size != 3 || *l.InFlight != 2 || *l.Waiting != 1 || l.OldestSeconds != nil || l.Ready != 4 {
		t.Errorf("level 9 is %+v", l)
	}
	if q.Levels[1].Size != nil || q.Dead.Size != nil || q.Unsorted.Size == nil || *q.Unsorted.Size != 0 {
		t.Errorf("what is not known is not null: %s", w.Body)
	}
	r.want(http.StatusOK, &q, http.MethodGet, "/api/v1/queues", "")
	if r.broker.asked != 1 {
		t.Errorf("within a second the broker was asked %d times", r.broker.asked)
	}
}

func TestQueuesTellWhatIsInHandAndTheTotal(t *testing.T) {
	r := setup(t, func(c *server.Config) {
		c.InHandFunc = func() map[int]int { return map[int]int{engine.Unsorted: 1, 9: 2, 3: 0} }
	})
	r.broker.depths.Lanes[3] = engine.Depth{Size: 40, InFlight: 10}
	r.broker.depths.Dead = &engine.Depth{Size: 5, InFlight: 1}
	var q server.QueueReport
	w := r.want(http.StatusOK, &q, http.MethodGet, "/api/v1/queues", "")
	if l := q.Levels[0]; l.InHand == nil || *l.InHand != 2 || q.Levels[1].InHand != nil || *q.Unsorted.InHand != 1 || q.Dead.InHand != nil {
		t.Errorf("what is in hand: %s", w.Body)
	}
	if total := q.Total; total.Queue != "usher.work.>" || *total.Size != 43 || *total.InFlight != 12 || *total.Waiting != 31 || *total.InHand != 3 {
		t.Errorf("the total: %s", w.Body)
	}
	if *q.Dead.Size != 5 || *q.Dead.Waiting != 4 {
		t.Errorf("the dead letters: %s", w.Body)
	}
	r.wantSamples(map[string]float64{
		"usher_backlog": 43, "usher_dead_queue_depth": 5, `usher_queue_in_hand{lane="p9"}`: 2, `usher_queue_in_hand{lane="unsorted"}`: 1,
	})
}

func TestTheBrokersFindingsAreToldAndMeasured(t *testing.T) {
	report := server.BrokerReport{Address: "10.0.0.7:61614", Since: nowPlus(0), Findings: []server.Finding{
		{Name: "lanes", State: server.StateFailed, Detail: "level 3 has no lane", Help: "write it"},
		{Name: "clock", State: server.StateOK, Detail: "within 1s"},
		{Name: "scheduler", State: server.StateUnknown, Detail: "not known yet"},
	}}
	r := setup(t, func(c *server.Config) { c.BrokerFunc = func() server.BrokerReport { return report } })
	var got server.BrokerReport
	w := r.want(http.StatusOK, &got, http.MethodGet, "/api/v1/broker", "")
	if !got.Connected || got.Address != report.Address || !got.Since.Equal(report.Since) || !slices.Equal(got.Findings, report.Findings) {
		t.Errorf("the report is %s", w.Body)
	}
	samples := r.wantSamples(map[string]float64{`usher_broker_finding{finding="lanes"}`: 0, `usher_broker_finding{finding="clock"}`: 1})
	if v, ok := samples[`usher_broker_finding{finding="scheduler"}`]; ok {
		t.Errorf("what is not known is measured as %v", v)
	}
}

func TestWithoutASessionNothingIsFound(t *testing.T) {
	r := setup(t)
	r.engine.view.Epoch = 0
	var got server.BrokerReport
	if w := r.want(http.StatusOK, &got, http.MethodGet, "/api/v1/broker", ""); got.Connected || !strings.Contains(w.Body.String(), `"findings":[]`) {
		t.Errorf("the report is %s", w.Body)
	}
}

func TestABrokerInTheSameProcessTellsMore(t *testing.T) {
	r := setup(t, func(c *server.Config) {
		c.Queue = "shop.work"
		c.QueuesFunc = func() []server.Queue {
			return []server.Queue{
				{Name: "shop.work.p3", Size: 5, InFlight: 1, Oldest: time.Now().Add(-90 * time.Second)},
				{Name: "usher.dead", Size: 12},
				{Name: "another", Size: 1},
			}
		}
	})
	var q server.QueueReport
	w := r.want(http.StatusOK, &q, http.MethodGet, "/api/v1/queues", "")
	if l := q.Levels[6]; l.Queue != "shop.work.p3" || *l.Waiting != 4 || l.OldestSeconds == nil || *l.OldestSeconds < 90 || *l.OldestSeconds > 120 {
		t.Errorf("level 3 is %+v", l)
	}
	if q.Dead.Queue != "usher.dead" || q.Dead.Size == nil || *q.Dead.Size != 12 || strings.Contains(w.Body.String(), "another") || r.broker.asked != 0 {
		t.Errorf("the report is %s", w.Body)
	}
}

func TestABrokerWithoutStatisticsIsSaid(t *testing.T) {
	for err, want := range map[error]string{
		fmt.Errorf("stomp: depths: %w", engine.ErrNoStatistics): "statisticsBrokerPlugin",
		errors.New("there is no session"):                       "there is no session",
	} {
		r := setup(t)
		r.broker.err = err
		var q server.QueueReport
		r.want(http.StatusOK, &q, http.MethodGet, "/api/v1/queues", "")
		if !strings.Contains(q.Note, want) || q.Levels[0].Size != nil || q.Levels[0].Queue != "usher.work.p9" {
			t.Errorf("%v: the report is %+v", err, q)
		}
	}
}

func TestPluginsAreListed(t *testing.T) {
	orders := server.Plugin{Name: "orders", State: "ready", Ready: true, Types: []string{"order.placed"}, PID: 4711, Credit: 32, Restarts: 1, Since: nowPlus(0)}
	r := setup(t, func(c *server.Config) {
		c.PluginsFunc = func() []server.Plugin {
			return []server.Plugin{orders, {Name: "reports", State: "quarantined", Error: "exit status 1"}}
		}
	})
	var list server.PluginList
	w := r.want(http.StatusOK, &list, http.MethodGet, "/api/v1/plugins", "")
	if len(list.Items) != 2 || list.Items[0].PID != 4711 || list.Items[1].Error != "exit status 1" || !strings.Contains(w.Body.String(), `"types":[]`) {
		t.Errorf("the list is %s", w.Body)
	}
}

func TestDelaysAreChosenByTypeLevelAndTime(t *testing.T) {
	r := setup(t)
	r.waits("soon", nowPlus(60))
	r.waits("late", nowPlus(7200))
	r.write("other", engine.Delayed, func(c *engine.Change) {
		c.Type, c.Priority, c.Due, c.DueBy, c.NextHop = "order.rush", 9, nowPlus(120), engine.ByRule, 1
	})
	for query, want := range map[string][]string{
		"type=order.placed": {"soon", "late"}, "type=order.rush": {"other"}, "type=none": {}, "level=9": {"other"}, "level=7": {"soon", "late"},
		"dueBefore=" + url.QueryEscape(nowPlus(3600).Format(time.RFC3339)): {"soon", "other"}, "type=order.placed&limit=1": {"soon"},
	} {
		var l server.DelayList
		r.want(http.StatusOK, &l, http.MethodGet, "/api/v1/delays?"+query, "")
		got := []string{}
		for _, m := range l.Items {
			got = append(got, m.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	for query, code := range map[string]string{"level=10": "bad_level", "level=x": "bad_level", "dueBefore=tomorrow": "bad_time"} {
		r.wantProblem(http.StatusBadRequest, code, http.MethodGet, "/api/v1/delays?"+query, "")
	}
}

func TestAMessageThatWaitsIsCancelledAndItsWatchersAreTold(t *testing.T) {
	var told []engine.Status
	r := setup(t, func(c *server.Config) {
		c.NotifyFunc = func(watchers []engine.Watcher, s engine.Status) {
			if len(watchers) == 1 && watchers[0].Connection == "c1" {
				told = append(told, s)
			}
		}
	})
	r.waits("m", nowPlus(60))
	if _, err := r.table.Watch(t.Context(), "m", engine.Watcher{Connection: "c1", Until: nowPlus(60)}); err != nil {
		t.Fatal(err)
	}
	var m server.Message
	r.want(http.StatusOK, &m, http.MethodDelete, "/api/v1/messages/m", "")
	if m.State != engine.Cancelled || len(told) != 1 || told[0].State != engine.Cancelled {
		t.Errorf("it is %s, and its watcher was told %+v; want cancelled, once", m.State, told)
	}
	r.wantProblem(http.StatusConflict, "finished", http.MethodDelete, "/api/v1/messages/m", "")
	r.wantProblem(http.StatusNotFound, "not_seen", http.MethodDelete, "/api/v1/messages/unknown", "")
	r.engine.inHand["runs"] = engine.Status{ID: "runs", State: engine.Processing}
	r.wantProblem(http.StatusConflict, "running", http.MethodDelete, "/api/v1/messages/runs", "")
}
