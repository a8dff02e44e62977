package engine

import (
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Engines come and go and say that they are there in any order: nobody gone
// keeps a bucket, nobody has more than his share, and once all have spoken twice
// every bucket is held.
func TestBucketsAreSharedFairlyByThoseWhoAreThere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l Leases
		now := noon
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 4).Draw(t, "seconds")) * time.Second)
			owner := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "owner")
			l = l.Share(owner, now, now.Add(LeaseFor))
			fair := (Buckets + len(l.Owners) - 1) / len(l.Owners)
			for o := range l.Owners {
				if n := len(l.Of(o)); n > fair {
					t.Fatalf("%s holds %d of %d buckets among %d: %+v", o, n, Buckets, len(l.Owners), l)
				}
			}
			for bucket, holder := range l.Held {
				if !l.Owners[holder].After(now) {
					t.Fatalf("bucket %s is held by %q, who is gone: %+v", bucket, holder, l)
				}
			}
		}
		for range 2 {
			for o := range l.Owners {
				l = l.Share(o, now, now.Add(LeaseFor))
			}
		}
		for i := range Buckets {
			if l.Held[strconv.Itoa(i)] == "" {
				t.Fatalf("nobody holds bucket %d: %+v", i, l)
			}
		}
	})
}
