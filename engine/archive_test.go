package engine

import (
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestDetailsThatDifferInNumbersAndIDsAreOneKind(t *testing.T) {
	for normal, details := range map[string][]string{
		"dial tcp #: connection refused": {"dial tcp 10.0.0.7:8000: connection refused", "dial tcp 127.0.0.1:61613:  connection refused"},
		"order # is late by #":           {"order order-7 is late by 5s", "order 550e8400-e29b-41d4-a716-446655440000 is late by 1h2m3.5s", "order deadbeef is late by 3"},
		"at # (#)":                       {"at 2026-01-31T08:00:00Z (0x7f3a)", "at 12:30 (17)"},
		"card declined":                  {"card declined", "card  declined"},
		"no plugin serves \"zebra\"":     {"no plugin serves \"zebra\""},
		"/orders/#/items/#":              {"/orders/7/items/12", "/orders/a8b/items/1"},
		"":                               {"", " "},
	} {
		for _, detail := range details {
			if got := Normalize(detail); got != normal {
				t.Errorf("%q is %q, want %q", detail, got, normal)
			}
		}
	}
	if FingerprintOf("a", "b", "c") == FingerprintOf("a", "bc", "") || len(FingerprintOf("", "", "")) != 12 {
		t.Error("type, reason and detail run together")
	}
}

// Any numbers in the place of others leave the kind of failure as it is, and any
// other word makes it another.
func TestFingerprintsOfAnyDetails(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(rapid.StringMatching(`[g-z]{1,6}`), 1, 8).Draw(t, "words")
		fill := func(name string) string {
			var b strings.Builder
			for i, word := range words {
				b.WriteString(word + " " + rapid.StringMatching(`[0-9a-z]{0,5}[0-9]([.:-][0-9]{1,4}){0,3}`).Draw(t, name+strconv.Itoa(i)) + " ")
			}
			return b.String()
		}
		one, other := fill("one"), fill("other")
		if Normalize(one) != Normalize(other) {
			t.Fatalf("%q and %q are %q and %q", one, other, Normalize(one), Normalize(other))
		}
		if changed := strings.Replace(one, words[0], words[0]+"x", 1); Normalize(changed) == Normalize(one) {
			t.Fatalf("%q is the same as %q", changed, one)
		}
	})
}

func TestAnyDetailHasAFingerprint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		detail := rapid.String().Draw(t, "detail")
		if n := Normalize(detail); len(n) > maxNormal || strings.ContainsAny(n, "0123456789\n") {
			t.Fatalf("%q becomes %q", detail, n)
		}
	})
}

func TestADeadLetterIsReadFromItsHeaders(t *testing.T) {
	sent := noon.Add(-time.Hour)
	ours := map[string]string{
		HeaderID: "order-7", HeaderType: "order.placed", HeaderPriority: "8", HeaderHop: "2", HeaderAttempts: "3", HeaderRedeliveries: "1",
		HeaderDeadReason: ReasonExhausted, HeaderDeadDetail: "boom 5", HeaderFirstFailedAt: "2026-05-04T10:00:00Z", HeaderOrigin: WorkQueue,
		HeaderHandler: "orders 1.2", HeaderRedrives: "2", HeaderTimestamp: millisText(sent), "customer": "42",
	}
	l, c := DeadLetterOf(Delivery{BrokerID: "ID:1", Headers: ours, Body: []byte("abc")}, DeadQueue, noon)
	want := DeadLetter{
		Key: l.Key, ID: "order-7", Type: "order.placed", Level: 8, Hop: 2, Queue: DeadQueue, Origin: WorkQueue, DeadAt: sent, Size: 3, Redrives: 2,
		Why: Failure{
			Reason: ReasonExhausted, Detail: "boom 5", Fingerprint: FingerprintOf("order.placed", ReasonExhausted, "boom 99"), Attempts: 3, Redeliveries: 1,
			Handler: "orders 1.2", FirstFailedAt: noon.Add(-2 * time.Hour),
		},
		State: LetterKept, ChangedAt: noon,
	}
	if l != want || !maps.Equal(c.Headers, ours) || string(c.Body) != "abc" {
		t.Errorf("the letter is\n%+v, want\n%+v", l, want)
	}
}

// The same dead letter has one key however often it comes; another one of the same
// id has another, for the engine dead-letters what conflicts under the id it has.
func TestTheKeyOfADeadLetter(t *testing.T) {
	key := func(brokerID, body string, headers ...string) string {
		h := map[string]string{HeaderID: "order-7", HeaderType: "a", HeaderHop: "1"}
		for i := 0; i < len(headers); i += 2 {
			h[headers[i]] = headers[i+1]
		}
		l, _ := DeadLetterOf(Delivery{BrokerID: brokerID, Headers: h, Body: []byte(body)}, DeadQueue, noon)
		return l.Key
	}
	first := key("ID:1", "one")
	if again := key("ID:2", "one", HeaderDeadReason, ReasonExhausted, HeaderRedelivered, "true"); again != first {
		t.Error("a second copy has another key")
	}
	for what, other := range map[string]string{
		"another body": key("ID:1", "two"), "another hop": key("ID:1", "one", HeaderHop, "2"),
		"another type": key("ID:1", "one", HeaderType, "b"), "another id": key("ID:1", "one", HeaderID, "order-8"),
	} {
		if other == first {
			t.Errorf("%s has the same key", what)
		}
	}
}

func TestWhyTheBrokerDeadLettered(t *testing.T) {
	for name, tt := range map[string]struct {
		headers        map[string]string
		reason, detail string
	}{
		"expired":                     {map[string]string{headerCause: "java.lang.Throwable: Message Expired. Expiration:5", headerOldExpires: "5"}, ReasonExpired, "1970-01-01T00:00:00Z"},
		"expired, and nobody says so": {map[string]string{headerOldExpires: "5"}, ReasonExpired, "past its time"},
		"refused":                     {map[string]string{headerOldExpires: "0"}, ReasonRefused, "NACK"},
		"refused before its time":     {map[string]string{headerOldExpires: millisText(noon.Add(time.Hour))}, ReasonRefused, "NACK"},
		"another cause":               {map[string]string{headerCause: "java.lang.Throwable: Exceeded redelivery\npolicy"}, ReasonRefused, "Exceeded redelivery policy"},
		"junk":                        {map[string]string{headerOldExpires: "soon", HeaderPriority: "high", HeaderHop: "x", HeaderID: "\x00"}, ReasonRefused, "NACK"},
		"nothing at all":              {nil, ReasonRefused, "NACK"},
	} {
		l, _ := DeadLetterOf(Delivery{BrokerID: "ID:1", Headers: tt.headers}, "DLQ.usher.work.p4", noon)
		if l.Why.Reason != tt.reason || !strings.Contains(l.Why.Detail, tt.detail) || l.ID != "ID:1" || !l.DeadAt.Equal(noon) {
			t.Errorf("%s: %+v", name, l)
		}
	}
}

func TestALetterThatIsTooLargeStays(t *testing.T) {
	l, c := DeadLetterOf(Delivery{BrokerID: "ID:1", Headers: map[string]string{HeaderID: "a", HeaderTooLarge: "2000000"}}, DeadQueue, noon)
	if !l.Stays || l.Size != 2_000_000 || c.Headers != nil || c.Body != nil {
		t.Errorf("the letter is %+v with %+v", l, c)
	}
}
