package monitor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"usher/engine"
	"usher/engine/enginetest"
)

func TestALetterIsArchivedLoggedAndAckedLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faults := &enginetest.FaultyArchive{}
		release := faults.Hold(enginetest.CallPut)
		r := start(t, func(c *Config) { faults.Archive, c.Archive = c.Archive, faults })
		r.source.batches <- engine.Batch{Epoch: 1, Deliveries: []engine.Delivery{dead("order-7", "boom")}}
		synctest.Wait()
		if acked, _ := r.source.settled(); len(acked) > 0 {
			t.Error("it was acked before it was archived")
		}
		release()
		synctest.Wait()
		if acked, _ := r.source.settled(); !slices.Equal(acked, []string{"ID:order-7"}) {
			t.Errorf("acked %v", acked)
		}
		l := letters(t, r.table)
		if len(l) != 1 || l[0].ID != "order-7" || l[0].Queue != engine.DeadQueue || l[0].State != engine.LetterKept {
			t.Fatalf("archived %+v", l)
		}
		said := r.log.with(t, "a dead letter")
		if len(said) != 1 || said[0]["id"] != "order-7" || said[0]["type"] != "order.placed" || said[0]["level"] != 8.0 ||
			said[0]["reason"] != engine.ReasonExhausted || said[0]["attempts"] != 3.0 || said[0]["detail"] != "boom" {
			t.Errorf("logged %v", said)
		}
		if strings.Contains(r.log.String(), "secret") {
			t.Error("the body is in the log")
		}
	})
}

// The process dies after the archive has the letter and before the broker has the
// ack; or the archive's answer is lost.
func TestALetterThatComesAgainIsOneLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faults := &enginetest.FaultyArchive{}
		faults.FailNth(enginetest.CallPut, 1, enginetest.After)
		r := start(t, func(c *Config) { faults.Archive, c.Archive = c.Archive, faults })
		r.source.batches <- engine.Batch{Epoch: 1, Deliveries: []engine.Delivery{dead("a", "boom"), dead("a", "boom")}}
		again := dead("a", "boom")
		again.Redelivered, again.BrokerID = true, "ID:other"
		r.source.batches <- engine.Batch{Epoch: 2, Deliveries: []engine.Delivery{again}}
		<-time.After(10 * time.Second)
		if acked, _ := r.source.settled(); len(acked) != 3 {
			t.Errorf("acked %v", acked)
		}
		if l := letters(t, r.table); len(l) != 1 {
			t.Errorf("archived %+v", l)
		}
		// Once for the first, whose answer was lost, and once more for the one that
		// somebody had in hand before: he may have died before he could log it.
		if said := r.log.with(t, "a dead letter"); len(said) != 2 || said[1]["again"] != true {
			t.Errorf("logged %v", said)
		}
	})
}

func TestWhileTheArchiveIsAwayNothingIsAckedAndThenAllIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faults := &enginetest.FaultyArchive{}
		faults.FailAll(enginetest.CallPut, enginetest.Before)
		r := start(t, func(c *Config) { faults.Archive, c.Archive = c.Archive, faults })
		for i := range 50 {
			r.source.batches <- engine.Batch{Epoch: 1, Deliveries: []engine.Delivery{dead(fmt.Sprint("order-", i), "boom")}}
		}
		<-time.After(time.Minute)
		if acked, _ := r.source.settled(); len(acked) > 0 {
			t.Errorf("acked %v", acked)
		}
		faults.Heal(enginetest.CallPut)
		<-time.After(5 * time.Second)
		if acked, _ := r.source.settled(); len(acked) != 50 || len(letters(t, r.table)) != 50 {
			t.Errorf("acked %d, archived %d, want 50", len(acked), len(letters(t, r.table)))
		}
	})
}

func TestStoppingWhileTheArchiveIsAwayAcksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faults := &enginetest.FaultyArchive{}
		faults.FailAll(enginetest.CallPut, enginetest.Before)
		r := start(t, func(c *Config) { faults.Archive, c.Archive = c.Archive, faults })
		r.source.batches <- engine.Batch{Epoch: 1, Deliveries: []engine.Delivery{dead("a", "boom")}}
		<-time.After(time.Second)
		r.stop()
		if acked, _ := r.source.settled(); len(acked) > 0 {
			t.Errorf("acked %v", acked)
		}
	})
}

func TestWhereTheBrokerDecidedTheRecordIsWrittenAndWatchersAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		if _, err := r.table.Watch(t.Context(), "watched", engine.Watcher{Connection: "c", Until: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		expired := byTheBroker("watched")
		expired.Headers["dlqDeliveryFailureCause"] = "Message Expired. Expiration:5"
		r.source.batches <- engine.Batch{Epoch: 1, Deliveries: []engine.Delivery{expired, byTheBroker("nacked"), dead("ours", "boom")}}
		synctest.Wait()
		for id, reason := range map[string]string{"watched": engine.ReasonExpired, "nacked": engine.ReasonRefused} {
			rec, err := r.table.Record(t.Context(), id)
			if err != nil || rec.State != engine.Dead || rec.Reason != reason || rec.Hop != 0 {
				t.Errorf("%s: %v, %+v", id, err, rec)
			}
		}
		if _, err := r.table.Record(t.Context(), "ours"); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("the record of our own dead letter was written here as well: %v", err)
		}
		if len(r.notes.told) != 1 || r.notes.told[0].ID != "watched" || r.notes.told[0].State != engine.Dead {
			t.Errorf("watchers were told %+v", r.notes.told)
		}
	})
}

func TestARecordThatKnowsBetterIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		now := time.Now()
		write := func(id string, change func(*engine.Change)) {
			c := engine.Change{ID: id, Type: "order.placed", Digest: engine.DigestOf([]byte("secret")), Token: "t-" + id, State: engine.Queued, Now: now}
			change(&c)
			if _, err := r.table.Write(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		write("done", func(c *engine.Change) { c.State = engine.Done })
		write("later", func(c *engine.Change) { c.State, c.NextHop = engine.Retrying, 2 })
		write("another", func(c *engine.Change) { c.Digest = "of another body" })
		if _, err := r.table.Claim(t.Context(), engine.Claim{
			ID: "running", Type: "order.placed", Digest: engine.DigestOf([]byte("secret")), Now: now,
			Mark: engine.ClaimMark{Token: "c", BrokerID: "ID:running", Until: now.Add(10 * time.Second)},
		}); err != nil {
			t.Fatal(err)
		}
		ids := []string{"done", "later", "another", "running"}
		before, err := r.table.LookUp(t.Context(), ids)
		if err != nil {
			t.Fatal(err)
		}
		batch := engine.Batch{Epoch: 1}
		for _, id := range ids {
			batch.Deliveries = append(batch.Deliveries, byTheBroker(id))
		}
		junk := byTheBroker("junk")
		junk.Headers[engine.HeaderHop] = "many"
		r.source.batches <- engine.Batch{Epoch: 1, Deliveries: append(batch.Deliveries, junk)}
		synctest.Wait()
		for _, id := range ids {
			if rec, err := r.table.Record(t.Context(), id); err != nil || rec.State != before.Records[id].State || rec.Hop != before.Records[id].Hop {
				t.Errorf("%s was %+v and is %+v (%v)", id, before.Records[id], rec, err)
			}
		}
		if _, err := r.table.Record(t.Context(), "junk"); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("the record of one whose hop cannot be read was written: %v", err)
		}
		if acked, _ := r.source.settled(); len(acked) != 5 || len(letters(t, r.table)) != 5 {
			t.Errorf("acked %d, archived %d, want all 5", len(acked), len(letters(t, r.table)))
		}
	})
}

func TestWhatIsTooLargeStaysUntilItIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		large := dead("large", "the body is 2000000 bytes")
		large.Headers[engine.HeaderTooLarge], large.Body = "2000000", nil
		r.source.batches <- engine.Batch{Epoch: 1, Deliveries: []engine.Delivery{large}}
		large.Epoch = 2
		r.source.batches <- engine.Batch{Epoch: 2, Deliveries: []engine.Delivery{large}} // a new session
		<-time.After(5 * time.Minute)
		acked, left := r.source.settled()
		l := letters(t, r.table)
		if len(acked) > 0 || len(left) != 2 || len(l) != 1 || !l[0].Stays || l[0].Size != 2_000_000 {
			t.Fatalf("acked %v, left %v, archived %+v", acked, left, l)
		}
		if _, err := r.table.Settle(t.Context(), engine.LetterChange{Key: l[0].Key, State: engine.LetterDropped, Now: time.Now()}); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * checkEvery)
		if acked, _ := r.source.settled(); !slices.Equal(acked, []string{"ID:large"}) {
			t.Errorf("after it was dropped, acked %v", acked)
		}
		large.Epoch = 3
		r.source.batches <- engine.Batch{Epoch: 3, Deliveries: []engine.Delivery{large}} // the ack was lost
		synctest.Wait()
		if acked, _ := r.source.settled(); len(acked) != 2 {
			t.Errorf("when it came again, acked %v", acked)
		}
	})
}

func TestBadInputIsArchivedAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		batch := engine.Batch{Epoch: 1}
		for i, headers := range []map[string]string{
			nil, {}, {engine.HeaderID: strings.Repeat("x", 600)}, {engine.HeaderID: "\x00"},
			{engine.HeaderType: "a\nb", engine.HeaderPriority: "high", engine.HeaderHop: "-5", engine.HeaderAttempts: "many", engine.HeaderRedrives: "x"},
			{engine.HeaderDeadReason: "made up\n", engine.HeaderDeadDetail: strings.Repeat("é\n", 5000), engine.HeaderFirstFailedAt: "yesterday", engine.HeaderTimestamp: "soon"},
		} {
			batch.Deliveries = append(batch.Deliveries, engine.Delivery{Epoch: 1, Lane: i % 2, BrokerID: fmt.Sprint("ID:", i), Headers: headers})
		}
		r.source.batches <- batch
		synctest.Wait()
		if acked, _ := r.source.settled(); len(acked) != len(batch.Deliveries) || len(letters(t, r.table)) != len(batch.Deliveries) {
			t.Errorf("acked %v, archived %d, want %d", acked, len(letters(t, r.table)), len(batch.Deliveries))
		}
		for _, l := range letters(t, r.table) {
			if !strings.HasPrefix(l.ID, "ID:") || l.Why.Reason == "" || len(l.Why.Detail) > engine.MaxDetailBytes || strings.ContainsAny(l.Why.Detail+l.Why.Reason, "\n") {
				t.Errorf("%+v", l)
			}
		}
	})
}

func TestOneNoteAtOnceThenOneAWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, func(c *Config) { c.Window = time.Minute })
		sent := 0
		send := func(n int, detail string) {
			for range n {
				sent++
				r.source.batches <- engine.Batch{Epoch: 1, Deliveries: []engine.Delivery{dead(fmt.Sprint("order-", sent), detail+" 17")}}
			}
		}
		want := func(what string, counts ...int) {
			t.Helper()
			synctest.Wait()
			var got []int
			for _, n := range r.ops.told() {
				got = append(got, n.Count)
			}
			if !slices.Equal(got, counts) {
				t.Errorf("%s the notes count %v, want %v", what, got, counts)
			}
		}
		send(1, "boom")
		want("at once", 1)
		send(40, "boom")
		want("within the window", 1)
		send(1, "crash")
		want("another kind", 1, 1)
		<-time.After(70 * time.Second)
		want("after the window", 1, 1, 40)
		<-time.After(5 * time.Minute)
		want("while nothing fails", 1, 1, 40)
		send(2, "boom")
		want("later", 1, 1, 40, 1)
		r.stop()
		want("at the end", 1, 1, 40, 1, 1)
		for _, n := range r.ops.told() {
			if n.V != NoteVersion || n.Type != "order.placed" || n.Reason != engine.ReasonExhausted || n.Fingerprint == "" || len(n.IDs) == 0 || len(n.IDs) > maxIDs ||
				!strings.Contains(n.Text, n.Fingerprint) || strings.Contains(fmt.Sprintf("%+v", n), "secret") || n.Until.Before(n.From) {
				t.Errorf("note %+v", n)
			}
		}
	})
}

// One that hangs or refuses must hold up nothing, and must not be asked for ever.
func TestADeadOpsChannelSlowsNothing(t *testing.T) {
	for name, tell := range map[string]func(context.Context) error{
		"hangs":   func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"refuses": func(context.Context) error { return errors.New("500") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, nil)
				r.ops.tell = tell
				began := time.Now()
				for i := range 2 * maxNotes {
					r.source.batches <- engine.Batch{Epoch: 1, Deliveries: []engine.Delivery{dead(fmt.Sprint("order-", i), "kind "+strings.Repeat("x", i%100)+strings.Repeat("y", i/100))}}
				}
				synctest.Wait()
				if acked, _ := r.source.settled(); len(acked) != 2*maxNotes || time.Since(began) > 0 {
					t.Errorf("after %v %d letters were taken, want %d at once", time.Since(began), len(acked), 2*maxNotes)
				}
				<-time.After(24 * time.Hour)
				if lost := r.log.with(t, "ops notes were lost"); len(lost) == 0 {
					t.Error("nobody says that notes were lost")
				}
				stopping := time.Now()
				r.stop()
				if took := time.Since(stopping); took > lastNotes {
					t.Errorf("stopping took %v", took)
				}
			})
		})
	}
}

// says is an error with an opinion on trying again.
type says struct {
	after time.Duration
	ok    bool
}

func (s says) Error() string                { return "refused" }
func (s says) Again() (time.Duration, bool) { return s.after, s.ok }

func TestNotesAreTriedAgainAsTheReceiverSays(t *testing.T) {
	for name, tt := range map[string]struct {
		err   error
		asked int
		least time.Duration // from the first try to the last
		most  time.Duration
	}{
		"never":               {says{0, false}, 1, 0, 0},
		"when it says":        {says{time.Minute, true}, tries, 4 * time.Minute, 4 * time.Minute},
		"not after an hour":   {says{time.Hour, true}, tries, 4 * longestWait, 4 * longestWait},
		"with growing waits":  {says{0, true}, tries, 10 * time.Second, 3 * time.Minute},
		"when it says nought": {errors.New("connection refused"), tries, 10 * time.Second, 3 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, nil)
				var asked []time.Time
				r.ops.tell = func(context.Context) error {
					asked = append(asked, time.Now())
					return fmt.Errorf("webhook: %w", tt.err)
				}
				r.source.batches <- engine.Batch{Epoch: 1, Deliveries: []engine.Delivery{dead("a", "boom")}}
				<-time.After(time.Hour)
				synctest.Wait()
				if len(asked) != tt.asked {
					t.Fatalf("asked %d times, want %d", len(asked), tt.asked)
				}
				if took := asked[len(asked)-1].Sub(asked[0]); took < tt.least || took > tt.most {
					t.Errorf("asked for %v, want %v to %v", took, tt.least, tt.most)
				}
				if given := r.log.with(t, "an ops note was not taken"); len(given) != 1 {
					t.Errorf("logged %v", given)
				}
			})
		})
	}
}

func TestAMonitorNeedsItsParts(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("an empty config is accepted")
	}
	table := enginetest.NewMemory()
	if _, err := New(Config{Source: newSource(), Archive: table, Records: table, Window: -1}); err == nil {
		t.Error("a negative window is accepted")
	}
}
