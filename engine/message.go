package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"usher/handlers"
)

// message is a delivery understood: what the headers of the contract say.
type message struct {
	id       string
	typ      string
	digest   string
	priority int
	hop      int
	attempts int // of this round that ended before this copy was made
	rounds   int // redeliveries before this round
	body     []byte
	headers  map[string]string // as they came
	// queuedAt is when it began to wait for us: when its copy was due, or the
	// broker's timestamp.
	queuedAt    time.Time
	notBefore   time.Time // the producer's wish; zero: none
	expires     time.Time // zero: never
	firstFailed time.Time // over all copies; zero: it has not
	handler     string    // the plugin that had it last, and its version; for the dead letter
	fault       *fault    // why it can never run
}

// fault is why a message is dead-lettered: a reason code and one line of words.
type fault struct{ reason, detail string }

// DigestOf is how a body is compared with another of the same id.
func DigestOf(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:16])
}

// understand reads the headers of a delivery. It always gives a message with an
// id, so that even a broken one can be looked up and dead-lettered once; the
// first fault found is kept.
func understand(d Delivery, maxBody int, now time.Time) message {
	h := d.Headers
	m := message{
		id: d.BrokerID, typ: either(h, HeaderType, HeaderCEType), digest: DigestOf(d.Body),
		priority: DefaultLevel, body: d.Body, headers: h, queuedAt: now,
	}
	blame := func(reason, format string, args ...any) {
		if m.fault == nil {
			m.fault = &fault{reason, handlers.OneLine(fmt.Sprintf(format, args...), MaxDetailBytes)}
		}
	}
	if id := either(h, HeaderID, HeaderCEID); id != "" {
		if ValidID(id) {
			m.id = id
		} else {
			blame(ReasonBadID, "%s is %d bytes, %q…; it must be 1 to %d printable ASCII bytes", HeaderID, len(id), id[:min(len(id), 40)], MaxIDBytes)
		}
	}
	if m.typ == "" {
		blame(ReasonNoType, "set the header %q (JMSType) to the type that selects the handler", HeaderType)
	}
	if size, over := tooLarge(d, maxBody); over {
		blame(ReasonTooLarge, "the body is %s bytes; at most %d are taken", size, maxBody)
	}
	timestamp := readMillis(h, HeaderTimestamp, blame)
	if !timestamp.IsZero() {
		m.queuedAt = timestamp
	}
	if t := readMillis(h, HeaderQueuedAt, blame); !t.IsZero() {
		m.queuedAt = t
	}
	m.priority = readCount(h, HeaderPriority, DefaultLevel, blame)
	m.priority = min(max(m.priority, 0), Levels-1)
	m.attempts = readCount(h, HeaderAttempts, 0, blame)
	m.rounds = readCount(h, HeaderRedeliveries, 0, blame)
	if m.hop = readCount(h, HeaderHop, 0, blame); h[HeaderHop] != "" && m.hop == 0 && h[HeaderHop] != "0" {
		m.hop = noHop
	}
	if t, err := time.Parse(time.RFC3339, h[HeaderFirstFailedAt]); err == nil {
		m.firstFailed = t
	}
	if m.expires = readMillis(h, HeaderExpiresAt, blame); m.expires.IsZero() {
		m.expires = readMillis(h, HeaderExpires, blame)
	}
	m.notBefore = readNotBefore(h, orTime(timestamp, now), blame)
	return m
}

type blameFunc func(reason, format string, args ...any)

// HeaderTooLarge is set by a Broker adapter on a delivery whose body it did not
// keep because it was over the adapter's limit; the value is the body's length.
const HeaderTooLarge = "usher_tooLarge"

func tooLarge(d Delivery, maxBody int) (string, bool) {
	if size, ok := d.Headers[HeaderTooLarge]; ok {
		return size, true
	}
	return strconv.Itoa(len(d.Body)), len(d.Body) > maxBody
}

// readNotBefore reads the producer's wish to wait: a time, or a delay counted
// from when the broker got the message.
func readNotBefore(h map[string]string, from time.Time, blame blameFunc) time.Time {
	if text, ok := h[HeaderNotBefore]; ok {
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			blame(ReasonBadHeader, "%s is %q; it must be a time as in 2026-01-31T08:00:00Z (RFC 3339)", HeaderNotBefore, text)
		}
		if t.Sub(from) > MaxDelay {
			blame(ReasonBadHeader, "%s is %q; it must be within ten years", HeaderNotBefore, text)
		}
		return toMillis(t)
	}
	text, ok := h[HeaderDelay]
	if !ok {
		return time.Time{}
	}
	d, err := ParseDelay(text)
	if err != nil {
		blame(ReasonBadHeader, "%s is %q; it must be a delay as in 90s, 15m, or milliseconds", HeaderDelay, text)
	}
	return toMillis(from.Add(d))
}

// MaxDelay is the longest delay that is taken from a header or an operator.
const MaxDelay = 10 * 365 * 24 * time.Hour

// ParseDelay reads a delay as producers write it: Go's durations ("90s",
// "1h30m") or a whole number of milliseconds; 0 to [MaxDelay].
func ParseDelay(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if ms, numberErr := strconv.ParseInt(text, 10, 64); numberErr == nil {
		if ms > int64(MaxDelay/time.Millisecond) {
			return 0, fmt.Errorf("the delay %q is over ten years", text)
		}
		d, err = time.Duration(ms)*time.Millisecond, nil
	}
	switch {
	case err != nil:
		return 0, fmt.Errorf("the delay %q is neither a duration as in 90s nor milliseconds", text)
	case d < 0 || d > MaxDelay:
		return 0, fmt.Errorf("the delay %q is outside 0 to ten years", text)
	}
	return d, nil
}

const (
	// maxCount is far more hops or attempts than any message has.
	maxCount = 1_000_000
	// noHop is the hop of a message whose header for it cannot be read. It is not
	// known which copy it is, so its record is left alone.
	noHop = -1
)

func readCount(h map[string]string, name string, absent int, blame blameFunc) int {
	text, ok := h[name]
	if !ok {
		return absent
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > maxCount {
		blame(ReasonBadHeader, "%s is %q; it must be a whole number", name, text)
		return absent
	}
	return n
}

// lastMillis is the end of the last year that can be written as RFC 3339 has it.
const lastMillis = 253_402_300_799_999

// readMillis reads a time in epoch milliseconds; 0 and absent are "not set".
func readMillis(h map[string]string, name string, blame blameFunc) time.Time {
	text, ok := h[name]
	if !ok || text == "0" || text == "" {
		return time.Time{}
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil || ms < 0 || ms > lastMillis {
		blame(ReasonBadHeader, "%s is %q; it must be a time in milliseconds since 1970, at most of the year 9999", name, text)
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func either(h map[string]string, name, other string) string {
	if v := h[name]; v != "" {
		return v
	}
	return h[other]
}

// ValidID says whether id can be that of a message: 1 to [MaxIDBytes] printable
// ASCII bytes.
func ValidID(id string) bool {
	if id == "" || len(id) > MaxIDBytes {
		return false
	}
	return strings.IndexFunc(id, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

func orTime(t, other time.Time) time.Time {
	if t.IsZero() {
		return other
	}
	return t
}

// toMillis cuts t to what a record keeps.
func toMillis(t time.Time) time.Time { return time.UnixMilli(t.UnixMilli()).UTC() }

func millisText(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }

// notCopied are the headers of one delivery that a copy must not carry: they
// belong to the broker, or to the way that the first copy came. (A message that
// still has its scheduledJobId is sent at once, and expires is moved by the
// broker with each delay: tried on ActiveMQ 5.17.2.)
var notCopied = map[string]bool{
	HeaderMessageID: true, HeaderTimestamp: true, HeaderRedelivered: true, HeaderExpires: true,
	HeaderScheduledDelay: true, HeaderScheduledJob: true, "AMQ_SCHEDULED_PERIOD": true,
	"AMQ_SCHEDULED_REPEAT": true, "AMQ_SCHEDULED_CRON": true,
	"destination": true, "original-destination": true, "subscription": true, "ack": true,
	"content-length": true, "receipt": true, "transaction": true, "persistent": true,
	HeaderDelay: true, HeaderTooLarge: true,
	HeaderDeadReason: true, HeaderDeadDetail: true, HeaderFirstFailedAt: true, HeaderHandler: true,
	headerOldExpires: true, headerCause: true,
}

// authorHeaders are those of the producer's headers that are the handler's to
// see; the map is its own.
func (m message) authorHeaders() map[string]string {
	h := make(map[string]string, len(m.headers))
	for name, value := range m.headers {
		if !notCopied[name] && !strings.HasPrefix(name, "usher_") {
			h[name] = value
		}
	}
	return h
}

// copyOf is the message as its next copy: the producer's headers, what we know
// of it, and the next hop.
func (m message) copyOf(queue string) Outgoing {
	h := make(map[string]string, len(m.headers)+6)
	for name, value := range m.headers {
		if !notCopied[name] {
			h[name] = value
		}
	}
	h[HeaderID] = m.id
	h[HeaderPriority] = strconv.Itoa(m.priority)
	h[HeaderHop] = strconv.Itoa(min(m.hop+1, maxCount))
	h[HeaderAttempts] = strconv.Itoa(m.attempts)
	h[HeaderRedeliveries] = strconv.Itoa(m.rounds)
	if !m.notBefore.IsZero() {
		h[HeaderNotBefore] = m.notBefore.Format(time.RFC3339Nano)
	}
	if !m.expires.IsZero() {
		h[HeaderExpiresAt] = millisText(m.expires)
	}
	return Outgoing{Queue: queue, Headers: h, Body: m.body}
}

// waitingCopy is the copy that comes back after a wait outside.
func (m message) waitingCopy(queue string) Outgoing {
	out := m.copyOf(queue)
	if !m.firstFailed.IsZero() {
		out.Headers[HeaderFirstFailedAt] = m.firstFailed.UTC().Format(time.RFC3339)
	}
	return out
}

// size is what it takes to keep a copy, in bytes.
func (o Outgoing) size() int {
	n := len(o.Body)
	for name, value := range o.Headers {
		n += len(name) + len(value)
	}
	return n
}

// deadCopy is the dead letter.
func (m message) deadCopy(f fault, queue string, now time.Time) Outgoing {
	out := m.copyOf(DeadQueue)
	out.Headers[HeaderDeadReason] = f.reason
	out.Headers[HeaderDeadDetail] = handlers.OneLine(f.detail, MaxDetailBytes)
	out.Headers[HeaderFirstFailedAt] = orTime(m.firstFailed, now).UTC().Format(time.RFC3339)
	out.Headers[HeaderOrigin] = queue
	if m.handler != "" {
		out.Headers[HeaderHandler] = m.handler
	}
	return out
}

// Redriven is a dead letter as a fresh message: its next hop, attempts from the
// start, and without what made it a dead letter. It says how often it was redriven.
func Redriven(l DeadLetter, c Content, queue string, now time.Time) Outgoing {
	m := understand(Delivery{BrokerID: l.ID, Headers: c.Headers, Body: c.Body}, len(c.Body), now)
	m.attempts, m.rounds, m.expires, m.firstFailed = 0, 0, time.Time{}, time.Time{}
	out := m.copyOf(queue)
	delete(out.Headers, HeaderExpiresAt)
	delete(out.Headers, HeaderOrigin)
	out.Headers[HeaderQueuedAt] = millisText(now)
	out.Headers[HeaderRedrives] = strconv.Itoa(min(l.Redrives+1, maxCount))
	return out
}

// followOns are the messages that go with a done one. Their ids depend only on
// the message and on what was emitted, so a re-run sends the same ones.
func (m message) followOns(emitted []handlers.FollowOn, queue string, now time.Time) ([]Outgoing, *fault) {
	equals := map[string]int{}
	outs := make([]Outgoing, 0, len(emitted))
	for _, f := range emitted {
		if wrong := wrongFollowOn(f); wrong != "" {
			return nil, &fault{ReasonBadFollowOn, fmt.Sprintf("the follow-on %.100q %s", f.Type, wrong)}
		}
		outs = append(outs, m.followOn(f, equals, queue, now))
	}
	return outs, nil
}

// What a follow-on's headers may take, so that every broker carries it.
const (
	maxFollowOnHeaders = 64
	maxFollowOnHeader  = 4 << 10  // bytes of one value
	maxFollowOnText    = 32 << 10 // bytes of all names and values
)

// wrongFollowOn says what is wrong with a follow-on; "": nothing.
func wrongFollowOn(f handlers.FollowOn) string {
	size := 0
	for name, value := range f.Headers {
		size += len(name) + len(value)
		switch {
		case !followOnHeader(name):
			return fmt.Sprintf("sets the header %.100q, which is not an author's to set", name)
		case len(value) > maxFollowOnHeader:
			return fmt.Sprintf("has a header %s of %d bytes; at most %d are sent", name, len(value), maxFollowOnHeader)
		case !oneLineText(value):
			return "has control characters in the header " + name
		}
	}
	switch {
	case len(f.Headers) > maxFollowOnHeaders || size > maxFollowOnText:
		return fmt.Sprintf("has %d headers of %d bytes; at most %d of %d are sent", len(f.Headers), size, maxFollowOnHeaders, maxFollowOnText)
	case len(f.Type) > MaxIDBytes || !oneLineText(f.Type):
		return "has a type that is too long or has control characters"
	case len(f.ContentType) > MaxIDBytes || !oneLineText(f.ContentType):
		return "has a content type that is too long or has control characters"
	}
	return ""
}

func oneLineText(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, unicode.IsControl) < 0
}

func (m message) followOn(f handlers.FollowOn, equals map[string]int, queue string, now time.Time) Outgoing {
	key := f.Key
	if key == "" {
		key = DigestOf(f.Body)
	}
	same := f.Type + "\x00" + key
	id := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d", m.id, same, equals[same]))
	equals[same]++

	h := make(map[string]string, len(f.Headers)+8)
	maps.Copy(h, f.Headers)
	for _, name := range []string{"traceparent", "tracestate", "correlation-id"} {
		if v, ok := m.headers[name]; ok && h[name] == "" {
			h[name] = v
		}
	}
	priority := m.priority
	if f.Priority != nil {
		priority = *f.Priority
	}
	h[HeaderType] = f.Type
	h[HeaderID] = "f-" + hex.EncodeToString(id[:16])
	h[HeaderPriority] = strconv.Itoa(priority)
	h[HeaderParent] = m.id
	h[HeaderContentType] = f.ContentType
	if f.ContentType == "" {
		h[HeaderContentType] = "application/json"
	}
	if f.Delay > 0 {
		h[HeaderNotBefore] = now.Add(f.Delay).UTC().Format(time.RFC3339Nano)
	}
	return Outgoing{Queue: queue, Headers: h, Body: f.Body}
}

// followOnHeader says whether an author may set the header: a legal JMS
// property name that belongs to nobody else, or trace and correlation.
func followOnHeader(name string) bool {
	switch name {
	case "", "type", "priority", "expires", "persistent", "destination", "receipt", "transaction", "timestamp":
		return false
	case "correlation-id", "traceparent", "tracestate":
		return true
	}
	lower := strings.ToLower(name)
	if strings.HasPrefix(lower, "usher_") || strings.HasPrefix(lower, "jms") || strings.HasPrefix(lower, "amq_") || strings.HasPrefix(lower, "cloudevents_") {
		return false
	}
	for i, r := range name {
		letter := r == '_' || r == '$' || (r|0x20) >= 'a' && (r|0x20) <= 'z'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return true
}
