package server

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	awakePath = "/awake/"
	// awakeFor is how long a poll is held: App Runner ends requests after 120 s.
	awakeFor = 100 * time.Second
	// awakeLimit is when a poll that is not answered is given up.
	awakeLimit = awakeFor + 15*time.Second
	// A poll that reached somebody else is repeated after a wait, twice as long each time.
	awakeWait, awakeWaitMost = 50 * time.Millisecond, 5 * time.Second
	// awakeGrace is how long there may be no poll between two of them.
	awakeGrace = 10 * time.Second
)

// polls is whether a poll of this process is held by it. Its methods are safe for
// concurrent use.
type polls struct {
	mu      sync.Mutex
	n       int           // that are held; guarded by mu, as the rest
	since   time.Time     // when the first came, or the last ended; zero: none ever came
	changed chan struct{} // closed when n becomes 0, or is 0 no more
}

func newPolls() *polls { return &polls{changed: make(chan struct{})} }

// hold counts a poll until the function that it returns is called.
func (p *polls) hold() (end func()) {
	p.count(+1, 0)
	return func() { p.count(-1, 1) }
}

// count changes n, of which one value was nothing and so is a change.
func (p *polls) count(by, before int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n == before {
		p.since = time.Now()
		close(p.changed)
		p.changed = make(chan struct{})
	}
	p.n += by
}

func (p *polls) look() (held bool, since time.Time, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n > 0, p.since, p.changed
}

// await returns when it has been so for d that a poll is held, or that none is; or
// with the cause of ctx's end.
func (p *polls) await(ctx context.Context, held bool, d time.Duration) error {
	for {
		is, since, changed := p.look()
		var enough <-chan time.Time
		if is == held {
			left := d - time.Since(since)
			if left <= 0 {
				return nil
			}
			enough = time.After(left)
		}
		select {
		case <-changed:
		case <-enough:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// WhileAwake runs f, and ends its ctx when no poll of this process has been held by it
// for Config.AwakeGrace: App Runner may give it next to no CPU then, and others are to have what it
// would take. When a poll is held again so is f run again. It returns when ctx ends, or f
// does by itself. Without Config.Awake it is f.
func (s *Server) WhileAwake(ctx context.Context, f func(context.Context) error) error {
	if s.cfg.Awake == "" {
		return f(ctx)
	}
	for {
		if err := s.polls.await(ctx, true, 0); err != nil {
			return nil //nolint:nilerr // it is ctx's
		}
		working, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() {
			ended <- f(working)
			stop()
		}()
		late := s.polls.await(working, false, s.cfg.AwakeGrace) == nil
		stop()
		if err := <-ended; err != nil || !late {
			return err
		}
		s.cfg.Log.Warn().Msg("the poll that keeps this process awake is late: others get its messages until it is back")
	}
}

// awake holds the poll of this very process, and sends away those of others at once.
func (s *Server) awake(w http.ResponseWriter, r *http.Request) {
	if r.PathValue("nonce") != s.nonce {
		w.WriteHeader(http.StatusMisdirectedRequest)
		return
	}
	defer s.polls.hold()()
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(awakeLimit)); err != nil {
		s.cfg.Log.Warn().Err(err).Msg("a poll cannot be held for long")
	}
	end := time.NewTimer(awakeFor)
	defer end.Stop()
	select {
	case <-end.C:
	case <-r.Context().Done():
	}
	w.WriteHeader(http.StatusNoContent)
}

// KeepAwake keeps a request to this process under way until ctx ends, by way of
// Config.Awake: App Runner gives an instance without one next to no CPU. Which instance a
// request reaches is App Runner's to say, so it is asked until it is this one.
func (s *Server) KeepAwake(ctx context.Context) error {
	client := http.Client{Timeout: awakeLimit, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}}
	url := strings.TrimSuffix(s.cfg.Awake, "/") + awakePath + s.nonce
	for wait := awakeWait; ctx.Err() == nil; {
		err := s.poll(ctx, &client, url)
		if err == nil {
			wait = awakeWait
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		if wait = min(2*wait, awakeWaitMost); wait == awakeWaitMost && ctx.Err() == nil {
			s.cfg.Log.Warn().Err(err).Msg("the poll that keeps this process awake does not reach it: check server.awake; no message is taken meanwhile")
		}
	}
	return nil
}

// poll makes one poll, and says why it did not reach this process.
func (s *Server) poll(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close() // it is empty
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("%s answered %s", s.cfg.Awake, resp.Status)
	}
	return nil
}
