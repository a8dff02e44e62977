package engine

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"usher/handlers"
)

// A ready queue is what a sorted list would be: by level, then by arrival, of those
// that may run.
func TestTheReadyQueueIsASortedList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q readyQueue
		var plain []*item // by arrival
		may := func(allowed map[string]bool) func(kind) bool { return func(k kind) bool { return allowed[k.typ] } }
		best := func(ok func(*item) bool) *item {
			var found *item
			for _, it := range plain {
				if ok(it) && (found == nil || it.readySeq < found.readySeq) {
					found = it
				}
			}
			return found
		}
		take := func(t *rapid.T, what string, got, want *item) {
			if got != want {
				t.Fatalf("%s gave %+v, want %+v", what, got, want)
			}
			plain = slices.DeleteFunc(plain, func(it *item) bool { return it == got })
		}
		allowed := func(t *rapid.T) map[string]bool {
			return map[string]bool{"a": rapid.Bool().Draw(t, "a"), "b": rapid.Bool().Draw(t, "b"), "c": rapid.Bool().Draw(t, "c")}
		}
		level := rapid.SampledFrom([]int{0, 3, Levels - 1}) // few, so that queues are long
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				it := &item{level: level.Draw(t, "level"), suspect: rapid.Bool().Draw(t, "suspect")}
				it.msg.typ, it.plugin = rapid.SampledFrom([]string{"a", "a", "a", "b", "c"}).Draw(t, "type"), "p"
				q.push(it)
				plain = append(plain, it)
			},
			"pop": func(t *rapid.T) {
				l, ok := level.Draw(t, "level"), allowed(t)
				take(t, "pop", q.pop(l, may(ok)), best(func(it *item) bool { return it.level == l && ok[it.msg.typ] }))
			},
			"popBelow": func(t *rapid.T) {
				l, ok := level.Draw(t, "level"), allowed(t)
				take(t, "popBelow", q.popBelow(l, may(ok)), best(func(it *item) bool { return it.level < l && ok[it.msg.typ] }))
			},
			"takeIf": func(t *rapid.T) {
				ok := allowed(t)
				taken := q.takeIf(may(ok))
				for _, it := range taken {
					if !ok[it.msg.typ] {
						t.Fatalf("%+v was taken", it)
					}
				}
				left := slices.DeleteFunc(slices.Clone(plain), func(it *item) bool { return ok[it.msg.typ] })
				if len(taken)+len(left) != len(plain) {
					t.Fatalf("%d were taken of %d, want %d", len(taken), len(plain), len(plain)-len(left))
				}
				plain = left
			},
			"overfull": func(t *rapid.T) {
				l, keep, stays := level.Draw(t, "level"), rapid.IntRange(0, 3).Draw(t, "keep"), allowed(t)
				over := q.overfull(l, keep, may(stays))
				taken := byKind(over, l)
				for k, its := range byKind(plain, l) {
					want := its[min(keep, len(its)):]
					if stays[k.typ] {
						want = nil
					}
					if got := taken[k]; !slices.Equal(got, want) {
						t.Fatalf("of %+v %d are over, want the newest %d", k, len(got), len(want))
					}
				}
				plain = slices.DeleteFunc(plain, func(it *item) bool { return slices.Contains(over, it) })
			},
			"": func(t *rapid.T) {
				var counts [Levels]int
				for _, it := range plain {
					counts[it.level]++
				}
				if q.counts != counts {
					t.Fatalf("the counts are %v, want %v", q.counts, counts)
				}
			},
		})
	})
}

func byKind(all []*item, level int) map[kind][]*item {
	kinds := map[kind][]*item{}
	for _, it := range all {
		if it.level == level {
			kinds[it.kind()] = append(kinds[it.kind()], it)
		}
	}
	return kinds
}

// Whoever sets a message's time, and in whatever order: the operator's holds, else the
// header's, else the rule's; rule and header count at first sight only.
func TestTheStrongestHandSetsTheTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.UnixMilli(1_900_000_000_000).UTC()
		minutes := rapid.IntRange(1, 100)
		rule := time.Duration(minutes.Draw(t, "rule")) * time.Minute
		e := &Engine{cfg: Config{Types: map[string]Type{"a": {Delay: rule}}}}
		it := &item{msg: message{id: "m", typ: "a", digest: "d", queuedAt: now}, typ: e.cfg.Types["a"]}
		hasHeader := rapid.Bool().Draw(t, "has header")
		if hasHeader {
			it.msg.notBefore = now.Add(time.Duration(minutes.Draw(t, "header")) * time.Minute)
		}
		bypass := rapid.IntRange(0, Levels-1).Draw(t, "bypass")
		it.level = rapid.IntRange(0, Levels-1).Draw(t, "level")
		if rapid.Bool().Draw(t, "has bypass") {
			it.typ.Bypass = &bypass
		}

		want, by := now.Add(rule), ByRule
		if it.typ.Bypass != nil && it.level >= bypass {
			want = now
		}
		if hasHeader {
			want, by = it.msg.notBefore, ByHeader
		}
		var rec Record
		var operator time.Time
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0: // it is seen, perhaps again and with another rule
				wish, wishedBy := e.wish(it, true)
				g := Gate{ID: "m", Type: "a", Digest: "d", Due: wish, DueBy: wishedBy, Now: now}
				if g.Allowed(rec) {
					rec = g.Apply(rec)
				}
				it.typ.Delay += time.Hour
			case 1: // an operator moves it
				operator = now.Add(time.Duration(minutes.Draw(t, "operator")) * time.Minute)
				rec.ID, rec.State = "m", cmp.Or(rec.State, Queued)
				rec.Due, rec.DueBy = operator, ByOperator
			case 2: // it fails, and would wait until then
				retry := now.Add(time.Duration(minutes.Draw(t, "retry")) * time.Minute)
				c := Change{ID: "m", Type: "a", Digest: "d", State: Retrying, Due: retry, DueBy: ByRetry, Hop: rec.Hop, NextHop: rec.Hop + 1, Now: now}
				rec = c.Apply(rec)
				if operator.IsZero() {
					want, by = retry, ByRetry
				}
			}
			if !operator.IsZero() {
				want, by = operator, ByOperator
			}
			if rec.DueBy != ByNone && (rec.DueBy != by || !rec.Due.Equal(toMillis(want))) {
				t.Fatalf("it is due %v by %q, want %v by %q", rec.Due, rec.DueBy, want, by)
			}
			if rec.GatedAt.IsZero() && rec.DueBy != ByNone && rec.DueBy != ByOperator {
				t.Fatalf("it has the time of %q, and was not seen", rec.DueBy)
			}
		}
	})
}

// Whatever a handler answers, a message's attempts end: it is done, dropped, or dead
// after no more than its rounds of attempts, crashes or age allow; and what is not
// counted as an attempt is none.
func TestEveryMessageEnds(t *testing.T) {
	answers := map[string]error{
		"fails": errors.New("failed"), "later": handlers.RetryAfter(time.Minute, errors.New("later")), "soon": handlers.RetryAfter(time.Second, errors.New("soon")),
		"defers": handlers.Defer(time.Hour), "crashes": fmt.Errorf("it: %w", ErrPluginLost), "away": fmt.Errorf("it: %w", ErrPluginAway),
		"permanent": handlers.Permanent(errors.New("no"), "no"), "drops": handlers.Drop(), "done": nil,
	}
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range answers {
			if !yield(name) {
				return
			}
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		typ := Type{Attempts: rapid.IntRange(1, 4).Draw(t, "attempts"), Backoff: time.Second, MaxAge: 5 * time.Hour}
		for range rapid.IntRange(0, 3).Draw(t, "rounds") {
			typ.Redeliveries = append(typ.Redeliveries, time.Minute)
		}
		a := attempted{jitter: rapid.Float64Range(0, 1).Draw(t, "jitter")}
		attempts, crashes := 0, 0
		for range 200 {
			name := rapid.SampledFrom(names).Draw(t, "answer")
			a.err = answers[name]
			d := classify(a, typ)
			if d.counted {
				attempts, a.ended = attempts+1, a.ended+1
			}
			if d.crash {
				crashes, a.crashes = crashes+1, a.crashes+1
			}
			if wantsCount := name != "crashes" && name != "away" && name != "defers"; d.counted != wantsCount {
				t.Fatalf("%s: counted %v", name, d.counted)
			}
			if most := typ.Attempts * (len(typ.Redeliveries) + 1); attempts > most || crashes > maxCrashes || d.wait < 0 {
				t.Fatalf("%d attempts of %d, %d crashes, a wait of %v", attempts, most, crashes, d.wait)
			}
			switch d.action {
			case actDone, actDrop:
				if name != "done" && name != "drops" {
					t.Fatalf("%s ended it as %s", name, d.outcome)
				}
				return
			case actDead:
				if name == "away" || name == "done" || d.fault.reason == "" || d.fault.detail == "" {
					t.Fatalf("%s made it dead: %+v", name, d)
				}
				return
			case actDefer:
				a.age += d.wait
				if d.round {
					a.ended, a.rounds = 0, a.rounds+1
				}
			case actAgain:
				if d.wait > MaxShortWait {
					t.Fatalf("%s: it waits %v in memory", name, d.wait)
				}
				a.age += d.wait
			case actHandBack:
				t.Fatalf("%s: it is handed back, and nothing stops", name)
			}
		}
		if attempts == typ.Attempts*(len(typ.Redeliveries)+1) {
			t.Fatal("all attempts are used up, and it goes on")
		}
	})
}

// A watcher who takes statuses by their seq, in any order and with any losses, is left
// with the last: seqs only grow over attempts, copies and engines, and nothing of a hop
// comes after its end.
func TestTheStatusSequenceOnlyGrows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.UnixMilli(1_900_000_000_000).UTC()
		it := &item{msg: message{id: "m"}}
		var told []Status
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0: // another engine has it, a copy or the same delivery: it has told nothing
				it = &item{msg: message{id: "m", hop: it.msg.hop + rapid.IntRange(0, 1).Draw(t, "hop")}}
				now = now.Add(time.Millisecond) // its clock is as good as ours to a millisecond
			case 1:
				now = now.Add(time.Duration(rapid.IntRange(0, 1000).Draw(t, "time")) * time.Microsecond)
			default:
				s := rapid.SampledFrom([]State{Queued, Delayed, Processing, Processing, Retrying}).Draw(t, "state")
				told = append(told, it.status(s, now))
			}
		}
		told = append(told, it.status(Done, now))
		for i := 1; i < len(told); i++ {
			if !told[i-1].Seq.Less(told[i].Seq) {
				t.Fatalf("%+v was told after %+v", told[i], told[i-1])
			}
		}
		late := it.status(Processing, now.Add(time.Hour)) // by an engine that does not know, and whose clock is ahead
		late.Seq = seqAt(it.msg.hop, now.Add(time.Hour), Processing)
		if !late.Seq.Less(told[len(told)-1].Seq) {
			t.Fatalf("%+v comes after the end %+v", late, told[len(told)-1])
		}
		var shown Status
		for _, s := range rapid.Permutation(told).Draw(t, "as they come") {
			if shown.ID == "" || shown.Seq.Less(s.Seq) {
				shown = s
			}
		}
		if shown.State != Done {
			t.Fatalf("the watcher is left with %+v", shown)
		}
	})
}
