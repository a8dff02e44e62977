package wire

import (
	"context"
	"errors"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"

	"usher/handlers"
)

// MaxDetailBytes is the size at which FromOutcome cuts the words of an outcome.
const MaxDetailBytes = 4096

// Attempt is what the host adds to a message when it sends it.
type Attempt struct {
	// Tag is unique among the messages of the stream.
	Tag uint64
	// Budget is the time left, as of now; Limited says whether there is a limit.
	Budget  time.Duration
	Limited bool
}

// AttemptUntil is an attempt with the given tag that ends when ctx does.
func AttemptUntil(ctx context.Context, tag uint64) Attempt {
	end, limited := ctx.Deadline()
	if !limited {
		return Attempt{Tag: tag}
	}
	return Attempt{Tag: tag, Budget: time.Until(end), Limited: true}
}

// FromMessage makes the wire message of one attempt at m. The two share Body
// and must not change it.
func FromMessage(m *handlers.Message, a Attempt) *Message {
	out := &Message{
		Tag:            a.Tag,
		Id:             text(m.ID),
		Type:           text(m.Type),
		Priority:       number(m.Priority),
		Attempt:        number(m.Attempt),
		IdempotencyKey: text(m.IdempotencyKey),
		Headers:        texts(m.Headers),
		ContentType:    text(m.ContentType),
		Body:           m.Body,
	}
	if a.Limited {
		out.Budget = durationpb.New(a.Budget)
	}
	return out
}

// ToMessage takes a wire message apart. The two share Headers and Body, so the
// wire message must not be used afterwards.
func ToMessage(in *Message) (*handlers.Message, Attempt) {
	m := &handlers.Message{
		ID:             in.GetId(),
		Type:           in.GetType(),
		Priority:       whole(in.GetPriority()),
		Attempt:        whole(in.GetAttempt()),
		IdempotencyKey: in.GetIdempotencyKey(),
		Headers:        in.GetHeaders(),
		ContentType:    in.GetContentType(),
		Body:           in.GetBody(),
	}
	a := Attempt{Tag: in.GetTag(), Limited: in.GetBudget() != nil}
	if a.Limited {
		a.Budget = in.GetBudget().AsDuration()
	}
	return m, a
}

// FromOutcome makes the wire outcome of tag. followOns are left out unless the
// outcome is Done; the two share their bodies. busy is the time spent in the handler.
func FromOutcome(tag uint64, o handlers.Outcome, followOns []handlers.FollowOn, busy time.Duration) *Outcome {
	out := &Outcome{Tag: tag, Verdict: verdict(o.Kind), Code: text(o.Code), Busy: durationpb.New(busy)}
	if o.After != 0 {
		out.After = durationpb.New(o.After)
	}
	if o.Err != nil {
		out.Detail = head(text(o.Err.Error()), MaxDetailBytes)
	}
	if o.Kind == handlers.Done {
		for _, f := range followOns {
			out.FollowOns = append(out.FollowOns, FromFollowOn(f))
		}
	}
	return out
}

// ToOutcome takes a wire outcome apart. It trusts nothing: a verdict that it
// does not know is a Retry, what a verdict does not use is empty, and the code
// of a Retry is one of package handlers or empty. The follow-ons come as they are,
// for [handlers.Message.EmitFollowOn] to judge.
func ToOutcome(in *Outcome) (handlers.Outcome, []handlers.FollowOn) {
	o := handlers.Outcome{Kind: kind(in.GetVerdict())}
	switch o.Kind {
	case handlers.Done:
		var followOns []handlers.FollowOn
		for _, f := range in.GetFollowOns() {
			followOns = append(followOns, ToFollowOn(f))
		}
		return o, followOns
	case handlers.Retry:
		o.After = max(in.GetAfter().AsDuration(), 0)
		if c := in.GetCode(); c == handlers.CodePanic || c == handlers.CodeTimeout {
			o.Code = c
		}
		o.Err = cause(in, "the plugin gave no cause")
	case handlers.Deferred:
		o.After = max(in.GetAfter().AsDuration(), handlers.MinDefer)
	case handlers.Rejected:
		o.Code = in.GetCode()
		o.Err = cause(in, "the plugin rejected the message and gave no cause")
	case handlers.Dropped:
	}
	return o, nil
}

// cause is the detail of an outcome as an error; what came longer than allowed is cut.
func cause(in *Outcome, otherwise string) error {
	if in.GetDetail() == "" {
		return errors.New(otherwise)
	}
	return errors.New(head(in.GetDetail(), MaxDetailBytes))
}

// FromFollowOn makes the wire form of f; the two share Body.
func FromFollowOn(f handlers.FollowOn) *FollowOn {
	out := &FollowOn{
		Type:        text(f.Type),
		Body:        f.Body,
		ContentType: text(f.ContentType),
		Headers:     texts(f.Headers),
	}
	if f.Priority != nil {
		p := number(*f.Priority)
		out.Priority = &p
	}
	if f.Delay != 0 {
		out.Delay = durationpb.New(f.Delay)
	}
	if f.Key != "" {
		out.Key = []byte(f.Key)
	}
	return out
}

// ToFollowOn is the inverse of FromFollowOn.
func ToFollowOn(in *FollowOn) handlers.FollowOn {
	f := handlers.FollowOn{
		Type:        in.GetType(),
		Body:        in.GetBody(),
		ContentType: in.GetContentType(),
		Headers:     in.GetHeaders(),
		Delay:       in.GetDelay().AsDuration(),
		Key:         string(in.GetKey()),
	}
	if in.Priority != nil {
		p := whole(in.GetPriority())
		f.Priority = &p
	}
	return f
}

// FromProgress makes the wire form of p for the message with the given tag.
func FromProgress(tag uint64, p handlers.Progress) *Progress {
	return &Progress{Tag: tag, Ratio: p.Ratio, Note: text(p.Note)}
}

// ToProgress is the inverse of FromProgress.
func ToProgress(in *Progress) handlers.Progress {
	return handlers.Progress{Ratio: in.GetRatio(), Note: in.GetNote()}
}

func verdict(k handlers.Kind) Verdict {
	switch k {
	case handlers.Done:
		return Verdict_VERDICT_DONE
	case handlers.Retry:
		return Verdict_VERDICT_RETRY
	case handlers.Deferred:
		return Verdict_VERDICT_DEFER
	case handlers.Rejected:
		return Verdict_VERDICT_REJECT
	case handlers.Dropped:
		return Verdict_VERDICT_DROP
	}
	return Verdict_VERDICT_UNSPECIFIED
}

func kind(v Verdict) handlers.Kind {
	switch v {
	case Verdict_VERDICT_DONE:
		return handlers.Done
	case Verdict_VERDICT_DEFER:
		return handlers.Deferred
	case Verdict_VERDICT_REJECT:
		return handlers.Rejected
	case Verdict_VERDICT_DROP:
		return handlers.Dropped
	case Verdict_VERDICT_RETRY, Verdict_VERDICT_UNSPECIFIED:
	}
	return handlers.Retry
}

// number brings n into the range of the wire.
func number(n int) uint32 { return uint32(min(max(n, 0), math.MaxInt32)) }

// whole is the inverse of number, also where an int has 32 bits.
func whole(n uint32) int { return int(min(n, math.MaxInt32)) }

func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// texts returns m itself if it is valid, as nearly all are.
func texts(m map[string]string) map[string]string {
	for k, v := range m {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return cleaned(m)
		}
	}
	return m
}

func cleaned(m map[string]string) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[text(k)] = text(v)
	}
	return out
}

// head is the first limit bytes of s, cut between characters.
func head(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}
