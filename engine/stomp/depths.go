package stomp

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine"
	"usher/engine/stomp/internal/session"
)

const (
	// depthsTimeout is how long the broker has to tell. (ActiveMQ 5.18.3, just
	// started and on a busy machine, took over 2 s to write its first answer.)
	depthsTimeout = 5 * time.Second
	// depthsPause is how long a broker that did not tell is not asked again:
	// without the plugin, each question is a message in a queue that nobody reads.
	depthsPause = time.Minute
	// deadEvery is how often the queue of dead letters is asked about.
	deadEvery = time.Second
	// oldestEvery is how often it is asked how old the oldest message of a lane is, for
	// which the broker looks at that message.
	oldestEvery = 10 * time.Second
	// depthsExpiry takes such messages away.
	depthsExpiry = 30 * time.Second

	statisticsPrefix = "ActiveMQ.Statistics.Destination."
	// oldestHeader asks for when the first message of a queue came (ActiveMQ 5.18,
	// org.apache.activemq.plugin.StatisticsBroker).
	oldestHeader = statisticsPrefix + "Include.First.Message.Timestamp"
	depthsQueue  = "/temp-queue/usher.depths"
	// deadID is, in a question's correlation id, what a lane's id is elsewhere.
	deadID = "dead"
)

// depths is what one session knows of ActiveMQ's statistics plugin, which tells
// how much waits (activemq.apache.org, StatisticsPlugin).
type depths struct {
	turn        chan struct{} // capacity 1: one call at a time; it guards the next six
	subscribed  bool          // to the answers
	calls       uint64
	silent      time.Time         // when the broker did not tell; zero: it did, or was not asked
	deadAsked   time.Time         // when the queue of dead letters was asked about last
	oldestAsked time.Time         // when the oldest message of each lane was
	oldest      map[int]time.Time // when that was sent, by lane

	mu      sync.Mutex // guards the rest
	told    bool       // it has answered
	call    string     // the prefix of the correlation ids of the call that is under way
	answers chan<- depthAnswer
	dead    *engine.Depth // the queue of dead letters; never changed, but replaced
	last    engine.Depths // what was told last; valid if lastErr is nil
	lastErr error         // of the last question
}

// errNotAsked is LastDepths' error before the first answer of a session.
var errNotAsked = errors.New("stomp: depths: the broker was not asked yet in this session")

// keep takes what a question came to, and says whether it is the first to show
// that there are no statistics.
func (d *depths) keep(found engine.Depths, err error) (news bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	news = errors.Is(err, engine.ErrNoStatistics) && !errors.Is(d.lastErr, engine.ErrNoStatistics)
	d.last, d.lastErr = found, err
	return news
}

func (d *depths) lastAnswer() (engine.Depths, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last.At.IsZero() && d.lastErr == nil {
		return engine.Depths{}, errNotAsked
	}
	return d.last, d.lastErr
}

// fenceID, in the place of a lane, is what comes behind the answers.
const (
	fenceID   = "fence"
	fenceLane = engine.Unsorted - 1
)

type depthAnswer struct {
	lane  int
	depth engine.Depth
	after uint64 // deliveries that came before it
}

// answer takes the broker's answer from the reader. What is no answer to the
// call that is under way is ignored.
func (d *depths) answer(f *frame.Frame, after uint64) {
	call, id, ok := strings.Cut(f.Header.Get("correlation-id"), "/")
	lane, isLane := laneOf(id)
	depth, isDepth := parseDepth(f.Body)
	if id == fenceID {
		lane, isLane, isDepth = fenceLane, true, true
	}
	if !ok || !isDepth || !isLane && id != deadID {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.told = d.told || id != fenceID
	if id == deadID {
		d.dead = &depth
		return
	}
	if call != d.call || d.answers == nil {
		return
	}
	select {
	case d.answers <- depthAnswer{lane, depth, after}:
	default: // more answers than questions
	}
}

// expect makes answers of the call go to the channel; a nil one ends it.
func (d *depths) expect(call string, answers chan<- depthAnswer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.call, d.answers = call, answers
}

// Depths asks the broker on the consuming session. It waits at most 5 s. The
// answer has the lanes that the broker told of. A broker that tells nothing gives
// [engine.ErrNoStatistics] and is asked again only after a minute; one that is
// slow gives another error, and may be asked at once. So is that there is no session.
func (b *Broker) Depths(ctx context.Context) (engine.Depths, error) {
	b.mu.Lock()
	c, subscribed := b.current, !b.since.IsZero()
	b.mu.Unlock()
	if c == nil || !subscribed {
		return engine.Depths{}, errors.New("stomp: depths: there is no session")
	}
	found, err := c.askDepths(ctx)
	if err != nil {
		found, err = engine.Depths{}, fmt.Errorf("stomp: depths: %w", err)
	}
	if c.depths.keep(found, err) {
		c.depths.finding().log(b.config.Log)
	}
	return found, err
}

func (c *consumer) askDepths(parent context.Context) (engine.Depths, error) {
	select {
	case c.depths.turn <- struct{}{}:
		defer func() { <-c.depths.turn }()
	case <-parent.Done():
		return engine.Depths{}, parent.Err()
	}
	d := &c.depths
	if !d.silent.IsZero() && time.Since(d.silent) < depthsPause {
		return engine.Depths{}, engine.ErrNoStatistics
	}
	ctx, cancel := context.WithTimeoutCause(parent, depthsTimeout, fmt.Errorf("no answer within %v", depthsTimeout))
	defer cancel()
	found := engine.Depths{At: time.Now(), Epoch: c.epoch, Lanes: map[int]engine.Depth{}}
	err := c.collectDepths(ctx, &found)
	switch {
	case parent.Err() != nil:
		return engine.Depths{}, parent.Err()
	case c.Err() != nil:
		return engine.Depths{}, c.Err()
	case len(found.Lanes) > 0:
		return found, nil
	case errors.Is(err, engine.ErrNoStatistics):
		d.silent = time.Now()
	}
	return engine.Depths{}, err
}

// collectDepths asks about every lane at once and fills found with the answers
// that come until ctx or the session ends. The caller has the turn.
func (c *consumer) collectDepths(ctx context.Context, found *engine.Depths) error {
	d := &c.depths
	if err := c.subscribeDepths(ctx); err != nil {
		return noStatistics(ctx, err)
	}
	d.calls++
	call := strconv.FormatUint(d.calls, 10)
	answers := make(chan depthAnswer, len(lanes())+1) // one for each question, and the fence
	d.expect(call, answers)
	defer d.expect("", nil)
	if err := c.askDead(ctx, call); err != nil {
		return err
	}
	var asked []session.Pending
	withOldest := time.Since(d.oldestAsked) >= oldestEvery
	for _, lane := range lanes() {
		question := depthFrame(call, laneID(lane), laneQueue(c.queue, lane))
		if withOldest {
			question.Header.Add(oldestHeader, "true")
		}
		p, err := c.Ask(ctx, question)
		if err != nil {
			return err
		}
		defer p.Drop()
		asked = append(asked, p)
	}
	if err := c.fence(ctx, call); err != nil {
		return err
	}
	for len(found.Lanes) < len(asked) {
		select {
		case a := <-answers:
			if a.lane == fenceLane {
				return unanswered(found, asked)
			}
			if !withOldest && a.depth.Size > 0 {
				a.depth.Oldest = d.oldest[a.lane]
			}
			found.Lanes[a.lane], found.After = a.depth, a.after
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.Done():
			return c.Err()
		}
	}
	if withOldest {
		d.oldestAsked, d.oldest = time.Now(), map[int]time.Time{}
		for lane, depth := range found.Lanes {
			d.oldest[lane] = depth.Oldest
		}
	}
	found.Dead = d.lastDead()
	return nil
}

// unanswered is what it means that the fence came before all answers: without any
// there is no plugin, unless the broker has refused the questions.
func unanswered(found *engine.Depths, asked []session.Pending) error {
	if len(found.Lanes) > 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", engine.ErrNoStatistics, cmp.Or(refusal(asked), errors.New("is statisticsBrokerPlugin in its XML?")))
}

// noStatistics is what a refusal of the broker comes to, unless ctx has ended.
func noStatistics(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("%w: %w", engine.ErrNoStatistics, err)
}

// fence sends a message of our own after the questions. The plugin answers a
// question before the broker takes the next frame, so what is not answered when
// the fence comes never will be, however slow the broker is.
func (c *consumer) fence(ctx context.Context, call string) error {
	return c.Send(ctx, frame.New(frame.SEND,
		frame.Destination, depthsQueue, "correlation-id", call+"/"+fenceID, frame.ContentLength, "0"))
}

// askDead asks about the queue of dead letters, if it is time. The broker answers
// in the order that it is asked in, but says nothing of a queue that is not there:
// when it has told of the lanes and not of this one, there is no dead letter. The
// caller has the turn.
func (c *consumer) askDead(ctx context.Context, call string) error {
	if time.Since(c.depths.deadAsked) < deadEvery {
		return nil
	}
	c.depths.deadAsked = time.Now()
	c.depths.mu.Lock()
	c.depths.dead = nil
	c.depths.mu.Unlock()
	p, err := c.Ask(ctx, depthFrame(call, deadID, engine.DeadQueue))
	if err == nil {
		p.Drop()
	}
	return err
}

// lastDead is called when the lanes were told of.
func (d *depths) lastDead() *engine.Depth {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead == nil {
		return &engine.Depth{}
	}
	return d.dead
}

// refusal is what the broker said against one of the questions, if it did.
func refusal(asked []session.Pending) error {
	for _, p := range asked {
		if err := p.Refused(); err != nil {
			return err
		}
	}
	return nil
}

// subscribeDepths subscribes the queue for the answers, once a session. The
// caller has the turn.
func (c *consumer) subscribeDepths(ctx context.Context) error {
	if c.depths.subscribed {
		return nil
	}
	err := c.Request(ctx, frame.New(frame.SUBSCRIBE,
		frame.Id, depthsID, frame.Destination, depthsQueue, frame.Ack, "auto", "transformation", "jms-map-json"))
	c.depths.subscribed = err == nil
	return err
}

func depthFrame(call, id, queue string) *frame.Frame {
	return frame.New(frame.SEND,
		frame.Destination, destination(statisticsPrefix+queue),
		"reply-to", depthsQueue,
		"correlation-id", call+"/"+id,
		engine.HeaderExpires, strconv.FormatInt(time.Now().Add(depthsExpiry).UnixMilli(), 10),
		frame.ContentLength, "0")
}

// parseDepth reads the answer, a JMS map in JSON: the flat {"size":5}, or as
// ActiveMQ writes it {"map":{"entry":[{"string":"size","long":5}]}}.
func parseDepth(body []byte) (engine.Depth, bool) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var document any
	if decoder.Decode(&document) != nil {
		return engine.Depth{}, false
	}
	size, ok := findNumber(document, "size")
	if !ok {
		return engine.Depth{}, false
	}
	inFlight, _ := findNumber(document, "inflightCount")
	depth := engine.Depth{Size: max(size, 0), InFlight: max(inFlight, 0)}
	if sent, ok := findNumber(document, "firstMessageTimestamp"); ok && sent > 0 {
		depth.Oldest = time.UnixMilli(int64(sent))
	}
	return depth, true
}

// findNumber finds the number that is named, as a member or as an entry.
func findNumber(v any, name string) (int, bool) {
	switch v := v.(type) {
	case map[string]any:
		if n, ok := number(v[name]); ok {
			return n, true
		}
		if v["string"] == name { // an entry: the other member is its value
			for key, value := range v {
				if n, ok := number(value); ok && key != "string" {
					return n, true
				}
			}
			return 0, false
		}
		for _, value := range v {
			if n, ok := findNumber(value, name); ok {
				return n, true
			}
		}
	case []any:
		for _, value := range v {
			if n, ok := findNumber(value, name); ok {
				return n, true
			}
		}
	}
	return 0, false
}

func number(v any) (int, bool) {
	text, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	n, err := text.Int64()
	return int(n), err == nil
}
