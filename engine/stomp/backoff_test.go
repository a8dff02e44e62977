package stomp

import (
	"testing"
	"time"
)

// After a broker that had been away for long, the wait was up to 15 s.
func TestTheWaitBetweenSessionsIsShortHoweverLongTheBrokerWasAway(t *testing.T) {
	b := newBackOff()
	if first := b.NextBackOff(); first > 400*time.Millisecond {
		t.Errorf("the first wait is %v", first)
	}
	for range 1000 {
		if wait := b.NextBackOff(); wait <= 0 || wait > 3*time.Second {
			t.Fatalf("a wait is %v, want at most 3 s", wait)
		}
	}
}
