package worker

import (
	"sync"
	"time"

	"usher/handlers/plugin/wire"
)

const (
	// progressEvery is how often the progress of running messages is sent.
	progressEvery = 100 * time.Millisecond
	// maxOutcomes bounds a frame: with 1 MiB of follow-ons each it stays well
	// below wire.MaxFrameBytes.
	maxOutcomes = 32
)

// outbox collects what is to be sent on a Work stream, so that a message that
// ends never waits for the network. It is bounded by the messages that run.
type outbox struct {
	wake chan struct{} // holds one element when there may be something to send

	mu       sync.Mutex // guards the rest
	credit   uint64     // messages the host may have sent in total
	greet    bool
	answer   *wire.Pong // to the last ping
	outcomes []*wire.Outcome
	progress map[uint64]*wire.Progress // the latest of each tag that runs
	reported time.Time                 // when progress was last sent
	emptied  bool                      // Drained is to be sent
	farewell *wire.Goodbye
	closed   bool
}

func newOutbox(credit uint64) *outbox {
	return &outbox{wake: make(chan struct{}, 1), credit: credit, progress: map[uint64]*wire.Progress{}}
}

// change applies f under the lock and wakes the sender.
func (o *outbox) change(f func()) {
	o.mu.Lock()
	f()
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *outbox) ready()   { o.change(func() { o.greet = true }) }
func (o *outbox) drained() { o.change(func() { o.emptied = true }) }

// close lets run return when it has sent what is here.
func (o *outbox) close() { o.change(func() { o.closed = true }) }

func (o *outbox) goodbye(code, detail string) {
	o.change(func() { o.farewell = &wire.Goodbye{Code: code, Detail: detail} })
}

func (o *outbox) pong(nonce uint64, running int) {
	o.change(func() { o.answer = &wire.Pong{Nonce: nonce, Running: uint32(running)} })
}

// finish adds the outcome of a message, and the credit for another one.
func (o *outbox) finish(outcome *wire.Outcome) {
	o.change(func() {
		o.outcomes = append(o.outcomes, outcome)
		o.credit++
	})
}

// report notes how far a running message is, in place of what was noted before.
func (o *outbox) report(p *wire.Progress) {
	o.change(func() { o.progress[p.GetTag()] = p })
}

// granted is the credit that the host has, or will have when all is sent.
func (o *outbox) granted() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.credit
}

type sender interface {
	Send(*wire.PluginFrame) error
}

// run sends what comes until close, or until it cannot.
func (o *outbox) run(to sender) error {
	timer := time.NewTimer(progressEvery)
	defer timer.Stop()
	for {
		frames, wait, closed := o.take(time.Now())
		for _, f := range frames {
			if err := to.Send(f); err != nil {
				return err
			}
		}
		if closed {
			return nil
		}
		var due <-chan time.Time
		if wait > 0 {
			timer.Reset(wait)
			due = timer.C
		}
		select {
		case <-o.wake:
		case <-due:
		}
	}
}

// take empties the outbox into frames. Progress that is not due yet stays, and
// wait says for how long. The last progress of a message goes before its outcome.
func (o *outbox) take(now time.Time) (frames []*wire.PluginFrame, wait time.Duration, closed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.greet {
		o.greet = false
		frames = append(frames, &wire.PluginFrame{Kind: &wire.PluginFrame_Ready{Ready: &wire.Ready{}}, Credit: o.credit})
	}
	if o.answer != nil {
		frames = append(frames, &wire.PluginFrame{Kind: &wire.PluginFrame_Pong{Pong: o.answer}})
		o.answer = nil
	}
	if items := o.takeProgress(now); len(items) > 0 {
		batch := &wire.ProgressBatch{Items: items}
		frames = append(frames, &wire.PluginFrame{Kind: &wire.PluginFrame_Progress{Progress: batch}})
	}
	for rest := o.outcomes; len(rest) > 0; {
		n := min(len(rest), maxOutcomes)
		batch := &wire.OutcomeBatch{Outcomes: rest[:n:n]}
		rest = rest[n:]
		// These places are free now; those of the rest are told with it.
		credit := o.credit - uint64(len(rest))
		frames = append(frames, &wire.PluginFrame{Kind: &wire.PluginFrame_Outcomes{Outcomes: batch}, Credit: credit})
	}
	o.outcomes = nil
	if o.emptied {
		o.emptied = false
		frames = append(frames, &wire.PluginFrame{Kind: &wire.PluginFrame_Drained{Drained: &wire.Drained{}}})
	}
	if o.farewell != nil {
		frames = append(frames, &wire.PluginFrame{Kind: &wire.PluginFrame_Goodbye{Goodbye: o.farewell}})
		o.farewell = nil
	}
	if len(o.progress) > 0 {
		wait = o.reported.Add(progressEvery).Sub(now)
	}
	return frames, wait, o.closed
}

// takeProgress returns what is due: everything once in progressEvery, and always
// that of messages which have ended.
func (o *outbox) takeProgress(now time.Time) []*wire.Progress {
	var items []*wire.Progress
	for _, outcome := range o.outcomes {
		if p := o.progress[outcome.GetTag()]; p != nil {
			items = append(items, p)
			delete(o.progress, outcome.GetTag())
		}
	}
	if len(o.progress) == 0 || now.Sub(o.reported) < progressEvery {
		return items
	}
	for _, p := range o.progress {
		items = append(items, p)
	}
	clear(o.progress)
	o.reported = now
	return items
}
