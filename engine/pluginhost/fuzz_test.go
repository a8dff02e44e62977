package pluginhost

import (
	"context"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"

	"usher/handlers"
	"usher/handlers/plugin/wire"
)

// script is a stream whose plugin says what it says, whatever it is told.
type script struct {
	frames []*wire.PluginFrame
}

func (s *script) Send(*wire.HostFrame) error { return nil }

func (s *script) Recv() (*wire.PluginFrame, error) {
	if len(s.frames) == 0 {
		return nil, io.EOF
	}
	f := s.frames[0]
	s.frames = s.frames[1:]
	return f, nil
}

// Whatever a plugin says, and however wrong: its session ends when it does, and its
// messages have one answer each.
func FuzzPluginFrames(f *testing.F) {
	add := func(frames ...*wire.PluginFrame) {
		var text []byte
		for _, frame := range frames {
			one, err := proto.Marshal(frame)
			if err != nil {
				f.Fatal(err)
			}
			text = append(append(text, byte(len(one))), one...)
		}
		f.Add(text)
	}
	ready := &wire.PluginFrame{Kind: &wire.PluginFrame_Ready{Ready: &wire.Ready{}}, Credit: 4}
	outcome := func(o *wire.Outcome) *wire.PluginFrame {
		return &wire.PluginFrame{Kind: &wire.PluginFrame_Outcomes{Outcomes: &wire.OutcomeBatch{Outcomes: []*wire.Outcome{o}}}, Credit: 1 << 40}
	}
	add(ready, outcome(done(1)), outcome(&wire.Outcome{Tag: 2, Verdict: wire.Verdict(99), Detail: "\x00\n"}))
	add(ready, &wire.PluginFrame{Kind: &wire.PluginFrame_Goodbye{Goodbye: &wire.Goodbye{}}})
	add(outcome(done(1)), ready, &wire.PluginFrame{Credit: 0}, &wire.PluginFrame{Kind: &wire.PluginFrame_Pong{Pong: &wire.Pong{Nonce: 7}}})
	add(&wire.PluginFrame{Kind: &wire.PluginFrame_Drained{Drained: &wire.Drained{}}}, &wire.PluginFrame{Kind: &wire.PluginFrame_Progress{Progress: &wire.ProgressBatch{}}})
	f.Fuzz(func(t *testing.T, text []byte) {
		s := &script{}
		for len(text) > 0 {
			n := min(int(text[0]), len(text)-1)
			frame := &wire.PluginFrame{}
			if err := proto.Unmarshal(text[1:1+n], frame); err == nil {
				s.frames = append(s.frames, frame)
			}
			text = text[1+n:]
		}
		se := newSession("test", time.Second, zerolog.Nop(), func(error) {}, func() {})
		var answers sync.WaitGroup
		for range 2 {
			answers.Go(func() {
				err := se.handle(t.Context(), &handlers.Message{ID: "m", Type: "t", Attempt: 1})
				if o := handlers.OutcomeOf(err); err != nil && o.Kind == handlers.Done {
					t.Errorf("done, and the error %v", err)
				}
			})
		}
		_, cancel := context.WithCancel(t.Context())
		se.run(s, cancel)
		se.end(io.EOF)
		ended := make(chan struct{})
		go func() {
			answers.Wait()
			close(ended)
		}()
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Fatal("a message has no answer, and its plugin has ended")
		}
		if credit := se.level.Load(); credit < 0 {
			t.Fatalf("the credit is %d", credit)
		}
	})
}
