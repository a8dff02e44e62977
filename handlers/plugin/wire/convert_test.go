package wire

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	"usher/handlers"
)

// overTheWire marshals and unmarshals, as gRPC does.
func overTheWire[M proto.Message](t interface{ Fatalf(string, ...any) }, in, out M) M {
	data, err := proto.Marshal(in)
	if err != nil {
		t.Fatalf("marshal %T: %v", in, err)
	}
	if err := proto.Unmarshal(data, out); err != nil {
		t.Fatalf("unmarshal %T: %v", in, err)
	}
	return out
}

var (
	words     = rapid.String()
	octets    = rapid.SliceOfN(rapid.Byte(), 1, 64)
	durations = rapid.Custom(func(t *rapid.T) time.Duration { return time.Duration(rapid.Int64().Draw(t, "ns")) })
	headerMap = rapid.MapOfN(words, words, 1, 4)
)

func TestMessagesCrossWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := &handlers.Message{
			ID:             words.Draw(t, "id"),
			Type:           words.Draw(t, "type"),
			Priority:       rapid.IntRange(0, 9).Draw(t, "priority"),
			Attempt:        rapid.IntRange(1, 1<<31-1).Draw(t, "attempt"),
			IdempotencyKey: words.Draw(t, "key"),
			Headers:        headerMap.Draw(t, "headers"),
			ContentType:    words.Draw(t, "content type"),
			Body:           octets.Draw(t, "body"),
		}
		attempt := Attempt{Tag: rapid.Uint64().Draw(t, "tag"), Limited: rapid.Bool().Draw(t, "limited")}
		if attempt.Limited {
			attempt.Budget = durations.Draw(t, "budget")
		}
		got, gotAttempt := ToMessage(overTheWire(t, FromMessage(want, attempt), &Message{}))
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
		if gotAttempt != attempt {
			t.Fatalf("attempt: got %+v, want %+v", gotAttempt, attempt)
		}
	})
}

func TestOutcomesCrossWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawOutcome(t)
		var followOns []handlers.FollowOn
		if want.Kind == handlers.Done {
			followOns = rapid.SliceOfN(rapid.Custom(drawFollowOn), 1, 3).Draw(t, "follow-ons")
		}
		tag, busy := rapid.Uint64().Draw(t, "tag"), durations.Draw(t, "busy")

		frame := overTheWire(t, FromOutcome(tag, want, followOns, busy), &Outcome{})
		if frame.GetTag() != tag || frame.GetBusy().AsDuration() != busy {
			t.Fatalf("tag %d, busy %v; want %d, %v", frame.GetTag(), frame.GetBusy().AsDuration(), tag, busy)
		}
		got, gotFollowOns := ToOutcome(frame)
		if got.Kind != want.Kind || got.After != want.After || got.Code != want.Code || wordsOf(got.Err) != wordsOf(want.Err) {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
		if !reflect.DeepEqual(gotFollowOns, followOns) {
			t.Fatalf("follow-ons: got %+v\nwant %+v", gotFollowOns, followOns)
		}
		// And what the host makes of it is the answer that the handler gave.
		again := handlers.OutcomeOf(handlers.ErrorOf(got))
		if again.Kind != want.Kind || again.After != want.After || again.Code != want.Code || wordsOf(again.Err) != wordsOf(want.Err) {
			t.Fatalf("as an error: got %+v\nwant %+v", again, want)
		}
	})
}

// drawOutcome draws what OutcomeOf can return.
func drawOutcome(t *rapid.T) handlers.Outcome {
	cause := errors.New(rapid.StringN(1, 200, MaxDetailBytes).Draw(t, "cause"))
	switch kind := rapid.SampledFrom([]handlers.Kind{
		handlers.Done, handlers.Retry, handlers.Deferred, handlers.Rejected, handlers.Dropped,
	}).Draw(t, "kind"); kind {
	case handlers.Retry:
		return handlers.Outcome{
			Kind: kind, Err: cause, After: max(durations.Draw(t, "after"), 0),
			Code: rapid.SampledFrom([]string{"", handlers.CodePanic, handlers.CodeTimeout}).Draw(t, "code"),
		}
	case handlers.Deferred:
		return handlers.Outcome{Kind: kind, After: max(durations.Draw(t, "after"), handlers.MinDefer)}
	case handlers.Rejected:
		return handlers.Outcome{Kind: kind, Err: cause, Code: rapid.StringMatching(`[a-z0-9_.-]{1,64}`).Draw(t, "code")}
	case handlers.Done, handlers.Dropped:
		return handlers.Outcome{Kind: kind}
	default:
		panic(kind)
	}
}

func drawFollowOn(t *rapid.T) handlers.FollowOn {
	f := handlers.FollowOn{
		Type:        words.Draw(t, "type"),
		Body:        octets.Draw(t, "body"),
		ContentType: words.Draw(t, "content type"),
		Headers:     headerMap.Draw(t, "headers"),
		Delay:       durations.Draw(t, "delay"),
		Key:         string(octets.Draw(t, "key")), // any bytes, for example a digest
	}
	if rapid.Bool().Draw(t, "has priority") {
		p := rapid.IntRange(0, 9).Draw(t, "priority")
		f.Priority = &p
	}
	return f
}

func wordsOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestProgressCrossesWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := handlers.Progress{Ratio: rapid.Float64().Draw(t, "ratio"), Note: words.Draw(t, "note")}
		tag := rapid.Uint64().Draw(t, "tag")
		frame := overTheWire(t, FromProgress(tag, want), &Progress{})
		if got := ToProgress(frame); got != want || frame.GetTag() != tag {
			t.Fatalf("got %+v of tag %d, want %+v of %d", got, frame.GetTag(), want, tag)
		}
	})
}

// A field that the conversion forgets is lost in silence, so every field of the
// converted messages must be set when everything that goes in is.
func TestConversionForgetsNoField(t *testing.T) {
	priority := 7
	full := []proto.Message{
		FromMessage(&handlers.Message{
			ID: "i", Type: "t", Priority: 1, Attempt: 2, IdempotencyKey: "k",
			Headers: map[string]string{"a": "b"}, ContentType: "c", Body: []byte("d"),
		}, Attempt{Tag: 1, Budget: time.Second, Limited: true}),
		FromFollowOn(handlers.FollowOn{
			Type: "t", Body: []byte("b"), ContentType: "c", Headers: map[string]string{"a": "b"},
			Priority: &priority, Delay: time.Second, Key: "k",
		}),
		FromProgress(1, handlers.Progress{Ratio: 0.5, Note: "n"}),
	}
	for _, m := range full {
		requireFields(t, m)
	}
	requireFields(t, FromOutcome(1, handlers.Outcome{
		Kind: handlers.Retry, After: time.Second, Code: handlers.CodePanic, Err: errors.New("e"),
	}, nil, time.Second), "follow_ons")
	requireFields(t, FromOutcome(1, handlers.Outcome{Kind: handlers.Done}, []handlers.FollowOn{{Type: "t"}}, time.Second),
		"after", "code", "detail")
}

func requireFields(t *testing.T, m proto.Message, except ...protoreflect.Name) {
	t.Helper()
	fields := m.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		unset := false
		for _, name := range except {
			unset = unset || name == fields.Get(i).Name()
		}
		if has := m.ProtoReflect().Has(fields.Get(i)); has == unset {
			t.Errorf("%s: set is %v, want %v", fields.Get(i).FullName(), has, !unset)
		}
	}
}

func TestToOutcomeTrustsNothing(t *testing.T) {
	tests := []struct {
		name string
		in   *Outcome
		want handlers.Outcome
	}{
		{"an empty outcome", &Outcome{}, handlers.Outcome{Kind: handlers.Retry, Err: errors.New("the plugin gave no cause")}},
		{"a verdict of the future", &Outcome{Verdict: 99, Detail: "d"}, handlers.Outcome{Kind: handlers.Retry, Err: errors.New("d")}},
		{
			"a code of a retry that nobody knows", &Outcome{Verdict: Verdict_VERDICT_RETRY, Code: "x", Detail: "d"},
			handlers.Outcome{Kind: handlers.Retry, Err: errors.New("d")},
		},
		{
			"a rejection without words", &Outcome{Verdict: Verdict_VERDICT_REJECT, Code: "c"},
			handlers.Outcome{Kind: handlers.Rejected, Code: "c", Err: errors.New("the plugin rejected the message and gave no cause")},
		},
		{"a deferral without a time", &Outcome{Verdict: Verdict_VERDICT_DEFER}, handlers.Outcome{Kind: handlers.Deferred, After: handlers.MinDefer}},
		{"words with a success", &Outcome{Verdict: Verdict_VERDICT_DONE, Detail: "d", Code: "c"}, handlers.Outcome{Kind: handlers.Done}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, followOns := ToOutcome(test.in)
			if got.Kind != test.want.Kind || got.After != test.want.After || got.Code != test.want.Code || wordsOf(got.Err) != wordsOf(test.want.Err) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
			if followOns != nil {
				t.Errorf("follow-ons from nowhere: %v", followOns)
			}
		})
	}
}

func TestFollowOnsOfOtherVerdictsAreIgnored(t *testing.T) {
	one := []*FollowOn{{Type: "t"}}
	for v := range Verdict_name {
		_, followOns := ToOutcome(&Outcome{Verdict: Verdict(v), FollowOns: one})
		if done := Verdict(v) == Verdict_VERDICT_DONE; done != (len(followOns) == 1) {
			t.Errorf("%v came with %d follow-ons", Verdict(v), len(followOns))
		}
	}
}

// One string that is not UTF-8 would end the stream with every message on it.
func TestBrokenTextDoesNotEndTheStream(t *testing.T) {
	const bad = "a\xff\xfeb"
	m := FromMessage(&handlers.Message{
		ID: bad, Type: bad, IdempotencyKey: bad, ContentType: bad,
		Headers: map[string]string{bad: bad, "k": bad}, Body: []byte(bad),
	}, Attempt{})
	got, _ := ToMessage(overTheWire(t, m, &Message{}))
	if got.Headers["k"] != "a\uFFFDb" || string(got.Body) != bad {
		t.Errorf("header %q, body %q", got.Headers["k"], got.Body)
	}
	o := FromOutcome(1, handlers.Outcome{Kind: handlers.Rejected, Code: bad, Err: errors.New(bad)}, nil, 0)
	overTheWire(t, o, &Outcome{})
	f := FromFollowOn(handlers.FollowOn{Type: bad, ContentType: bad, Headers: map[string]string{bad: bad}, Key: bad})
	if got := ToFollowOn(overTheWire(t, f, &FollowOn{})); got.Key != bad {
		t.Errorf("the key became %q; two keys could become one", got.Key)
	}
	overTheWire(t, FromProgress(1, handlers.Progress{Note: bad}), &Progress{})
}

func TestDetailIsCutBetweenCharacters(t *testing.T) {
	o := FromOutcome(1, handlers.Outcome{Kind: handlers.Retry, Err: errors.New(strings.Repeat("é€", 2000))}, nil, 0)
	if n := len(o.GetDetail()); n > MaxDetailBytes || n < MaxDetailBytes-3 || !utf8.ValidString(o.GetDetail()) {
		t.Errorf("%d bytes, valid: %v", n, utf8.ValidString(o.GetDetail()))
	}
	long := &Outcome{Verdict: Verdict_VERDICT_RETRY, Detail: strings.Repeat("x", 3*MaxDetailBytes)}
	if got, _ := ToOutcome(long); len(got.Err.Error()) != MaxDetailBytes {
		t.Errorf("a longer detail arrived with %d bytes", len(got.Err.Error()))
	}
}

func TestNumbersStayInRange(t *testing.T) {
	m := FromMessage(&handlers.Message{Priority: -1, Attempt: -5}, Attempt{})
	if m.GetPriority() != 0 || m.GetAttempt() != 0 {
		t.Errorf("negative numbers became %d and %d", m.GetPriority(), m.GetAttempt())
	}
	got, _ := ToMessage(&Message{Attempt: 1<<32 - 1})
	if got.Attempt != 1<<31-1 {
		t.Errorf("attempt is %d", got.Attempt)
	}
}

func TestAttemptUntilTakesTheTimeLeft(t *testing.T) {
	if a := AttemptUntil(context.Background(), 3); a != (Attempt{Tag: 3}) {
		t.Errorf("without a deadline: %+v", a)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	if a := AttemptUntil(ctx, 3); !a.Limited || a.Tag != 3 || a.Budget > time.Hour || a.Budget < time.Hour-time.Minute {
		t.Errorf("with an hour: %+v", a)
	}
}
