package live

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"usher/engine"
)

// Whatever a client asks for, and whatever is told meanwhile: each message has
// at most two frames waiting, and they never go back but where it asks again.
func TestSubscriptionsModel(t *testing.T) {
	ids := []string{"a", "b", "c"}
	rapid.Check(t, func(t *rapid.T) {
		const most = 2
		subs := subscriptions{subs: map[string]*subscription{}}
		written := map[string]engine.Seq{} // the last of each subscription; absent: none yet
		now := time.Unix(1, 0)
		someSeq := func() engine.Seq { return engine.Seq{Count: rapid.IntRange(0, 9).Draw(t, "seq")} }
		someStatus := func(id string) engine.Status {
			s := engine.Status{ID: id, Seq: someSeq(), State: rapid.SampledFrom([]engine.State{engine.Processing, engine.Retrying, engine.Done, engine.Dead}).Draw(t, "state")}
			if s.State == engine.Processing && rapid.Bool().Draw(t, "progress") {
				s.Progress = new(float64)
			}
			return s
		}
		since := map[string]engine.Seq{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			id := rapid.SampledFrom(ids).Draw(t, "id")
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				until := now.Add(time.Duration(rapid.IntRange(1, 9).Draw(t, "ttl")) * time.Second)
				if _, ok := subs.enter(id, until, most); !ok {
					break
				}
				delete(written, id) // it may be told the same again
				delete(since, id)
				var from *engine.Seq
				if rapid.Bool().Draw(t, "resumes") {
					seq := someSeq()
					from, since[id] = &seq, seq
				}
				subs.confirm(id, someStatus(id), from)
			case 1, 2:
				subs.note(someStatus(id))
			case 3:
				subs.forget(id)
			case 4:
				now = now.Add(time.Second)
				for _, ended := range subs.forgetEnded(now) {
					if subs.forget(ended) {
						t.Fatalf("%s has ended and is there", ended)
					}
				}
			case 5:
				s, ok := subs.take()
				if !ok {
					break
				}
				if last, seen := written[s.ID]; s.ID == "" || s.State == "" || seen && !last.Less(s.Seq) {
					t.Fatalf("%+v is written after %v", s, last)
				}
				if from, resumed := since[s.ID]; resumed && !from.Less(s.Seq) {
					t.Fatalf("%+v is written to a client that had %v", s, from)
				}
				written[s.ID] = s.Seq
			}
			if len(subs.subs) > most || len(subs.pending) > len(subs.subs) {
				t.Fatalf("%d subscriptions, %d pending", len(subs.subs), len(subs.pending))
			}
		}
	})
}
