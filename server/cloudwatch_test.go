package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"usher/engine"
	"usher/server"
)

// directives say which values of a line are metrics (Embedded metric format
// specification); their names are written with capitals.
type directives struct {
	Timestamp         int64 `json:"timestamp"`
	CloudWatchMetrics []struct {
		Namespace  string     `json:"namespace"`
		Dimensions [][]string `json:"dimensions"`
		Metrics    []struct {
			Name string `json:"name"`
			Unit string `json:"unit"`
		} `json:"metrics"`
	} `json:"cloudWatchMetrics"`
}

// until takes lines, and ends what writes them after some.
type until struct {
	bytes.Buffer

	left int
	end  context.CancelFunc
}

func (u *until) Write(p []byte) (int, error) {
	if u.left--; u.left == 0 {
		u.end()
	}
	return u.Buffer.Write(p)
}

func TestCloudWatchIsToldWhatIsKnown(t *testing.T) {
	r := setup(t, func(c *server.Config) {
		c.BrokerFunc = func() server.BrokerReport { return server.BrokerReport{Connected: true} }
	})
	r.broker.depths = engine.Depths{At: time.Now(), Lanes: map[int]engine.Depth{
		9: {Size: 3, InFlight: 2, Oldest: time.Now().Add(-time.Hour)}, engine.Unsorted: {},
	}}
	for id, bucket := range map[string]string{"parked": "7", "in the broker": "", "held": engine.HeldBucket("order.placed")} {
		late := 2 * time.Minute
		if bucket != "7" {
			late = time.Hour // and nobody should have released it
		}
		r.write(id, engine.Delayed, func(c *engine.Change) {
			c.Due, c.DueBy, c.NextHop, c.Bucket = time.Now().Add(-late), engine.ByRule, 1, bucket
		})
	}
	ctx, end := context.WithCancel(t.Context())
	defer end()
	out := &until{left: 3, end: end}
	if err := r.server.CloudWatch(ctx, out, "usher-test"); err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for line := range bytes.Lines(out.Bytes()) {
		var about directives
		var values map[string]any
		var raw map[string]json.RawMessage
		if err := errors.Join(json.Unmarshal(line, &values), json.Unmarshal(line, &raw), json.Unmarshal(raw["_aws"], &about)); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if len(about.CloudWatchMetrics) != 1 || time.Since(time.UnixMilli(about.Timestamp)) > time.Minute {
			t.Fatalf("%s", line)
		}
		m := about.CloudWatchMetrics[0]
		where := ""
		for _, name := range m.Dimensions[0] {
			value, is := values[name].(string)
			if !is {
				t.Errorf("%s has no %s", line, name)
			}
			where += value + "/"
		}
		for _, metric := range m.Metrics {
			value, is := values[metric.Name].(float64)
			if !is || m.Namespace != "usher" || metric.Unit != "Count" && metric.Unit != "Seconds" {
				t.Errorf("%s: %s", metric.Name, line)
			}
			got[where+metric.Name] = value
		}
	}
	if age := got["usher-test/p9/OldestMessage"]; age < 3600 || age > 3700 {
		t.Errorf("the oldest of p9 is %v s old", age)
	}
	if late := got["usher-test/ParkedOverdue"]; late < 120 || late > 200 {
		t.Errorf("what should have been released is %v s late", late)
	}
	for name, want := range map[string]float64{
		"usher-test/Connected": 1, "usher-test/Backlog": 3, "usher-test/DeadLetters": 0, "usher-test/p9/Depth": 3,
		"usher-test/unsorted/Depth": 0, "usher-test/unsorted/OldestMessage": 0,
	} {
		if v, is := got[name]; !is || v != want {
			t.Errorf("%s is %v (%v), want %v", name, v, is, want)
		}
	}
	if len(got) != 8 {
		t.Errorf("there are %v", got)
	}
}

// broken is standard output whose reader has gone.
type broken struct{ end context.CancelFunc }

func (b broken) Write([]byte) (int, error) {
	b.end()
	return 0, errors.New("broken pipe")
}

// Metrics that nobody takes are no reason to stop.
func TestCloudWatchThatCannotBeToldEndsNothing(t *testing.T) {
	ctx, end := context.WithCancel(t.Context())
	defer end()
	if err := setup(t).server.CloudWatch(ctx, broken{end}, "usher-test"); err != nil {
		t.Error(err)
	}
}

// Each engine that knows the backlog says it once: by how many say it, tasks are counted.
func TestCloudWatchIsNotToldABacklogThatIsNotKnown(t *testing.T) {
	r := setup(t)
	r.broker.err = errors.New("there is no session")
	ctx, end := context.WithCancel(t.Context())
	defer end()
	out := &until{left: 1, end: end}
	if err := r.server.CloudWatch(ctx, out, "usher-test"); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(out.Bytes(), []byte(`"Connected":0`)) || bytes.Contains(out.Bytes(), []byte("Backlog")) {
		t.Errorf("it was told %s", out.Bytes())
	}
}
