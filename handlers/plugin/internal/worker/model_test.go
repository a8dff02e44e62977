package worker

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	"usher/handlers"
	"usher/handlers/plugin/wire"
)

// Whatever a host sends, right or wrong: each message that was accepted is
// answered exactly once, credit is what was answered and the places together, and
// Drained comes after the last answer or not at all.
func TestEveryAcceptedMessageIsAnsweredOnce(t *testing.T) {
	h := byType(map[string]handlers.HandlerFunc{
		"done":  done,
		"panic": func(context.Context, *handlers.Message) error { panic("boom") },
		"wait": func(ctx context.Context, m *handlers.Message) error {
			m.Progress(0.5, "")
			<-ctx.Done()
			return ctx.Err()
		},
	})
	rapid.Check(t, func(t *rapid.T) {
		places := rapid.Uint32Range(1, 4).Draw(t, "places")
		ctx, cancel := context.WithCancelCause(t.Context())
		s := &session{
			worker: New(h, &wire.Description{Concurrency: places}), ctx: ctx,
			out: newOutbox(uint64(places)), running: map[uint64]context.CancelCauseFunc{},
		}
		s.greeted = true
		for _, frame := range rapid.SliceOfN(rapid.Custom(drawFrame), 1, 20).Draw(t, "frames") {
			if s.take(frame) != nil {
				break
			}
		}
		cancel(errors.New("over"))
		s.messages.Wait()

		frames, _, _ := s.out.take(s.out.reported.Add(progressEvery))
		answers := uint64(0)
		for _, f := range frames {
			answers += uint64(len(f.GetOutcomes().GetOutcomes()))
			if f.GetDrained() != nil && answers != uint64(len(outcomes(frames))) {
				t.Fatalf("drained after %d of %d answers", answers, len(outcomes(frames)))
			}
		}
		if answers != s.accepted {
			t.Fatalf("%d answers to %d messages", answers, s.accepted)
		}
		if s.out.granted() != uint64(places)+answers {
			t.Fatalf("a credit of %d with %d places and %d answers", s.out.granted(), places, answers)
		}
		if len(s.running) != 0 || len(s.worker.places) != 0 {
			t.Fatalf("%d tags and %d places are left", len(s.running), len(s.worker.places))
		}
	})
}

func outcomes(frames []*wire.PluginFrame) []*wire.Outcome {
	var all []*wire.Outcome
	for _, f := range frames {
		all = append(all, f.GetOutcomes().GetOutcomes()...)
	}
	return all
}

func drawFrame(t *rapid.T) *wire.HostFrame {
	tag := rapid.Uint64Range(1, 6)
	switch rapid.IntRange(0, 9).Draw(t, "frame") {
	case 0, 1, 2, 3, 4:
		m := &wire.Message{Tag: tag.Draw(t, "tag"), Type: rapid.SampledFrom([]string{"done", "panic", "wait", "?"}).Draw(t, "type")}
		if rapid.Bool().Draw(t, "limited") {
			m.Budget = durationpb.New(0)
		}
		return &wire.HostFrame{Kind: &wire.HostFrame_Messages{Messages: &wire.MessageBatch{Messages: []*wire.Message{m}}}}
	case 5:
		return &wire.HostFrame{Kind: &wire.HostFrame_Cancel{Cancel: &wire.Cancel{Tags: []uint64{tag.Draw(t, "tag")}}}}
	case 6:
		return &wire.HostFrame{Kind: &wire.HostFrame_Drain{Drain: &wire.Drain{}}}
	case 7:
		return &wire.HostFrame{Kind: &wire.HostFrame_Ping{Ping: &wire.Ping{}}}
	default:
		return &wire.HostFrame{}
	}
}
