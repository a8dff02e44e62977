package stomp

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-stomp/stomp/v3/frame"
	"github.com/rs/zerolog"

	"usher/engine"
)

const (
	// probeTimeout is how long a session waits for its probes. One that stands
	// behind a backlog comes later, and counts then.
	probeTimeout = 5 * time.Second
	// tellTimeout is how long the others may take to be told of a probe of theirs.
	tellTimeout = 5 * time.Second
	// falseTimestamp is when the probe of level 9 says that it was sent: a broker
	// that puts its own time in the place of a producer's does not let it pass.
	falseTimestamp = 1
	// scheduled is the name of the probe that goes through the broker's scheduler.
	scheduled = "scheduled"
)

// probe is what a session finds out about its broker. It sends a small message of
// each level, and one more through the scheduler, to the work queue itself; what
// comes out, and where, is the broker's configuration as it is in force. They are
// no work: whichever engine gets one takes it out of the stream, tells the others
// on the control topic, and acks it. A probe has no expiry, because expired
// messages become dead letters: one that nobody waits for any more goes to the
// next engine that comes.
type probe struct {
	session string        // begins the ids of this session's probes
	levels  chan struct{} // closed when a probe of each level has come out
	all     chan struct{} // closed when the scheduler's has, too

	mu   sync.Mutex            // guards the rest
	sent map[string]stretch    // by name: a level's digit, or scheduled
	seen map[string][]sighting // by name; each lane once
	err  error                 // why not all could be sent
	over bool                  // nothing more is waited for
}

// stretch is from when to when the broker may have taken a message.
type stretch struct{ from, to time.Time }

// sighting is one probe as it came out. It goes over the control topic as JSON.
type sighting struct {
	Probe      string `json:"probe"` // session and name
	Lane       int    `json:"lane"`
	Persistent bool   `json:"persistent"`
	Scheduled  bool   `json:"scheduled"` // by the broker's scheduler
	Timestamp  int64  `json:"timestamp"` // the broker's, epoch milliseconds
}

func newProbe() *probe {
	return &probe{session: rand.Text(), levels: make(chan struct{}), all: make(chan struct{}), sent: map[string]stretch{}, seen: map[string][]sighting{}}
}

// probeNames are all there are, in the order that they are sent in.
func probeNames() []string {
	names := []string{scheduled} // first, since it takes the longest
	for level := engine.Levels - 1; level >= 0; level-- {
		names = append(names, strconv.Itoa(level))
	}
	return names
}

// sightingOf says whether a delivery is a probe, and how it came out. Nothing
// that has a body or another type is taken for one: it may be work.
func sightingOf(d engine.Delivery) (sighting, bool) {
	h := d.Headers
	_, over := h[engine.HeaderTooLarge] // it has a body, which was not kept
	if h[engine.HeaderProbe] == "" || h[engine.HeaderType] != engine.TypeProbe || len(d.Body) > 0 || over {
		return sighting{}, false
	}
	stamp, err := strconv.ParseInt(h[engine.HeaderTimestamp], 10, 64)
	if err != nil {
		stamp = falseTimestamp
	}
	return sighting{
		Probe: h[engine.HeaderProbe], Lane: d.Lane, Timestamp: stamp,
		Persistent: h[headerPersistent] == "true", Scheduled: h[engine.HeaderScheduledJob] != "",
	}, true
}

// sees takes a sighting; false if it is of another session's probe.
func (p *probe) sees(s sighting) bool {
	if p == nil {
		return false
	}
	name, ours := strings.CutPrefix(s.Probe, p.session+"/")
	if !ours || !slices.Contains(probeNames(), name) {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.ContainsFunc(p.seen[name], func(o sighting) bool { return o.Lane == s.Lane }) {
		return true
	}
	p.seen[name] = append(p.seen[name], s)
	if len(p.seen[name]) > 1 {
		return true
	}
	if len(p.seen) == len(probeNames()) {
		close(p.all)
	}
	if name != scheduled && p.seenLevels() == engine.Levels {
		close(p.levels)
	}
	return true
}

// seenLevels is of how many levels a probe has come out. The lock is held.
func (p *probe) seenLevels() int {
	n := len(p.seen)
	if len(p.seen[scheduled]) > 0 {
		n--
	}
	return n
}

// runProbe sends the session's probes, waits until they have come out, and logs
// what that says of the broker.
func (c *consumer) runProbe(log zerolog.Logger) {
	ctx, cancel := context.WithTimeout(c.life, probeTimeout)
	defer cancel()
	err := c.sendProbes(ctx)
	if err == nil {
		select {
		case <-c.probe.all:
		case <-ctx.Done():
		}
	}
	if c.life.Err() != nil {
		return
	}
	c.probe.end(err)
	for _, f := range c.findings() {
		if f.State != OK && f.Name != FindingStatistics { // which may not have been asked yet
			f.log(log)
		}
	}
}

// end stops the wait for what has not come.
func (p *probe) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err, p.over = err, true
}

// sendProbes sends on the publishing connections: a broker that is full reads no
// acks from a connection that it makes wait.
func (c *consumer) sendProbes(ctx context.Context) error {
	// Without the right to read the topic, a probe that another engine gets is not
	// known to have come out, and nudges are not heard.
	err := c.Request(ctx, frame.New(frame.SUBSCRIBE, frame.Id, controlID, frame.Destination, controlTopic, frame.Ack, "auto"))
	if c.Err() != nil {
		return err
	}
	for _, name := range probeNames() {
		from := time.Now()
		err := c.publish(ctx, func() *frame.Frame { return probeFrame(c.queue, c.probe.session, name) })
		if err != nil {
			return err
		}
		c.probe.took(name, stretch{from, time.Now()})
	}
	return nil
}

func (p *probe) took(name string, s stretch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent[name] = s
}

// probeFrame leaves out persistent:true, as producers do who do not know of it.
func probeFrame(queue, session, name string) *frame.Frame {
	f := frame.New(frame.SEND,
		frame.Destination, destination(queue),
		engine.HeaderType, engine.TypeProbe,
		engine.HeaderProbe, session+"/"+name,
		frame.ContentLength, "0")
	switch name {
	case scheduled:
		f.Header.Add(engine.HeaderPriority, "9")
		f.Header.Add(engine.HeaderScheduledDelay, "1")
	case "9":
		f.Header.Add(engine.HeaderTimestamp, strconv.Itoa(falseTimestamp))
		f.Header.Add(engine.HeaderPriority, name)
	default:
		f.Header.Add(engine.HeaderPriority, name)
	}
	return f
}

// settleProbe notes a probe of ours, or tells the others of one of theirs, and
// then acks it. What is not told because the session ends comes again elsewhere.
func (c *consumer) settleProbe(d engine.Delivery, s sighting) {
	if !c.probe.sees(s) {
		ctx, cancel := context.WithTimeout(c.life, tellTimeout)
		defer cancel()
		// Without the right to tell, it is acked all the same: it would hold a place.
		_ = c.publish(ctx, func() *frame.Frame { return tellFrame(s) })
		if c.life.Err() != nil {
			return
		}
	}
	c.ack(d)
}

func tellFrame(s sighting) *frame.Frame {
	body, err := json.Marshal(s)
	if err != nil {
		panic(err) // it has only what JSON has
	}
	f := frame.New(frame.SEND,
		frame.Destination, controlTopic, engine.HeaderType, engine.TypeProbe, frame.ContentLength, strconv.Itoa(len(body)))
	f.Body = body
	return f
}

// hear takes what another engine tells, from the reader.
func (c *consumer) hear(f *frame.Frame) {
	if f.Header.Get(engine.HeaderType) != engine.TypeProbe {
		c.nudges.hear(f.Body)
		return
	}
	var s sighting
	if json.Unmarshal(f.Body, &s) == nil {
		c.probe.sees(s)
	}
}

var (
	errProbing   = errors.New("stomp: the probe of the broker's lanes is under way")
	errNoSession = errors.New("stomp: there is no session with the broker")
)

// Probed returns nil when the session has found out what the broker does with a
// message of each level, or has waited 5 s for it, and an error before: then it
// is too early to say that messages are run in order. Without a session it is an error,
// without Config.Probe it is nil. What was found is in Findings.
func (b *Broker) Probed() error {
	b.mu.Lock()
	c := b.current
	b.mu.Unlock()
	switch {
	case c == nil:
		return errNoSession
	case c.probe == nil:
		return nil
	}
	select {
	case <-c.probe.levels:
		return nil
	default:
	}
	c.probe.mu.Lock()
	defer c.probe.mu.Unlock()
	if c.probe.over {
		return nil
	}
	return errProbing
}
