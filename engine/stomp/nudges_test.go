package stomp_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	gostomp "github.com/go-stomp/stomp/v3"
	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/stomp"
)

func TestNudgesReachAllEngines(t *testing.T) {
	e := startEmbedded(t)
	config := stomp.Config{URLs: []string{"stomp://" + e.address}, Probe: true, Log: zerolog.Nop()}
	one, two := run(t, config), run(t, config)
	listens(t, one)
	listens(t, two)
	if err := one.Tell(t.Context(), engine.Nudge{Kind: engine.NudgeDelay, ID: "m"}); err != nil {
		t.Fatal(err)
	}
	for _, b := range []*stomp.Broker{one, two} {
		if n := nudge(t, b); n.ID != "m" || n.Kind != engine.NudgeDelay {
			t.Errorf("heard %+v", n)
		}
	}
	e.Restart(t)
	listens(t, one)
	listens(t, two)
	if err := two.Tell(t.Context(), engine.Nudge{Kind: engine.NudgeCancel, ID: "m", Stop: true}); err != nil {
		t.Fatal(err)
	}
	for _, b := range []*stomp.Broker{one, two} {
		if n := nudge(t, b); n.Kind != engine.NudgeCancel || !n.Stop {
			t.Errorf("heard after a restart %+v", n)
		}
	}
}

func TestJunkOnTheTopicIsCountedAndWhatNobodyTakesIsLost(t *testing.T) {
	e := startEmbedded(t)
	b := run(t, stomp.Config{URLs: []string{"stomp://" + e.address}, Probe: true, Log: zerolog.Nop()})
	listens(t, b)
	before := b.NudgeCounts()
	client, err := gostomp.Dial("tcp", e.address, gostomp.ConnOpt.HeartBeat(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := client.Disconnect(); err != nil {
			t.Error(err)
		}
	}()
	for _, body := range []string{"", "junk", strings.Repeat("x", 100_000)} {
		if err := client.Send("/topic/"+engine.ControlTopic, "text/plain", []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	const sent = 400
	for i := range sent {
		if i%100 == 0 { // a broker drops what a topic's subscriber has no room for
			waitFor(t, "what was sent has come", func() bool { return b.NudgeCounts().Came == before.Came+uint64(i)+3 })
		}
		body := engine.Nudge{Kind: engine.NudgeDelay, ID: strconv.Itoa(i)}.Marshal()
		if err := client.Send("/topic/"+engine.ControlTopic, "application/json", body); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "all have come", func() bool { return b.NudgeCounts().Came == before.Came+sent+3 })
	if c := b.NudgeCounts(); c.Junk != before.Junk+3 || c.Lost != before.Lost+sent-256 {
		t.Errorf("counted %+v after %+v; want 3 more of junk and %d lost", c, before, sent-256)
	}
	if n := nudge(t, b); n.ID != strconv.Itoa(sent-256) {
		t.Errorf("the first that is left is %s; want the oldest to be lost", n.ID)
	}
}

// waitFor asks until the answer is yes, for at most ten seconds.
func waitFor(t *testing.T, what string, yes func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !yes() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("ten seconds on, still not so: %s", what)
		}
	}
}

// listens waits until a broker hears the newest of what it told, so that no older one
// can still be on its way, and takes what has come.
func listens(t *testing.T, b *stomp.Broker) {
	t.Helper()
	told := 0
	waitFor(t, "it listens", func() bool {
		told++
		newest := hello + strconv.Itoa(told)
		if b.Tell(t.Context(), engine.Nudge{Kind: engine.NudgeDelay, ID: newest}) != nil {
			return false
		}
		for patience := time.After(50 * time.Millisecond); ; {
			select {
			case n := <-b.Nudges():
				if n.ID == newest {
					return true
				}
			case <-patience:
				return false
			}
		}
	})
}

// hello begins the ids of the nudges that [listens] sends.
const hello = "hello-"

// nudge takes the next one that is no hello.
func nudge(t *testing.T, b *stomp.Broker) engine.Nudge {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case n := <-b.Nudges():
			if !strings.HasPrefix(n.ID, hello) {
				return n
			}
		case <-deadline:
			t.Fatal("no nudge has come")
		}
	}
}
