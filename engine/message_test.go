package engine

import (
	"maps"
	"strings"
	"testing"
	"time"

	"usher/handlers"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func delivered(headers map[string]string) Delivery {
	h := map[string]string{HeaderType: "order.placed", HeaderTimestamp: millisText(noon)}
	maps.Copy(h, headers)
	return Delivery{BrokerID: "ID:1", Headers: h, Body: []byte(`{}`)}
}

func TestUnderstand(t *testing.T) {
	tests := []struct {
		name    string
		headers map[string]string
		check   func(m message) bool
	}{
		{"defaults", nil, func(m message) bool {
			return m.id == "ID:1" && m.priority == 4 && m.hop == 0 && m.queuedAt.Equal(noon) && m.notBefore.IsZero() && m.expires.IsZero()
		}},
		{"its own id", map[string]string{HeaderID: "order 7"}, func(m message) bool { return m.id == "order 7" }},
		{"CloudEvents names", map[string]string{HeaderType: "", HeaderCEType: "ce", HeaderCEID: "ce-1"}, func(m message) bool { return m.typ == "ce" && m.id == "ce-1" }},
		{"ours before CloudEvents", map[string]string{HeaderCEType: "ce"}, func(m message) bool { return m.typ == "order.placed" }},
		{"not before", map[string]string{HeaderNotBefore: "2026-05-04T13:00:00+01:00"}, func(m message) bool { return m.notBefore.Equal(noon) }},
		{"delay from the broker's timestamp", map[string]string{HeaderDelay: "90s"}, func(m message) bool { return m.notBefore.Equal(noon.Add(90 * time.Second)) }},
		{"delay in milliseconds", map[string]string{HeaderDelay: "1500"}, func(m message) bool { return m.notBefore.Equal(noon.Add(1500 * time.Millisecond)) }},
		{"expires", map[string]string{HeaderExpires: millisText(noon)}, func(m message) bool { return m.expires.Equal(noon) }},
		{"expires 0 is never", map[string]string{HeaderExpires: "0"}, func(m message) bool { return m.expires.IsZero() }},
		{"our expiry wins", map[string]string{HeaderExpiresAt: millisText(noon), HeaderExpires: "99999999999999"}, func(m message) bool { return m.expires.Equal(noon) }},
		{"a copy", map[string]string{HeaderHop: "3", HeaderAttempts: "2", HeaderQueuedAt: millisText(noon.Add(time.Hour))}, func(m message) bool {
			return m.hop == 3 && m.attempts == 2 && m.queuedAt.Equal(noon.Add(time.Hour))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := understand(delivered(tt.headers), 100, noon)
			if m.fault != nil {
				t.Fatalf("fault %+v", *m.fault)
			}
			if !tt.check(m) {
				t.Errorf("understood as %+v", m)
			}
		})
	}
}

func TestUnderstandFindsFaults(t *testing.T) {
	tests := []struct {
		name    string
		headers map[string]string
		reason  string
		says    string
	}{
		{"no type", map[string]string{HeaderType: ""}, ReasonNoType, `"type"`},
		{"a newline in the id", map[string]string{HeaderID: "a\nb"}, ReasonBadID, "printable"},
		{"a long id", map[string]string{HeaderID: strings.Repeat("x", 513)}, ReasonBadID, "513"},
		{"not before", map[string]string{HeaderNotBefore: "tomorrow"}, ReasonBadHeader, "RFC 3339"},
		{"delay", map[string]string{HeaderDelay: "soon"}, ReasonBadHeader, "90s"},
		{"negative delay", map[string]string{HeaderDelay: "-5s"}, ReasonBadHeader, "-5s"},
		{"huge delay", map[string]string{HeaderDelay: "9223372036854775807"}, ReasonBadHeader, "9223372036854775807"},
		{"hop", map[string]string{HeaderHop: "-1"}, ReasonBadHeader, HeaderHop},
		{"expires", map[string]string{HeaderExpires: "junk"}, ReasonBadHeader, HeaderExpires},
		{"too large for the adapter", map[string]string{HeaderTooLarge: "7000000"}, ReasonTooLarge, "7000000"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := understand(delivered(tt.headers), 100, noon)
			if m.fault == nil || m.fault.reason != tt.reason || !strings.Contains(m.fault.detail, tt.says) {
				t.Fatalf("fault %+v, want reason %s and %q in its words", m.fault, tt.reason, tt.says)
			}
			if m.id == "" || strings.ContainsAny(m.fault.detail, "\r\n") {
				t.Errorf("id %q, detail %q", m.id, m.fault.detail)
			}
		})
	}
	t.Run("too large", func(t *testing.T) {
		m := understand(delivered(nil), 1, noon)
		if m.fault == nil || m.fault.reason != ReasonTooLarge {
			t.Errorf("fault %+v, want %s", m.fault, ReasonTooLarge)
		}
	})
}

func TestCopiesKeepTheProducersHeadersAndNothingOfTheBrokers(t *testing.T) {
	m := understand(delivered(map[string]string{
		HeaderID: "order-7", "traceparent": "00-abc", "customer": "42", HeaderPriority: "8", HeaderDelay: "1h",
		HeaderMessageID: "ID:1", HeaderScheduledJob: "job", HeaderExpires: millisText(noon.Add(time.Hour)),
		"destination": "/queue/usher.work.p8", "ack": "1", HeaderHop: "2",
	}), 100, noon)
	m.attempts = 2
	out := m.waitingCopy(WorkQueue)
	want := map[string]string{
		HeaderType: "order.placed", HeaderID: "order-7", "traceparent": "00-abc", "customer": "42", HeaderPriority: "8",
		HeaderHop: "3", HeaderAttempts: "2", HeaderRedeliveries: "0",
		HeaderNotBefore: "2026-05-04T13:00:00Z", HeaderExpiresAt: millisText(noon.Add(time.Hour)),
	}
	if !maps.Equal(out.Headers, want) {
		t.Errorf("headers\n got %v\nwant %v", out.Headers, want)
	}

	dead := m.deadCopy(fault{ReasonExhausted, "line one\nline two"}, WorkQueue, noon)
	if dead.Queue != DeadQueue || dead.Headers[HeaderDeadReason] != ReasonExhausted || dead.Headers[HeaderDeadDetail] != "line one line two" ||
		dead.Headers[HeaderFirstFailedAt] != "2026-05-04T12:00:00Z" || dead.Headers[HeaderExpires] != "" {
		t.Errorf("dead letter %+v", dead)
	}

	letter, content := DeadLetterOf(Delivery{BrokerID: "ID:9", Headers: dead.Headers, Body: dead.Body}, DeadQueue, noon)
	again := Redriven(letter, content, WorkQueue, noon)
	for _, name := range []string{HeaderDeadReason, HeaderDeadDetail, HeaderFirstFailedAt, HeaderExpiresAt, HeaderOrigin} {
		if _, there := again.Headers[name]; there {
			t.Errorf("the redriven message still has %s", name)
		}
	}
	if again.Headers[HeaderRedrives] != "1" || again.Headers[HeaderHop] != "4" || again.Headers[HeaderAttempts] != "0" || again.Headers[HeaderID] != "order-7" {
		t.Errorf("redriven %v", again.Headers)
	}
}

func TestFollowOnIDsAreTheSameInEachRun(t *testing.T) {
	m := understand(delivered(map[string]string{HeaderID: "order-7", "traceparent": "00-abc"}), 100, noon)
	emitted := []handlers.FollowOn{
		{Type: "email", Body: []byte("a")}, {Type: "email", Body: []byte("a")}, {Type: "email", Body: []byte("b")},
		{Type: "email", Body: []byte("c"), Key: "k"}, {Type: "email", Body: []byte("d"), Key: "k"}, {Type: "sms", Body: []byte("a")},
	}
	first, f := m.followOns(emitted, WorkQueue, noon)
	second, _ := m.followOns(emitted, WorkQueue, noon.Add(time.Hour))
	if f != nil || len(first) != len(emitted) {
		t.Fatalf("%d follow-ons, fault %v", len(first), f)
	}
	seen := map[string]bool{}
	for i := range first {
		id := first[i].Headers[HeaderID]
		if id != second[i].Headers[HeaderID] {
			t.Errorf("follow-on %d has id %s, and %s in the next run", i, id, second[i].Headers[HeaderID])
		}
		if seen[id] {
			t.Errorf("follow-on %d has the id of another: %s", i, id)
		}
		seen[id] = true
		if first[i].Headers[HeaderParent] != "order-7" || first[i].Headers["traceparent"] != "00-abc" {
			t.Errorf("follow-on %d: headers %v", i, first[i].Headers)
		}
	}
}

func TestFollowOnsMayNotForgeHeaders(t *testing.T) {
	m := understand(delivered(nil), 100, noon)
	for _, name := range []string{"usher_hop", "USHER_ID", "JMSReplyTo", "AMQ_SCHEDULED_DELAY", "persistent", "a-b", "a b", "a\nb", "1a", "", "type"} {
		_, f := m.followOns([]handlers.FollowOn{{Type: "x", Headers: map[string]string{name: "v"}}}, WorkQueue, noon)
		if f == nil || f.reason != ReasonBadFollowOn {
			t.Errorf("the header %q was taken", name)
		}
	}
	_, f := m.followOns([]handlers.FollowOn{{Type: "x", Headers: map[string]string{"customer_id": "v", "traceparent": "t"}}}, WorkQueue, noon)
	if f != nil {
		t.Errorf("good headers were refused: %v", *f)
	}
}
