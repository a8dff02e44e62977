package engine_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"usher/engine"
	"usher/engine/enginetest"
	"usher/handlers"
)

// keys notes with which idempotency key each message ran.
type keys struct {
	mu   sync.Mutex
	seen []string
	work time.Duration
}

func (k *keys) handle(_ context.Context, m *handlers.Message) error {
	pass(k.work)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen = append(k.seen, m.IdempotencyKey)
	return nil
}

func (k *keys) sorted() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Sorted(slices.Values(k.seen))
}

// beside is a second engine, with a broker of its own and the same records.
func (r *rig) beside(options ...option) *rig {
	other := &rig{
		t: r.t, broker: enginetest.NewFakeBroker(), records: r.records, faulty: r.faulty, board: r.board, handler: r.handler,
	}
	other.start(options...)
	return other
}

func (r *rig) close() {
	r.t.Helper()
	r.stop()
	if err := r.broker.Close(); err != nil {
		r.t.Error(err)
	}
}

// pastTheFirstWindow has so many messages run that the next one is not claimed
// because the session is young.
func (r *rig) pastTheFirstWindow() {
	for range engine.DefaultWindow {
		r.send("x", "b")
	}
	r.after(time.Minute)
}

func dedupe(d engine.Dedupe) option {
	return func(c *engine.Config) { c.Types["a"] = engine.Type{Dedupe: d} }
}

// sendText sends a message of type a with the given body.
func (r *rig) sendText(id, body string) {
	r.broker.Send(engine.Outgoing{Queue: engine.WorkQueue, Headers: map[string]string{engine.HeaderID: id, engine.HeaderType: "a"}, Body: []byte(body)})
}

func TestAMessageThatIsSentTwiceToTwoEngines(t *testing.T) {
	for d, ran := range map[engine.Dedupe]int{engine.DedupeDone: 2, engine.DedupeClaim: 1} {
		t.Run(string(d), func(t *testing.T) {
			k := &keys{work: time.Second}
			run(t, k.handle, func(r *rig) {
				other := r.beside(dedupe(d))
				r.pastTheFirstWindow()
				other.pastTheFirstWindow()
				k.seen = nil
				r.send("m", "a")
				other.send("m", "a")
				r.after(10 * time.Second)
				got := k.sorted()
				if len(got) != ran || slices.ContainsFunc(got, func(key string) bool { return key != "m" }) {
					t.Errorf("it ran with the keys %v, want %d times m", got, ran)
				}
				r.wantState("m", engine.Done)
				r.wantEmpty()
				other.wantEmpty()
				other.close()
			}, dedupe(d))
		})
	}
}

func TestWhereDedupeIsOffEveryMessageIsItsOwn(t *testing.T) {
	k := &keys{work: time.Second}
	run(t, k.handle, func(r *rig) {
		r.sendText("m", "{}")
		r.sendText("m", "{}")
		r.sendText("m", `{"other":true}`)
		r.after(5 * time.Second)
		got := k.sorted()
		if len(slices.Compact(slices.Clone(got))) != 3 || slices.Contains(got, "m") {
			t.Errorf("they ran with the keys %v, want three of the broker's", got)
		}
		for _, key := range got {
			r.wantState(key, engine.Done)
		}
		r.wantEmpty()
	}, dedupe(engine.DedupeOff))
}

func TestACopyOfAMessageIsTheSameWhereDedupeIsOff(t *testing.T) {
	k := &keys{}
	run(t, k.handle, func(r *rig) {
		r.broker.Send(engine.Outgoing{
			Queue: engine.WorkQueue, Body: []byte("{}"),
			Headers: map[string]string{engine.HeaderID: "m", engine.HeaderType: "a", engine.HeaderDelay: "1m"},
		})
		r.after(2 * time.Minute)
		got := k.sorted()
		if len(got) != 1 || got[0] == "m" {
			t.Fatalf("it ran with the keys %v, want one, the broker's", got)
		}
		if rec := r.wantState(got[0], engine.Done); rec.Hop != 1 {
			t.Errorf("its record has hop %d, want 1: the copy that was released", rec.Hop)
		}
	}, dedupe(engine.DedupeOff))
}

func TestTwoBodiesOfOneIDInTwoEnginesAtOnce(t *testing.T) {
	for _, d := range []engine.Dedupe{engine.DedupeDone, engine.DedupeClaim} {
		t.Run(string(d), func(t *testing.T) {
			k := &keys{work: time.Second}
			run(t, k.handle, func(r *rig) {
				other := r.beside(dedupe(d))
				r.pastTheFirstWindow()
				other.pastTheFirstWindow()
				r.sendText("m", "one")
				r.after(10 * time.Millisecond)
				other.sendText("m", "two")
				r.after(10 * time.Second)
				if rec := r.wantState("m", engine.Done); rec.Digest != engine.DigestOf([]byte("one")) {
					t.Error("the record is not that of the first")
				}
				if letter := other.wantDead("m", engine.ReasonIDConflict); string(letter.Body) != "two" {
					t.Errorf("the letter has the body %q, want two", letter.Body)
				}
				r.wantEmpty()
				other.wantEmpty()
				other.close()
			}, dedupe(d))
		})
	}
}
