package engine

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"usher/handlers"
)

// Whatever a producer writes into headers: a message has an id, a copy of it is the
// same message one hop later, a dead letter of it can be read, and nothing of it breaks
// a line.
func FuzzHeaders(f *testing.F) {
	for _, seed := range []string{
		"type: order.placed\nusher_id: order-7\npriority: 9",
		"ce-type: t\nce-id: 1\nusher_delay: 90s\nusher_expiresAt: 1",
		"type: t\nusher_notBefore: 2026-01-31T08:00:00Z\nusher_hop: 3\nusher_attempts: 2\nusher_redeliveries: 1\nusher_firstFailedAt: 2026-01-31T08:00:00Z",
		"type: t\nusher_hop: -1\npriority: 99\nusher_delay: 9223372036854775807\ntimestamp: 99999999999999999999",
		"usher_id: \u202e\ntype: \x00\r\nusher_tooLarge: x",
	} {
		f.Add(seed, []byte("{}"))
	}
	f.Fuzz(func(t *testing.T, text string, body []byte) {
		h := map[string]string{}
		for line := range strings.SplitSeq(text, "\n") {
			if name, value, ok := strings.Cut(line, ": "); ok {
				h[name] = value
			}
		}
		now := time.UnixMilli(1_900_000_000_000)
		m := understand(Delivery{BrokerID: "ID:b-1", Headers: h, Body: body}, 1<<10, now)
		if !ValidID(m.id) || m.priority < 0 || m.priority >= Levels || m.attempts < 0 || m.rounds < 0 {
			t.Fatalf("understood as %+v", m)
		}
		if m.fault != nil && (m.fault.reason == "" || m.fault.detail != handlers.OneLine(m.fault.detail, MaxDetailBytes) || !utf8.ValidString(m.fault.detail)) {
			t.Fatalf("the fault is %+v", m.fault)
		}
		if m.hop == noHop || m.hop == maxCount {
			return // no copy of it is made, or no later one
		}
		out := m.waitingCopy(WorkQueue)
		again := understand(Delivery{BrokerID: "ID:b-2", Headers: out.Headers, Body: out.Body}, 1<<10, now)
		if again.id != m.id || again.typ != m.typ || again.digest != m.digest || again.priority != m.priority || again.hop != m.hop+1 ||
			again.attempts != m.attempts || again.rounds != m.rounds || !again.notBefore.Equal(m.notBefore) || !again.expires.Equal(m.expires) {
			t.Fatalf("a copy of %+v is %+v", m, again)
		}
		dead := m.deadCopy(fault{ReasonExhausted, "it failed"}, WorkQueue, now)
		l, _ := DeadLetterOf(Delivery{BrokerID: "ID:b-3", Headers: dead.Headers, Body: dead.Body}, DeadQueue, now)
		if l.ID != m.id || l.Type != handlers.OneLine(m.typ, MaxIDBytes) && l.Type != m.typ || l.Why.Reason != ReasonExhausted || l.Key == "" {
			t.Fatalf("a dead letter of %+v is %+v", m, l)
		}
	})
}
