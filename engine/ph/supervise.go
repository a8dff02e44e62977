package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/handlers"
	"usher/handlers/plugin/wire"
)

const (
	firstWait   = 250 * time.Millisecond // before the first restart, at most
	longestWait = 30 * time.Second
	healthy     = time.Minute // a process that lived this long starts the waits anew
)

// supervisor keeps one plugin running.
type supervisor struct {
	name        string
	plugin      Plugin
	types       []string
	drain       time.Duration
	changedFunc func()
	log         zerolog.Logger

	mu        sync.Mutex // guards the rest
	state     State
	since     time.Time
	session   *session // nil: not ready
	process   *process
	restarts  int
	lastError string
}

// run starts the plugin, and starts it again whenever it ends, until ctx does.
func (s *supervisor) run(ctx context.Context, dir string) {
	// The process dies with the thread that started it. This goroutine keeps its
	// own, and never unlocks it, so that nothing else runs there and ends it.
	runtime.LockOSThread()
	defer s.become(Stopped, nil, nil)
	for failures := 0; ; failures++ {
		began := time.Now()
		err := s.live(ctx, dir)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > healthy {
			failures = 0
		}
		wait := restartWait(failures, rand.Float64())
		s.log.Error().Err(err).Dur("again_in", wait).Msg("the plugin ended")
		s.failed(err)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// restartWait is the wait after a number of failures: full jitter below a bound
// that doubles.
func restartWait(failures int, jitter float64) time.Duration {
	bound := firstWait
	for range failures {
		if bound *= 2; bound >= longestWait {
			bound = longestWait
			break
		}
	}
	return time.Duration(jitter * float64(bound))
}

// live is the life of one process; it returns when the process has ended, with
// the reason.
func (s *supervisor) live(ctx context.Context, dir string) error {
	s.become(Starting, nil, nil)
	p, err := s.start(ctx, dir)
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	defer p.kill()
	sess, err := openSession(p, s.plugin.StartTimeout, s.changedFunc)
	if err != nil {
		return p.explain(err)
	}
	s.become(Ready, p, sess)
	s.log.Info().Int("pid", p.pid).Str("version", p.about.GetVersion()).Int("concurrency", sess.credit()).Msg("the plugin is ready")
	select {
	case <-sess.ended:
		return p.explain(sess.cause())
	case <-p.wire.Gone:
		// The stream ends as well; its reason is the same, in worse words.
	case <-ctx.Done():
		s.become(Draining, p, sess)
		sess.drain(s.drain)
	}
	p.kill()
	sess.end(fmt.Errorf("its process ended"))
	<-sess.ended
	return p.explain(sess.cause())
}

// become changes the state, and with it the credit.
func (s *supervisor) become(state State, p *process, sess *session) {
	s.mu.Lock()
	s.state, s.since, s.process, s.session = state, time.Now(), p, sess
	s.mu.Unlock()
	s.changedFunc()
}

func (s *supervisor) failed(err error) {
	s.mu.Lock()
	s.state, s.since, s.process, s.session = Waiting, time.Now(), nil, nil
	s.restarts++
	s.lastError = handlers.OneLine(err.Error(), 1000)
	s.mu.Unlock()
	s.changedFunc()
}

// current is the session that takes messages; nil: none.
func (s *supervisor) current() (*session, *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != Ready {
		return nil, nil
	}
	return s.session, s.process
}

func (s *supervisor) credit() int {
	if sess, _ := s.current(); sess != nil {
		return sess.credit()
	}
	return 0
}

// handle runs one message and returns when it is not running any more.
func (s *supervisor) handle(ctx context.Context, m *handlers.Message) error {
	sess, p := s.current()
	if sess == nil {
		return fmt.Errorf("plugin %s: %w", s.name, engine.ErrPluginAway)
	}
	tag, c, ok := sess.begin(ctx, m)
	if !ok {
		return fmt.Errorf("plugin %s: %w", s.name, engine.ErrPluginAway)
	}
	select {
	case o, ok := <-c.outcome:
		return s.outcome(m, o, ok, sess, p)
	case <-ctx.Done():
	}
	reason := wire.CancelReason_CANCEL_REASON_STOPPING
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		reason = wire.CancelReason_CANCEL_REASON_DEADLINE
	}
	sess.cancelMessage(tag, reason)
	grace := time.NewTimer(s.plugin.Grace)
	defer grace.Stop()
	select {
	case o, ok := <-c.outcome:
		return s.outcome(m, o, ok, sess, p)
	case <-grace.C:
	}
	s.log.Error().Str("id", m.ID).Str("type", m.Type).Dur("grace", s.plugin.Grace).Msg("a handler does not stop when it is cancelled: its process is killed")
	sess.end(errHung)
	p.kill()
	if o, ok := <-c.outcome; ok {
		return s.outcome(m, o, ok, sess, p) // it came at the last moment
	}
	return fmt.Errorf("plugin %s: killed %v after the message was cancelled, because its handler had not stopped: %w", s.name, s.plugin.Grace, context.Cause(ctx))
}

func (s *supervisor) outcome(m *handlers.Message, o *wire.Outcome, ok bool, sess *session, p *process) error {
	if !ok {
		return fmt.Errorf("plugin %s: %w: %w", s.name, engine.ErrPluginLost, p.explain(sess.cause()))
	}
	return answer(m, o)
}

func (s *supervisor) status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{
		Name: s.name, State: s.state, Since: s.since, Types: s.types,
		Restarts: s.restarts, LastError: s.lastError,
	}
	if s.process != nil {
		st.PID, st.Version = s.process.pid, s.process.about.GetVersion()
	}
	if s.session != nil {
		st.InFlight = s.session.inFlight()
	}
	return st
}
