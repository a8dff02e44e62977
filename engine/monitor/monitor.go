package monitor

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"usher/engine"
)

// Source is where dead letters come from. Receive is called by one goroutine, the
// others concurrently.
type Source interface {
	// Receive blocks until there are deliveries, the session changes, or ctx ends;
	// see [engine.Broker]. What it returns belongs to the caller. The error is
	// ctx's, or final.
	Receive(ctx context.Context) (engine.Batch, error)
	// Queue names the queue that a delivery came from. It does not block.
	Queue(d engine.Delivery) string
	// Ack takes a delivery out of its queue; see [engine.Broker].
	Ack(d engine.Delivery) error
	// Leave says that a delivery will not be acked, or not soon, and must not keep
	// others from coming. It does not block. For a delivery of an older session it
	// does nothing.
	Leave(d engine.Delivery)
}

// Records is what the monitor needs of the record table; see [engine.Records].
type Records interface {
	LookUp(ctx context.Context, ids []string) (engine.Found, error)
	Write(ctx context.Context, c engine.Change) (engine.Record, error)
}

// Config is what a Monitor is built from. Source, Archive and Records are
// required.
type Config struct {
	Source   Source
	Archive  engine.Archive
	Records  Records
	Notifier engine.Notifier // of watchers, where the record is written; nil: nobody is told
	Ops      []Ops           // each takes notes for people; none: there are no notes
	// Window is how long failures of one kind are counted before the next note.
	// Default DefaultWindow.
	Window time.Duration
	Log    zerolog.Logger
}

// DefaultWindow is the default of Config.Window.
const DefaultWindow = 5 * time.Minute

const (
	// atOnce is how many letters are taken at the same time, so that a store which
	// commits in groups has groups.
	atOnce = 16
	// storeTimeout is how long one call of a store may take.
	storeTimeout = 5 * time.Second
	// checkEvery is how often it is looked whether what stays in its queue was
	// dropped.
	checkEvery = time.Minute
)

// Monitor moves dead letters into the archive. One Run may be under way at a time.
type Monitor struct {
	cfg     Config
	kinds   *kinds // nil: there are no notes
	notes   outboxes
	check   time.Duration
	running atomic.Bool

	mu    sync.Mutex
	epoch uint64                     // of the session; guarded by mu, as the rest
	stay  map[string]engine.Delivery // left in their queues in this session, by key of the letter
}

// New checks the config and makes a Monitor of it.
func New(cfg Config) (*Monitor, error) {
	if cfg.Source == nil || cfg.Archive == nil || cfg.Records == nil {
		return nil, errors.New("monitor: Source, Archive and Records are required")
	}
	if cfg.Window < 0 {
		return nil, errors.New("monitor: Window must not be negative")
	}
	if cfg.Window == 0 {
		cfg.Window = DefaultWindow
	}
	m := &Monitor{cfg: cfg, check: checkEvery, stay: map[string]engine.Delivery{}}
	for _, ops := range cfg.Ops {
		m.notes = append(m.notes, newOutbox(ops, cfg.Log))
	}
	if len(m.notes) > 0 {
		m.kinds = newKinds(cfg.Window)
	}
	return m, nil
}

// Run takes dead letters until ctx ends, and returns nil then: what is not archived
// by that time is not acked, and comes again. Notes that wait get three more
// seconds. Another error is the Source's, and final.
func (m *Monitor) Run(ctx context.Context) error {
	if !m.running.CompareAndSwap(false, true) {
		return errors.New("monitor: Run is already running")
	}
	defer m.running.Store(false)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.takeAll(ctx) })
	g.Go(func() error { return m.lookAtWhatStays(ctx) })
	for _, box := range m.notes {
		g.Go(func() error { return box.run(ctx) })
	}
	if m.kinds != nil {
		g.Go(func() error { return m.countWindows(ctx) })
	}
	err := g.Wait()
	if m.kinds != nil {
		m.notes.sendLast(context.WithoutCancel(ctx), m.kinds.end(time.Now()))
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// takeAll takes batch after batch. While the archive does not answer the next is
// not received; what the windows allow waits in between.
func (m *Monitor) takeAll(ctx context.Context) error {
	for {
		batch, err := m.cfg.Source.Receive(ctx)
		if err != nil {
			return err
		}
		m.session(batch.Epoch)
		var g errgroup.Group
		g.SetLimit(atOnce)
		for _, d := range batch.Deliveries {
			g.Go(func() error { return m.take(ctx, d) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
}

// session forgets what was left in queues in another session: it comes again.
func (m *Monitor) session(epoch uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.epoch != epoch {
		m.epoch = epoch
		clear(m.stay)
	}
}

// take takes one letter: archive, record, log, note, and ack last. The error is ctx's.
func (m *Monitor) take(ctx context.Context, d engine.Delivery) error {
	l, content := engine.DeadLetterOf(d, m.cfg.Source.Queue(d), time.Now())
	var added, unsure bool // whether an answer was lost
	err := m.persist(ctx, "archive", func(ctx context.Context) error {
		kept, isNew, err := m.cfg.Archive.Put(ctx, l, content)
		if err != nil {
			unsure = true
			return err
		}
		l, added = kept, isNew
		return nil
	})
	if err != nil {
		return err
	}
	if byBroker(d, l) {
		if err := m.persist(ctx, "record", func(ctx context.Context) error { return m.write(ctx, d, l) }); err != nil {
			return err
		}
	}
	// Whoever had it before us may have died before he could tell. What stays comes
	// again with each session.
	if added || unsure || d.Redelivered && !l.Stays {
		m.report(l, !added)
	}
	if l.Stays && l.State == engine.LetterKept {
		m.leave(d, l.Key)
		return nil
	}
	return m.ack(d)
}

// ack takes a letter out of its queue. An ack that is lost means that it comes
// again, which does no harm.
func (m *Monitor) ack(d engine.Delivery) error {
	if err := m.cfg.Source.Ack(d); err != nil {
		m.cfg.Log.Warn().Err(err).Str("message_id", d.BrokerID).Msg("an ack was lost: the dead letter comes again")
	}
	return nil
}

// report logs a letter, and has people told of it: at least once each, as
// everything here.
func (m *Monitor) report(l engine.DeadLetter, again bool) {
	m.cfg.Log.Info().Str("id", l.ID).Str("type", oneLine(l.Type)).Int("level", l.Level).Str("reason", l.Why.Reason).
		Int("attempts", l.Why.Attempts).Int("redeliveries", l.Why.Redeliveries).Int("redrives", l.Redrives).
		Str("queue", l.Queue).Bool("stays", l.Stays).Bool("again", again).Str("key", l.Key).Str("fingerprint", l.Why.Fingerprint).
		Str("detail", l.Why.Detail).Msg("a dead letter")
	if m.kinds == nil {
		return
	}
	if note, first := m.kinds.add(l, time.Now()); first {
		m.notes.offer(note)
	}
}

// byBroker says whether the broker alone decided that the message is dead, so that
// its record does not know yet. One whose hop cannot be read is no known copy.
func byBroker(d engine.Delivery, l engine.DeadLetter) bool {
	return l.Queue != engine.DeadQueue && d.Headers[engine.HeaderDeadReason] == "" && l.Hop >= 0
}

// write makes the record say that the message is dead, unless it belongs to another
// message, has moved on, or an engine has the message in hand: that one decides.
func (m *Monitor) write(ctx context.Context, d engine.Delivery, l engine.DeadLetter) error {
	found, err := m.cfg.Records.LookUp(ctx, []string{l.ID})
	if err != nil {
		return err
	}
	digest := ""
	if !l.Stays {
		digest = engine.DigestOf(d.Body)
	}
	rec := found.Records[l.ID]
	other := rec.Digest != "" && (rec.Type != l.Type || digest != "" && rec.Digest != digest)
	if other || rec.Claim.Live(found.Now) {
		return nil
	}
	rec, err = m.cfg.Records.Write(ctx, engine.Change{
		ID: l.ID, Type: l.Type, Digest: digest, Priority: l.Level, Hop: l.Hop, NextHop: l.Hop, Token: "monitor-" + l.Key,
		State: engine.Dead, Reason: l.Why.Reason, Attempts: l.Why.Attempts, Redeliveries: l.Why.Redeliveries, Now: time.Now(),
	})
	switch {
	case errors.Is(err, engine.ErrGuarded):
		return nil
	case err == nil && m.cfg.Notifier != nil && len(rec.Watchers) > 0:
		m.cfg.Notifier.Notify(rec.Watchers, rec.Snapshot(time.Now()))
	}
	return err
}

// leave leaves a letter in its queue, and remembers how it can be acked.
func (m *Monitor) leave(d engine.Delivery, key string) {
	m.cfg.Source.Leave(d)
	m.mu.Lock()
	defer m.mu.Unlock()
	if d.Epoch == m.epoch {
		m.stay[key] = d
	}
}

// lookAtWhatStays takes out of their queues the letters that somebody has dropped.
func (m *Monitor) lookAtWhatStays(ctx context.Context) error {
	tick := time.NewTicker(m.check)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		m.mu.Lock()
		keys := make([]string, 0, len(m.stay))
		for key := range m.stay {
			keys = append(keys, key)
		}
		m.mu.Unlock()
		for _, key := range keys {
			if l, _, err := m.cfg.Archive.Letter(ctx, key); err == nil && l.State != engine.LetterKept {
				m.letGo(key)
			}
		}
	}
}

// letGo acks a letter that stayed until now.
func (m *Monitor) letGo(key string) {
	m.mu.Lock()
	d, ok := m.stay[key]
	delete(m.stay, key)
	m.mu.Unlock()
	if ok && m.ack(d) == nil {
		m.cfg.Log.Info().Str("key", key).Msg("what stayed in its queue was dropped")
	}
}

// countWindows sends the notes of windows that are over.
func (m *Monitor) countWindows(ctx context.Context) error {
	tick := time.NewTicker(min(m.cfg.Window, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		for _, note := range m.kinds.over(time.Now()) {
			m.notes.offer(note)
		}
	}
}

// persist tries f until it works or ctx ends.
func (m *Monitor) persist(ctx context.Context, what string, f func(context.Context) error) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval, wait.RandomizationFactor = 100*time.Millisecond, 2*time.Second, 0.5
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		trying, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		return struct{}{}, f(trying)
	}, backoff.WithBackOff(wait), backoff.WithMaxElapsedTime(0), backoff.WithNotify(func(err error, next time.Duration) {
		m.cfg.Log.Warn().Err(err).Str("step", what).Dur("again_in", next).Msg("a dead letter has to wait")
	}))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
