package monitor

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"usher/engine"
)

// Whatever fails when: each failure is in exactly one note, the first of a kind is
// told at once, and no kind has more than one note a window besides.
func TestEveryFailureIsCountedInOneNote(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const window = 5 * time.Minute
		k := newKinds(window)
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		failed, told := map[string]int{}, map[string]int{}
		last := map[string]time.Time{} // when a kind's last note was
		note := func(n Note) {
			told[n.Fingerprint] += n.Count
			if at, ok := last[n.Fingerprint]; ok && now.Sub(at) < window {
				t.Fatalf("two notes of %s within %v", n.Fingerprint, now.Sub(at))
			}
			last[n.Fingerprint] = now
			if n.Count < 1 || len(n.IDs) == 0 || len(n.IDs) > maxIDs {
				t.Fatalf("note %+v", n)
			}
		}
		for range rapid.IntRange(1, 200).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 120).Draw(t, "seconds")) * time.Second)
			for _, n := range k.over(now) {
				note(n)
			}
			l := engine.DeadLetter{ID: "id", Why: engine.Failure{Fingerprint: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "kind")}}
			quiet := failed[l.Why.Fingerprint] == 0 || now.Sub(last[l.Why.Fingerprint]) >= 2*window
			failed[l.Why.Fingerprint]++
			n, first := k.add(l, now)
			if quiet && !first {
				t.Fatalf("the first %s after a quiet time is not told at once", l.Why.Fingerprint)
			}
			if first {
				note(n)
			}
		}
		for _, n := range k.end(now) {
			told[n.Fingerprint] += n.Count
		}
		for kind, n := range failed {
			if told[kind] != n {
				t.Fatalf("%d of %s failed, and notes tell of %d", n, kind, told[kind])
			}
		}
	})
}

func TestTooManyKindsAreCountedTogether(t *testing.T) {
	k := newKinds(time.Minute)
	now := time.Now()
	firsts, total := 0, 0
	for i := range 3 * maxKinds {
		if n, first := k.add(engine.DeadLetter{ID: "id", Why: engine.Failure{Fingerprint: fmt.Sprint(i)}}, now); first {
			firsts++
			total += n.Count
		}
	}
	for _, n := range k.end(now) {
		total += n.Count
	}
	if firsts != maxKinds+1 || total != 3*maxKinds {
		t.Errorf("%d firsts and %d in all, want %d and %d", firsts, total, maxKinds+1, 3*maxKinds)
	}
}
