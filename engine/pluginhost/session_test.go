package pluginhost

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/handlers"
	"usher/handlers/plugin/wire"
)

// pipe is a stream whose other end is the test.
type pipe struct {
	ctx  context.Context
	host chan *wire.HostFrame   // what the session sends
	back chan *wire.PluginFrame // what it receives
}

func (p *pipe) Send(f *wire.HostFrame) error {
	select {
	case p.host <- f:
		return nil
	case <-p.ctx.Done():
		return io.EOF
	}
}

func (p *pipe) Recv() (*wire.PluginFrame, error) {
	select {
	case f := <-p.back:
		return f, nil
	case <-p.ctx.Done():
		return nil, errors.New("the connection is gone")
	}
}

// peer is a session whose plugin is the test.
type peer struct {
	*session
	*pipe
	t      *testing.T
	log    bytes.Buffer
	killed chan error // what kill was called with
	hangUp context.CancelFunc
	done   chan struct{}
}

// begin makes a session in a bubble, that has the credit.
func begin(t *testing.T, credit uint64) *peer {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &peer{
		pipe: &pipe{ctx: ctx, host: make(chan *wire.HostFrame), back: make(chan *wire.PluginFrame)},
		t:    t, killed: make(chan error, 8), hangUp: cancel, done: make(chan struct{}),
	}
	p.session = newSession("test", 2*time.Second, zerolog.New(&p.log), func(err error) { p.killed <- err }, func() {})
	go func() {
		defer close(p.done)
		p.run(p.pipe, cancel)
	}()
	t.Cleanup(func() {
		if p.lost == nil {
			p.die("the test is over")
		}
	})
	p.back <- &wire.PluginFrame{Kind: &wire.PluginFrame_Ready{Ready: &wire.Ready{}}, Credit: credit}
	<-p.greeted
	return p
}

// start runs a message and returns where its answer comes.
func (p *peer) start(ctx context.Context, m *handlers.Message) <-chan error {
	answer := make(chan error, 1)
	go func() { answer <- p.handle(ctx, m) }()
	synctest.Wait()
	return answer
}

// tags takes the next frame, which has messages.
func (p *peer) tags() []uint64 {
	p.t.Helper()
	var tags []uint64
	f := <-p.host
	for _, m := range f.GetMessages().GetMessages() {
		tags = append(tags, m.GetTag())
	}
	if tags == nil {
		p.t.Fatalf("no messages, but %v", f)
	}
	return tags
}

// silent checks that the session sends nothing.
func (p *peer) silent() {
	p.t.Helper()
	synctest.Wait()
	select {
	case f := <-p.host:
		p.t.Errorf("it sent %v", f)
	default:
	}
}

// answer sends outcomes, with a credit.
func (p *peer) answer(credit uint64, outcomes ...*wire.Outcome) {
	p.back <- &wire.PluginFrame{Kind: &wire.PluginFrame_Outcomes{Outcomes: &wire.OutcomeBatch{Outcomes: outcomes}}, Credit: credit}
}

func done(tag uint64) *wire.Outcome {
	return &wire.Outcome{Tag: tag, Verdict: wire.Verdict_VERDICT_DONE}
}

// die ends the process.
func (p *peer) die(why string) {
	p.hangUp()
	<-p.done
	p.end(errors.New(why))
}

func TestMessagesWaitForCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t, 2)
		first, second := p.start(t.Context(), &handlers.Message{}), p.start(t.Context(), &handlers.Message{})
		third := p.start(t.Context(), &handlers.Message{})
		tags := p.tags()
		if len(tags) == 1 {
			tags = append(tags, p.tags()...)
		}
		if !slices.Equal(tags, []uint64{1, 2}) || p.inHand() != 3 || p.level.Load() != 2 {
			t.Errorf("tags %v, %d in hand, level %d", tags, p.inHand(), p.level.Load())
		}
		p.silent()
		p.answer(0, done(1))
		if err := errors.Join(<-first); err != nil {
			t.Error(err)
		}
		p.silent() // an outcome alone is no credit
		if p.level.Load() != 1 {
			t.Errorf("level %d", p.level.Load())
		}
		p.answer(1, done(2)) // a credit never goes down
		p.silent()
		p.answer(5)
		if tags := p.tags(); !slices.Equal(tags, []uint64{3}) || p.level.Load() != 3 {
			t.Errorf("tags %v, level %d", tags, p.level.Load())
		}
		p.answer(1<<63, done(3))
		if err := errors.Join(<-second, <-third); err != nil {
			t.Error(err)
		}
		if p.level.Load() != 1<<31-1 {
			t.Errorf("level %d", p.level.Load())
		}
	})
}

// Once it was ready, and had no credit for a moment.
func TestReadyIsToldWithItsCredit(t *testing.T) {
	for range 100 {
		synctest.Test(t, func(t *testing.T) {
			if level := begin(t, 2).level.Load(); level != 2 {
				t.Errorf("level %d", level)
			}
		})
	}
}

func TestMessageThatWasNotSentIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t, 1)
		_ = p.start(t.Context(), &handlers.Message{})
		p.tags()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := <-p.start(ctx, &handlers.Message{}); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, engine.ErrPluginLost) {
			t.Errorf("got %v", err)
		}
		p.answer(5, done(1))
		p.silent()
		if p.inHand() != 0 || len(p.killed) != 0 {
			t.Errorf("%d in hand, %d times killed", p.inHand(), len(p.killed))
		}
	})
}

func TestFramesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t, 100)
		_ = p.start(t.Context(), &handlers.Message{}) // holds the sender
		for range 2*maxBatch + 1 {
			_ = p.start(t.Context(), &handlers.Message{})
		}
		for _, want := range []int{1, maxBatch, maxBatch, 1} {
			if n := len(p.tags()); n != want {
				t.Errorf("a frame has %d messages, not %d", n, want)
			}
		}
		synctest.Wait()
		_ = p.start(t.Context(), &handlers.Message{})
		for range 3 {
			_ = p.start(t.Context(), &handlers.Message{Body: make([]byte, maxBatchBytes/2)})
		}
		for _, want := range []int{1, 2, 1} {
			if n := len(p.tags()); n != want {
				t.Errorf("a frame has %d large messages, not %d", n, want)
			}
		}
		err := p.handle(t.Context(), &handlers.Message{Body: make([]byte, maxBody+1)})
		if o := handlers.OutcomeOf(err); o.Kind != handlers.Rejected || o.Code != engine.ReasonTooLarge {
			t.Errorf("too large: %v", err)
		}
	})
}

func TestThreePingsWithoutAnAnswerKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t, 1)
		for range 10 { // a plugin that answers is left alone
			nonce := (<-p.host).GetPing().GetNonce()
			p.back <- &wire.PluginFrame{Kind: &wire.PluginFrame_Pong{Pong: &wire.Pong{Nonce: nonce}}}
		}
		synctest.Wait()
		silence := time.Now()
		for range maxUnanswered {
			<-p.host
		}
		err := <-p.killed
		if took := time.Since(silence); took != 4*pingEvery || !strings.Contains(err.Error(), "it did not answer 3 pings") {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

// A process that is stopped takes no bytes: what kills it must not wait for Send.
func TestPluginThatReadsNothingIsKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t, 2)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		answer := p.start(ctx, &handlers.Message{ID: "7"})
		err := <-p.killed
		if took := time.Since(began); took != 3*time.Second || !strings.Contains(err.Error(), `the message "7" did not end within 2s after it was cancelled`) {
			t.Errorf("killed after %v: %v", took, err)
		}
		p.silentUntil(answer)
		p.die("signal: killed")
		if err := <-answer; !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, engine.ErrPluginLost) {
			t.Errorf("got %v", err)
		}
	})
}

// silentUntil checks that a message has no answer while its process lives.
func (p *peer) silentUntil(answer <-chan error) {
	p.t.Helper()
	synctest.Wait()
	select {
	case err := <-answer:
		p.t.Errorf("it was answered before its process ended: %v", err)
	default:
	}
}

func TestCancelSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t, 2)
		ctx, cancel := context.WithCancelCause(t.Context())
		stopped := p.start(ctx, &handlers.Message{})
		p.tags()
		cancel(engine.ErrStopping)
		if c := (<-p.host).GetCancel(); !slices.Equal(c.GetTags(), []uint64{1}) || c.GetReason() != wire.CancelReason_CANCEL_REASON_STOPPING {
			t.Errorf("cancelled with %v", c)
		}
		timed, cancelTimed := context.WithTimeoutCause(t.Context(), time.Second, errors.New("slow"))
		defer cancelTimed()
		late := p.start(timed, &handlers.Message{})
		p.tags()
		if c := (<-p.host).GetCancel(); !slices.Equal(c.GetTags(), []uint64{2}) || c.GetReason() != wire.CancelReason_CANCEL_REASON_DEADLINE {
			t.Errorf("cancelled with %v", c)
		}
		p.die("exit status 2")
		if err := <-stopped; !errors.Is(err, engine.ErrStopping) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, engine.ErrPluginLost) {
			t.Errorf("stopped: %v", err)
		}
		if err := <-late; !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, engine.ErrPluginLost) || !strings.Contains(err.Error(), "slow") {
			t.Errorf("late: %v", err)
		}
	})
}

func TestStrangeOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t, 3)
		first := p.start(t.Context(), &handlers.Message{})
		p.tags()
		p.answer(9, done(7), &wire.Outcome{Tag: 1, Verdict: 99, Detail: "from the future"}, done(1), done(8))
		if o := handlers.OutcomeOf(<-first); o.Kind != handlers.Retry || o.Err.Error() != "from the future" {
			t.Errorf("an unknown verdict is %+v", o)
		}
		second := p.start(t.Context(), &handlers.Message{})
		p.tags()
		p.answer(0, &wire.Outcome{Tag: 2, Verdict: wire.Verdict_VERDICT_DONE, FollowOns: []*wire.FollowOn{{Type: ""}}})
		if o := handlers.OutcomeOf(<-second); o.Kind != handlers.Rejected || o.Code != engine.ReasonBadFollowOn {
			t.Errorf("a bad follow-on is %+v", o)
		}
		p.back <- &wire.PluginFrame{} // of a newer plugin
		if p.level.Load() != 7 || strings.Count(p.log.String(), "\n") != 1 || !strings.Contains(p.log.String(), `"tag":7`) {
			t.Errorf("level %d, logged\n%s", p.level.Load(), &p.log)
		}
	})
}

func TestGoodbyeIsAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t, 2)
		first := p.start(t.Context(), &handlers.Message{})
		p.tags()
		second := p.start(t.Context(), &handlers.Message{})
		p.tags()
		p.answer(0, done(1))
		p.back <- &wire.PluginFrame{Kind: &wire.PluginFrame_Goodbye{Goodbye: &wire.Goodbye{Code: "quota", Detail: "come\nback later"}}}
		<-p.broken
		if err := p.broke(); err == nil || err.Error() != "it said goodbye: quota: come back later" {
			t.Errorf("it broke with %v", err)
		}
		if err := p.handle(t.Context(), &handlers.Message{}); !errors.Is(err, engine.ErrPluginLost) {
			t.Errorf("a new message: %v", err)
		}
		p.silentUntil(second)
		p.die("exit status 1")
		if err := <-first; err != nil {
			t.Errorf("answered before goodbye: %v", err)
		}
		if err := <-second; !errors.Is(err, engine.ErrPluginLost) || !strings.Contains(err.Error(), "plugin test: ") || !strings.Contains(err.Error(), "exit status 1") {
			t.Errorf("the other: %v", err)
		}
		if p.level.Load() != 0 {
			t.Errorf("level %d", p.level.Load())
		}
	})
}

// An outcome that came counts, although the process has ended since.
func TestOutcomeBeatsTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t, 1)
		c := &call{message: &handlers.Message{}, outcome: make(chan *wire.Outcome, 1)}
		c.outcome <- done(1)
		p.die("exit status 1")
		if err := p.answerOr(c, p.lost); err != nil {
			t.Error(err)
		}
	})
}

func TestStopGivesBackWhatWasNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t, 1)
		sent := p.start(t.Context(), &handlers.Message{})
		p.tags()
		unsent := p.start(t.Context(), &handlers.Message{})
		stopped := make(chan struct{})
		began := time.Now()
		go func() { defer close(stopped); p.stop(time.Minute) }()
		if f := <-p.host; f.GetDrain() == nil {
			t.Errorf("sent %v", f)
		}
		if err := <-unsent; !errors.Is(err, engine.ErrPluginLost) {
			t.Errorf("unsent: %v", err)
		}
		p.silentUntil(sent)
		<-time.After(4 * time.Second)
		p.answer(2, done(1))
		<-stopped
		if err := <-sent; err != nil || time.Since(began) != 4*time.Second {
			t.Errorf("sent: %v, after %v", err, time.Since(began))
		}
		p.silent()
	})
}

func TestStopCancelsAndThenGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t, 1)
		_ = p.start(t.Context(), &handlers.Message{})
		p.tags()
		stopped := make(chan struct{})
		go func() { defer close(stopped); p.stop(3 * time.Second) }()
		began := time.Now()
		if f := <-p.host; f.GetDrain() == nil {
			t.Errorf("sent %v", f)
		}
		c := (<-p.host).GetCancel()
		if c.GetReason() != wire.CancelReason_CANCEL_REASON_STOPPING || time.Since(began) != 3*time.Second {
			t.Errorf("cancelled with %v after %v", c, time.Since(began))
		}
		<-stopped
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("gave up after %v", took)
		}
		p.die("signal: killed")
	})
}

func TestProgressIsReportedToItsMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t, 1)
		var got []handlers.Progress
		answer := make(chan error, 1)
		go func() {
			_, err := handlers.Run(t.Context(), handlers.HandlerFunc(p.handle), &handlers.Message{}, func(p handlers.Progress) { got = append(got, p) })
			answer <- err
		}()
		p.tags()
		p.back <- &wire.PluginFrame{Kind: &wire.PluginFrame_Progress{Progress: &wire.ProgressBatch{Items: []*wire.Progress{
			{Tag: 7, Ratio: 1}, {Tag: 1, Ratio: 0.25, Note: "packing"},
		}}}}
		p.answer(0, done(1))
		if err := <-answer; err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, []handlers.Progress{{Ratio: 0.25, Note: "packing"}}) {
			t.Errorf("reported %+v", got)
		}
	})
}
