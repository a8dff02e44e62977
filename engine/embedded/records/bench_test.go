package records_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"usher/engine"
	"usher/engine/embedded/records"
)

// open opens a table in a directory of the test.
func open(tb testing.TB) *records.Records {
	tb.Helper()
	return openAt(tb, filepath.Join(tb.TempDir(), "records.db"))
}

func openAt(tb testing.TB, path string) *records.Records {
	tb.Helper()
	r, err := records.Open(records.Config{Path: path})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := r.Close(); err != nil {
			tb.Error(err)
		}
	})
	return r
}

// done is the one write of an ordinary message.
func done(id string) engine.Change {
	now := time.Now()
	return engine.Change{
		ID: id, Type: "order.placed", Digest: engine.DigestOf([]byte(id)), Priority: 4,
		Token: "t-" + id, State: engine.Done, Attempts: 1, Now: now, ExpiresAt: now.Add(time.Hour),
	}
}

// BenchmarkWrite writes one new final record a message, as ordinary messages do.
func BenchmarkWrite(b *testing.B) {
	for _, callers := range []int{1, 32, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			r := open(b)
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range callers {
				wg.Go(func() {
					for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
						if _, err := r.Write(context.Background(), done(fmt.Sprintf("ID:bench-%x-%d", n*7919%65536, n))); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
		})
	}
}

// BenchmarkLookUp reads 100 ids of a table of 50,000.
func BenchmarkLookUp(b *testing.B) {
	r := open(b)
	ids := make([]string, 50_000)
	var wg sync.WaitGroup
	for i := range ids {
		ids[i] = fmt.Sprintf("ID:bench-%x-%d", i*7919%65536, i)
	}
	for part := range 100 {
		wg.Go(func() {
			for i := part; i < len(ids); i += 100 {
				if _, err := r.Write(context.Background(), done(ids[i])); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	n := 0
	for b.Loop() {
		n = (n + 100) % len(ids)
		found, err := r.LookUp(context.Background(), ids[n:n+100])
		if err != nil || len(found.Records) != 100 {
			b.Fatal(len(found.Records), err)
		}
	}
	b.ReportMetric(float64(b.N)*100/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkLookUpNew looks for one id that is not there, as for a message that
// comes alone.
func BenchmarkLookUpNew(b *testing.B) {
	r := open(b)
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		if found, err := r.LookUp(ctx, []string{"ID:bench-1"}); err != nil || len(found.Records) != 0 {
			b.Fatal(found, err)
		}
	}
}
