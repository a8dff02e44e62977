package ledger

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"usher/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Each test of an ending tells what is known of one message that was sent.
func TestHowAMessageEnds(t *testing.T) {
	ok, fails := Kind{Type: "a"}, Kind{Type: "a", Ends: Dead}
	done, dead := engine.Record{State: engine.Done}, engine.Record{State: engine.Dead}
	effect := Effect{ID: "1", Key: "1", Type: "a"}
	for name, test := range map[string]struct {
		kind    Kind
		unacked bool
		record  engine.Record
		effects []Effect
		letters []letter
		once    bool
		want    Account
	}{
		"done":                            {kind: ok, record: done, effects: []Effect{effect}, want: Account{Acknowledged: 1, Done: 1}},
		"done twice":                      {kind: ok, record: done, effects: []Effect{effect, effect}, want: Account{Acknowledged: 1, Done: 1, Duplicated: 1}},
		"done, after a dead letter":       {kind: ok, record: done, effects: []Effect{effect}, letters: []letter{{reason: engine.ReasonCrashedPlugin}}, want: Account{Acknowledged: 1, Done: 1, Duplicated: 1}},
		"done, without its effect":        {kind: ok, record: done, want: Account{Acknowledged: 1, Lost: 1}},
		"no record":                       {kind: ok, want: Account{Acknowledged: 1, Lost: 1}},
		"an effect and no record":         {kind: ok, effects: []Effect{effect}, want: Account{Acknowledged: 1, Lost: 1}},
		"delayed for ever":                {kind: ok, record: engine.Record{State: engine.Delayed}, want: Account{Acknowledged: 1, Lost: 1}},
		"cancelled":                       {kind: ok, record: engine.Record{State: engine.Cancelled}, want: Account{Acknowledged: 1, Lost: 1}},
		"dead":                            {kind: fails, record: dead, letters: []letter{{reason: "exhausted"}}, want: Account{Acknowledged: 1, Dead: 1}},
		"dead, with two copies":           {kind: fails, record: dead, letters: []letter{{reason: "exhausted"}, {reason: "exhausted"}}, want: Account{Acknowledged: 1, Dead: 1, Duplicated: 1}},
		"dead, with two where one may be": {kind: fails, record: dead, letters: []letter{{reason: "exhausted"}, {reason: "exhausted"}}, once: true, want: Account{Acknowledged: 1, Dead: 1, Duplicated: 1, Unexpected: 1}},
		"dead, with one, as it should be": {kind: fails, record: dead, letters: []letter{{reason: "exhausted"}}, once: true, want: Account{Acknowledged: 1, Dead: 1}},
		"dead, without a copy":            {kind: fails, record: dead, want: Account{Acknowledged: 1, Lost: 1}},
		"dead, by crashes":                {kind: ok, record: dead, letters: []letter{{reason: engine.ReasonCrashedPlugin}}, want: Account{Acknowledged: 1, Dead: 1}},
		"dead, for no reason":             {kind: ok, record: dead, letters: []letter{{reason: "exhausted"}}, want: Account{Acknowledged: 1, Dead: 1, Unexpected: 1}},
		"done, though it fails":           {kind: fails, record: done, effects: []Effect{effect}, want: Account{Acknowledged: 1, Done: 1, Unexpected: 1}},
		"another type's effect":           {kind: ok, record: done, effects: []Effect{{ID: "1", Key: "1", Type: "b"}}, want: Account{Acknowledged: 1, Done: 1, Unexpected: 1}},
		"not acknowledged, and gone":      {kind: ok, unacked: true, want: Account{}},
		"not acknowledged, and done":      {kind: ok, unacked: true, record: done, effects: []Effect{effect}, want: Account{}},
		"not acknowledged, and left over": {kind: ok, unacked: true, record: engine.Record{State: engine.Delayed}, want: Account{Unexpected: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			b := books{
				sent:    map[string]*entry{"1": {kind: test.kind, acknowledged: !test.unacked}},
				effects: map[string][]Effect{"1": test.effects}, dead: map[string][]letter{"1": test.letters}, once: test.once,
				records: map[string]engine.Record{"1": test.record},
			}
			b.close()
			wantAccount(t, b.account, test.want)
		})
	}
}

// wantAccount compares the counts, and wants a finding for each that is bad.
func wantAccount(t *testing.T, got, want Account) {
	t.Helper()
	if n := len(got.Findings); n != got.Lost+got.Unexpected {
		t.Errorf("%d findings for %d lost and %d unexpected: %v", n, got.Lost, got.Unexpected, got.Findings)
	}
	if strings.Split(got.String(), "\n")[0] != want.String() {
		t.Errorf("the account is\n\t%v\nwant\n\t%v", got, want)
	}
}

func TestWhatFollowsOnADoneMessageMustBeThere(t *testing.T) {
	kind := Kind{Type: "a", FollowOn: "b", FollowOnKey: "k"}
	next := followOnID("1", kind)
	effect, follows := Effect{ID: "1", Key: "1", Type: "a"}, Effect{ID: next, Key: next, Type: "b"}
	done := engine.Record{State: engine.Done}
	open := func() *books {
		return &books{
			sent:    map[string]*entry{"1": {kind: kind, acknowledged: true}},
			effects: map[string][]Effect{"1": {effect}, next: {follows}},
			records: map[string]engine.Record{"1": done, next: done},
		}
	}
	b := open()
	b.close()
	wantAccount(t, b.account, Account{Acknowledged: 1, Done: 1, FollowOns: 1})

	b = open()
	delete(b.effects, next)
	b.close()
	wantAccount(t, b.account, Account{Acknowledged: 1, Done: 1, FollowOns: 1, Lost: 1})

	b = open()
	b.records["1"], b.dead = engine.Record{State: engine.Dead}, map[string][]letter{"1": {{reason: engine.ReasonCrashedPlugin}}}
	b.close() // dead in the end, after an attempt whose follow-on was sent
	wantAccount(t, b.account, Account{Acknowledged: 1, Dead: 1})

	b = open()
	delete(b.effects, "1")
	delete(b.records, "1")
	b.close() // nobody has done what it follows on
	wantAccount(t, b.account, Account{Acknowledged: 1, Lost: 1, Unexpected: 1})
}

func TestWhatNobodySentIsUnexpected(t *testing.T) {
	b := books{effects: map[string][]Effect{"x": {{}}}, dead: map[string][]letter{"y": {{reason: "no_type"}}}}
	b.close()
	wantAccount(t, b.account, Account{Unexpected: 2})
}

func TestReadsEffects(t *testing.T) {
	path := filepath.Join(t.TempDir(), "effects")
	if e, err := ReadEffects(path); e != nil || err != nil {
		t.Errorf("of no file it gives %v, %v", e, err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a%20b k%2F1 order.rush 2 1700000000000000001\nm m order.placed 1 1700000")
	e, err := ReadEffects(path)
	if err != nil || len(e) != 1 || e[0].ID != "a b" || e[0].Key != "k/1" || e[0].Type != "order.rush" || e[0].Attempt != 2 || e[0].At.UnixNano() != 1700000000000000001 {
		t.Errorf("read %+v, %v", e, err)
	}
	for _, line := range []string{"a b c 1\n", "%zz k t 1 1\n", "a k t one 1\n", "a k t 1 soon\n"} {
		write(line)
		if _, err := ReadEffects(path); err == nil || !strings.Contains(err.Error(), "no effect") {
			t.Errorf("%q: %v", line, err)
		}
	}
}
