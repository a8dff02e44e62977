package dynamo_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"usher/engine"
	"usher/engine/dynamo"
	"usher/engine/enginetest"
	"usher/engine/enginetest/dynafault"
	"usher/engine/enginetest/dynalite"
)

// behind opens new tables behind a proxy with faults.
func (s *tables) behind(t *testing.T, f dynafault.Faults) (*dynamo.Records, *dynafault.Proxy) {
	t.Helper()
	proxy := dynafault.Start(t, s.server.Endpoint(), 1)
	proxy.Set(f)
	return s.at(t, proxy.Endpoint()), proxy
}

// TestRecordsWhenAnswersAreLost: what was repeated after it had landed is not done twice.
func TestRecordsWhenAnswersAreLost(t *testing.T) {
	t.Parallel()
	s := &tables{server: dynalite.Start(t)}
	enginetest.RunRecords(t, func(t *testing.T) enginetest.RecordsUnderTest {
		r, _ := s.behind(t, dynafault.Faults{LoseEach: 4, Unprocessed: 0.5})
		return r
	})
}

func TestArchiveWhenAnswersAreLost(t *testing.T) {
	t.Parallel()
	s := &tables{server: dynalite.Start(t)}
	enginetest.RunArchive(t, func(t *testing.T) enginetest.ArchiveUnderTest {
		r, _ := s.behind(t, dynafault.Faults{LoseEach: 4})
		return r
	})
}

func TestRecordsWhenLookUpsAndIndexesLag(t *testing.T) {
	t.Parallel()
	s := &tables{server: dynalite.Start(t)}
	enginetest.RunRecords(t, func(t *testing.T) enginetest.RecordsUnderTest {
		r, _ := s.behind(t, dynafault.Faults{Lag: 200 * time.Millisecond})
		return r
	})
}

func TestAnOrdinaryMessageIsOneReadAndOneWrite(t *testing.T) {
	s := &tables{server: dynalite.Start(t)}
	r, proxy := s.behind(t, dynafault.Faults{})
	defer r.Close()
	const batches, batch = 5, 100
	now := time.Now()
	for b := range batches {
		ids := make([]string, batch)
		for i := range ids {
			ids[i] = fmt.Sprintf("order-%d-%d", b, i)
		}
		found, err := r.LookUp(t.Context(), ids)
		if err != nil || len(found.Records) != 0 {
			t.Fatalf("looked up %d records, %v", len(found.Records), err)
		}
		for _, id := range ids {
			if _, err := r.Write(t.Context(), done(id, now)); err != nil {
				t.Fatal(err)
			}
		}
	}
	requests, items := proxy.Requests(), proxy.Items(func(string) bool { return true })
	if requests["BatchGetItem"] != batches || requests["UpdateItem"] != batches*batch || len(requests) != 2 {
		t.Errorf("%d messages took the requests %v; want one BatchGetItem a hundred and one UpdateItem each", batches*batch, requests)
	}
	if items["BatchGetItem"] != batches*batch || items["UpdateItem"] != batches*batch {
		t.Errorf("%d messages took the items %v; want one of each", batches*batch, items)
	}
}

// done ends an ordinary message.
func done(id string, now time.Time) engine.Change {
	return engine.Change{
		ID: id, Type: "order.placed", Digest: "abc", Priority: 4, Token: "w-" + id, State: engine.Done, Attempts: 1,
		Now: now, ExpiresAt: now.Add(time.Hour),
	}
}

// TestWhatIsThrottledIsRepeatedWithinABudget: in the long run a store that throttles
// everything gets hardly more requests than without repetitions.
func TestWhatIsThrottledIsRepeatedWithinABudget(t *testing.T) {
	s := &tables{server: dynalite.Start(t)}
	r, proxy := s.behind(t, dynafault.Faults{Throttle: 1})
	defer r.Close()
	calls := 0
	for failed := 0; failed < 300; calls++ {
		if _, err := r.Record(t.Context(), "m"); err != nil {
			failed++
		}
	}
	if n := proxy.Requests()["GetItem"]; n < calls || n > calls+101 {
		t.Errorf("%d calls took %d requests; want at most a hundred more", calls, n)
	}
	proxy.Set(dynafault.Faults{})
	if _, err := r.Record(t.Context(), "m"); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("once it throttles no more: %v", err)
	}
}

// TestAStoreThatIsGoneIsAskedSeldom: however many ask, and at once when it is
// back. Found by a benchmark: 35 requests a second came from what each slot had in hand.
func TestAStoreThatIsGoneIsAskedSeldom(t *testing.T) {
	s := &tables{server: dynalite.Start(t)}
	r, proxy := s.behind(t, dynafault.Faults{})
	defer r.Close()
	const lasts = 3 * time.Second
	proxy.Set(dynafault.Faults{Gone: true})
	proxy.Reset()
	var asking sync.WaitGroup
	began := time.Now()
	var last atomic.Pointer[error]
	for range 32 {
		asking.Go(func() {
			for time.Since(began) < lasts {
				_, err := r.Record(t.Context(), "m")
				last.Store(&err)
				<-time.After(time.Millisecond) // others test as well
			}
		})
	}
	asking.Wait()
	// 20 in a row until it is gone; by then each of the 32 may have sent another one.
	if n, most := proxy.Requests()["GetItem"], 20+32+2; n > most {
		t.Errorf("in %v %d requests were sent, want %d at most", lasts, n, most)
	}
	wantWords(t, *last.Load(), "does not answer", "the last one", "EOF")
	proxy.Set(dynafault.Faults{})
	for back := time.Now(); ; {
		_, err := r.Record(t.Context(), "m")
		if errors.Is(err, engine.ErrNotFound) {
			break
		}
		if time.Since(back) > 5*time.Second {
			t.Fatalf("five seconds after it was back: %v", err)
		}
	}
	if _, err := r.Record(t.Context(), "m"); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("once it has answered again: %v", err)
	}
}

// TestAClockThatIsOffClaimsNothing: five minutes ahead or behind, nothing reaches the
// tables, neither at the start nor later, and everything does when it is right.
func TestAClockThatIsOffClaimsNothing(t *testing.T) {
	s := &tables{server: dynalite.Start(t)}
	for words, ahead := range map[string]time.Duration{"behind": 5 * time.Minute, "ahead": -5 * time.Minute} {
		t.Run(words, func(t *testing.T) {
			r, proxy := s.behind(t, dynafault.Faults{Clock: ahead})
			defer r.Close()
			claim := func() error {
				_, err := r.Claim(t.Context(), engine.Claim{ID: words, Mark: engine.ClaimMark{Token: "t", Until: time.Now().Add(time.Minute)}, Now: time.Now()})
				return err
			}
			proxy.Reset()
			for range 3 {
				wantWords(t, claim(), "clock", words, "chrony")
			}
			if n := proxy.Requests(); len(n) != 0 {
				t.Errorf("%v reached the tables", n)
			}
			proxy.Set(dynafault.Faults{})
			for back := time.Now(); ; <-time.After(10 * time.Millisecond) {
				err := claim()
				if err == nil {
					break
				}
				if time.Since(back) > 5*time.Second {
					t.Fatalf("five seconds after it was right: %v", err)
				}
			}
		})
	}
}

func TestErrorsNameTheThingAndTheRemedy(t *testing.T) {
	s := &tables{server: dynalite.Start(t)}
	nobody := dynamo.Open(dynamo.Config{AWS: credentialsOfNobody(), Endpoint: s.server.Endpoint(), Names: dynamo.DefaultNames("nobody")})
	defer nobody.Close()
	_, err := nobody.Record(t.Context(), "m")
	wantWords(t, err, "m", "check its name", "region", "deploy/template.yaml")
	wantWords(t, nobody.Check(t.Context()), "nobody-records", "nobody-bodies", "nobody-letters", "deploy/template.yaml")
	there := s.open(t)
	defer there.Close()
	if err := there.Check(t.Context()); err != nil {
		t.Errorf("tables that are there: %v", err)
	}
}

// What an account says no with: each has its remedy, and is not repeated.
func TestWhatAnAccountRefusesHasItsRemedy(t *testing.T) {
	for kind, words := range map[string][]string{
		"AccessDeniedException":       {"the role may not do this", "deploy/template.yaml"},
		"ExpiredTokenException":       {"not valid (any more)", "renew"},
		"UnrecognizedClientException": {"not valid (any more)", "clock"},
		"InvalidSignatureException":   {"not valid (any more)", "clock"},
	} {
		t.Run(kind, func(t *testing.T) {
			asked := 0
			account := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					return // what time it is
				}
				asked++
				w.Header().Set("Content-Type", "application/x-amz-json-1.0")
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprintf(w, `{"__type":"com.amazon.coral.service#%s","message":"no"}`, kind)
			}))
			defer account.Close()
			r := dynamo.Open(dynamo.Config{AWS: credentialsOfNobody(), Endpoint: account.URL, Names: dynamo.DefaultNames("usher")})
			defer r.Close()
			_, err := r.Record(t.Context(), "m")
			wantWords(t, err, append(words, `"m"`, kind)...)
			if asked != 1 {
				t.Errorf("it was asked %d times", asked)
			}
		})
	}
}

func wantWords(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, word := range words {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not say %q: %v", word, err)
		}
	}
}
