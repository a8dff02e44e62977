package stomp

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine"
)

// nudgesKept is how many nudges wait to be taken; beyond, the oldest are lost.
const nudgesKept = 256

// nudges are what other engines tell. The readers of sessions put them in, one at a time.
type nudges struct {
	waiting        chan engine.Nudge
	came           atomic.Uint64
	junk, overflow atomic.Uint64
}

// NudgeCounts are how many nudges came, how many of them could not be read, and how
// many were lost because nobody took them in time.
type NudgeCounts struct{ Came, Junk, Lost uint64 }

func newNudges() *nudges { return &nudges{waiting: make(chan engine.Nudge, nudgesKept)} }

// hear takes one from the reader and never waits.
func (n *nudges) hear(text []byte) {
	n.came.Add(1)
	nudge, err := engine.ParseNudge(text)
	if err != nil {
		n.junk.Add(1)
		return
	}
	for {
		select {
		case n.waiting <- nudge:
			return
		default:
		}
		select {
		case <-n.waiting:
			n.overflow.Add(1)
		default:
		}
	}
}

// Tell sends a nudge to all engines that listen now, this one included, and waits for
// the broker's receipt; see [engine.Control]. It is not persistent.
func (b *Broker) Tell(ctx context.Context, n engine.Nudge) error {
	text := n.Marshal()
	err := b.pool.request(ctx, func() *frame.Frame {
		f := frame.New(frame.SEND, frame.Destination, controlTopic, engine.HeaderType, engine.TypeNudge, frame.ContentLength, strconv.Itoa(len(text)))
		f.Body = text
		return f
	})
	if err != nil {
		return fmt.Errorf("stomp: tell the other engines: %w", err)
	}
	return nil
}

// Nudges gives what others tell while a session stands; see [engine.Control]. It
// needs Config.Probe.
func (b *Broker) Nudges() <-chan engine.Nudge { return b.nudges.waiting }

// NudgeCounts counts since the Broker was made.
func (b *Broker) NudgeCounts() NudgeCounts {
	return NudgeCounts{b.nudges.came.Load(), b.nudges.junk.Load(), b.nudges.overflow.Load()}
}
