package pluginhost

import (
	"fmt"
	"runtime"

	"usher/handlers"
	"usher/handlers/plugin/wire"
)

// send sends what there is to send, until the stream is broken.
func (s *session) send(to stream) {
	var batch []*call
	for {
		select {
		case <-s.wake:
		case <-s.broken:
			return
		}
		for more := true; more; {
			runtime.Gosched() // who is about to hand in a message shares the frame: a sixth faster
			var frames []*wire.HostFrame
			batch, frames, more = s.take(batch[:0])
			if len(batch) > 0 {
				frames = append([]*wire.HostFrame{messagesFrame(batch)}, frames...)
			}
			for _, frame := range frames {
				if to.Send(frame) != nil {
					return // the receiver learns why
				}
			}
			clear(batch)
		}
	}
}

// take takes messages that may be sent into batch, and the other frames that are
// to follow them. more says that there may be more.
func (s *session) take(batch []*call) (_ []*call, frames []*wire.HostFrame, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	bytes := 0
	for len(s.queue) > 0 && s.sent < s.credit && len(batch) < maxBatch && bytes < maxBatchBytes {
		c := s.queue[0]
		s.queue[0] = nil
		s.queue = s.queue[1:]
		s.sent++
		c.tag = s.sent
		s.calls[c.tag] = c
		bytes += len(c.message.Body)
		batch = append(batch, c)
	}
	more = len(batch) > 0
	if len(s.overdue) > 0 {
		frames = append(frames, cancelFrame(s.overdue, wire.CancelReason_CANCEL_REASON_DEADLINE))
		s.overdue = nil
	}
	if len(s.stopping) > 0 {
		frames = append(frames, cancelFrame(s.stopping, wire.CancelReason_CANCEL_REASON_STOPPING))
		s.stopping = nil
	}
	if s.ping {
		s.ping = false
		frames = append(frames, &wire.HostFrame{Kind: &wire.HostFrame_Ping{Ping: &wire.Ping{Nonce: s.nonce}}})
	}
	if s.drain {
		s.drain = false
		frames = append(frames, &wire.HostFrame{Kind: &wire.HostFrame_Drain{Drain: &wire.Drain{}}})
	}
	return batch, frames, more
}

func messagesFrame(batch []*call) *wire.HostFrame {
	messages := make([]*wire.Message, len(batch))
	for i, c := range batch {
		messages[i] = wire.FromMessage(c.message, wire.AttemptUntil(c.ctx, c.tag))
	}
	return &wire.HostFrame{Kind: &wire.HostFrame_Messages{Messages: &wire.MessageBatch{Messages: messages}}}
}

func cancelFrame(tags []uint64, reason wire.CancelReason) *wire.HostFrame {
	return &wire.HostFrame{Kind: &wire.HostFrame_Cancel{Cancel: &wire.Cancel{Tags: tags, Reason: reason}}}
}

// receive takes what the plugin sends until the stream ends, and returns why.
func (s *session) receive(from stream) error {
	for {
		frame, err := from.Recv()
		if err != nil {
			return fmt.Errorf("its stream ended: %w", err)
		}
		if bye, ok := frame.GetKind().(*wire.PluginFrame_Goodbye); ok {
			return fmt.Errorf("it said goodbye: %s: %s", handlers.OneLine(bye.Goodbye.GetCode(), 64), handlers.OneLine(bye.Goodbye.GetDetail(), maxKeptLine))
		}
		s.enter(frame)
		if progress, ok := frame.GetKind().(*wire.PluginFrame_Progress); ok {
			s.report(progress.Progress.GetItems())
		}
	}
}

// enter keeps the books of one frame.
func (s *session) enter(frame *wire.PluginFrame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch kind := frame.GetKind().(type) {
	case *wire.PluginFrame_Ready:
		s.ready = true
	case *wire.PluginFrame_Outcomes:
		for _, o := range kind.Outcomes.GetOutcomes() {
			s.settle(o)
		}
	case *wire.PluginFrame_Pong:
		s.unanswered = 0
	case *wire.PluginFrame_Progress, *wire.PluginFrame_Drained, *wire.PluginFrame_Goodbye:
		// Progress is reported without the lock, our own count says when all
		// is drained, and with Goodbye the stream has ended.
	default: // a frame of a newer plugin
	}
	if credit := frame.GetCredit(); credit > s.credit {
		s.credit = credit
		if len(s.queue) > 0 {
			s.stir()
		}
	}
	s.account()
}

// settle gives an outcome to its message; the lock is held.
func (s *session) settle(o *wire.Outcome) {
	c := s.calls[o.GetTag()]
	if c == nil {
		if !s.strange {
			s.strange = true
			s.log.Warn().Uint64("tag", o.GetTag()).Msg("the plugin gave an outcome for a message that waits for none; further ones are not reported")
		}
		return
	}
	delete(s.calls, c.tag)
	c.outcome <- o
}

// report tells the messages how far they are.
func (s *session) report(items []*wire.Progress) {
	for _, item := range items {
		s.mu.Lock()
		c := s.calls[item.GetTag()]
		s.mu.Unlock()
		if c != nil {
			p := wire.ToProgress(item)
			c.message.Progress(p.Ratio, p.Note)
		}
	}
}
