package watchtoken_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"usher/engine/watchtoken"
)

func secretOf(fill string) string {
	return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(fill, 32)))
}

func parse(t testing.TB, text string) watchtoken.Keys {
	t.Helper()
	keys, err := watchtoken.ParseKeys(text)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func mint(t testing.TB, keys watchtoken.Keys, keyID, stage, id string, expires time.Time) string {
	t.Helper()
	token, err := keys.Make(keyID, stage, id, expires)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

var now = time.Unix(1_900_000_000, 0)

func TestATokenIsGoodForItsMessageStageAndTime(t *testing.T) {
	keys := parse(t, "shop:"+secretOf("a")+",billing:"+secretOf("b"))
	others := parse(t, "shop:"+secretOf("x"))
	ends := now.Add(watchtoken.DefaultTTL)
	token := mint(t, keys, "shop", "prod", "order-7", ends)
	for name, c := range map[string]struct {
		token, stage, id string
		now              time.Time
		want             error
	}{
		"good":             {token, "prod", "order-7", now, nil},
		"the last second":  {token, "prod", "order-7", ends.Add(-time.Second), nil},
		"of another key":   {mint(t, keys, "billing", "prod", "order-7", ends), "prod", "order-7", now, nil},
		"expired":          {token, "prod", "order-7", ends, watchtoken.ErrExpired},
		"foreign id":       {token, "prod", "order-8", now, watchtoken.ErrForeignID},
		"id in small":      {token, "prod", "Order-7", now, watchtoken.ErrForeignID},
		"foreign stage":    {token, "test", "order-7", now, watchtoken.ErrForeignStage},
		"forged":           {mint(t, others, "shop", "prod", "order-7", ends), "prod", "order-7", now, watchtoken.ErrChanged},
		"other's key id":   {strings.Replace(token, ".shop.", ".billing.", 1), "prod", "order-7", now, watchtoken.ErrChanged},
		"unknown key":      {strings.Replace(token, ".shop.", ".ship.", 1), "prod", "order-7", now, watchtoken.ErrUnknownKey},
		"without its end":  {token[:len(token)-1], "prod", "order-7", now, watchtoken.ErrChanged},
		"with padding":     {token + "=", "prod", "order-7", now, watchtoken.ErrChanged},
		"with a line end":  {token + "\n", "prod", "order-7", now, watchtoken.ErrChanged},
		"with more":        {token + ".x", "prod", "order-7", now, watchtoken.ErrMalformed},
		"none":             {"", "prod", "order-7", now, watchtoken.ErrMalformed},
		"dots":             {".....", "prod", "order-7", now, watchtoken.ErrMalformed},
		"another version":  {strings.Replace(token, "usher1", "usher2", 1), "prod", "order-7", now, watchtoken.ErrMalformed},
		"too long a text":  {"usher1." + strings.Repeat("x", watchtoken.MaxBytes), "prod", "order-7", now, watchtoken.ErrMalformed},
		"too long a time":  {mint(t, keys, "shop", "prod", "order-7", now.Add(25*time.Hour)), "prod", "order-7", now, watchtoken.ErrTooLong},
		"in milliseconds":  {mint(t, keys, "shop", "prod", "order-7", time.Unix(ends.UnixMilli(), 0)), "prod", "order-7", now, watchtoken.ErrTooLong},
		"expired for ever": {mint(t, keys, "shop", "prod", "order-7", time.Unix(0, 0)), "prod", "order-7", now, watchtoken.ErrExpired},
	} {
		until, err := keys.Check(c.token, c.stage, c.id, c.now)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if err == nil && !until.Equal(ends) || err != nil && !until.IsZero() {
			t.Errorf("%s: good until %v", name, until)
		}
	}
	if _, err := (watchtoken.Keys{}).Check(token, "prod", "order-7", now); !errors.Is(err, watchtoken.ErrUnknownKey) {
		t.Errorf("without keys: %v", err)
	}
}

func TestEachByteOfATokenCounts(t *testing.T) {
	keys := parse(t, "shop:"+secretOf("a")+",shop:"+secretOf("b")+",s:"+secretOf("c"))
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.StringMatching(`[ -~]{1,512}`).Draw(t, "id")
		stage := rapid.SampledFrom([]string{"prod", "p", "local"}).Draw(t, "stage")
		token, err := keys.Make("shop", stage, id, now.Add(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		if len(token) > watchtoken.MaxBytes {
			t.Fatalf("it has %d bytes", len(token))
		}
		if strings.Trim(token, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "" {
			t.Fatalf("%q cannot stand in a URL", token)
		}
		if _, err := keys.Check(token, stage, id, now); err != nil {
			t.Fatal(err)
		}
		for at := range len(token) {
			changed := []byte(token)
			changed[at] ^= rapid.Byte().Filter(func(b byte) bool { return b != 0 }).Draw(t, "bits")
			if until, err := keys.Check(string(changed), stage, id, now); err == nil || !until.IsZero() {
				t.Fatalf("%q is good, changed at %d to %q", token, at, changed)
			}
		}
		cut := rapid.IntRange(0, len(token)-1).Draw(t, "cut")
		if _, err := keys.Check(token[:cut]+token[cut+1:], stage, id, now); err == nil {
			t.Fatalf("%q is good without its byte %d", token, cut)
		}
	})
}

func TestTwoKeysAreLiveWhileAProducerChanges(t *testing.T) {
	before, after := "shop:"+secretOf("a"), "shop:"+secretOf("b")
	ends := now.Add(time.Minute)
	old, fresh := mint(t, parse(t, before), "shop", "s", "m", ends), mint(t, parse(t, after), "shop", "s", "m", ends)
	for text, want := range map[string][2]bool{
		before: {true, false}, before + "," + after: {true, true}, after + "," + before: {true, true}, after: {false, true},
	} {
		keys := parse(t, text)
		for i, token := range []string{old, fresh} {
			if _, err := keys.Check(token, "s", "m", now); (err == nil) != want[i] {
				t.Errorf("%s, token %d: %v", keys, i, err)
			}
		}
	}
	if both := parse(t, after+","+before); mint(t, both, "shop", "s", "m", ends) != fresh {
		t.Error("the first key does not sign")
	}
}

func TestKeysThatAreWrong(t *testing.T) {
	a, b := secretOf("a"), secretOf("b")
	for text, want := range map[string]string{
		"shop":                                "watch key 1 is not of the form id:base64",
		":" + a:                               "watch key 1 is not of the form",
		"the shop:" + a:                       "watch key 1 is not of the form",
		"a.b:" + a:                            "watch key 1 is not of the form",
		"shop:" + a + ",":                     "watch key 2 is not of the form",
		"shop:hidden":                         "watch key 1 (shop) is not 32 to 64 bytes in base64",
		"shop:aGlkZGVu":                       "is not 32 to 64 bytes",
		"shop:" + strings.Repeat("A", 88) + a: "is not 32 to 64 bytes",
		"shop:" + strings.TrimSuffix(a, "="):  "is not 32 to 64 bytes",
		"s:" + a + ",s:" + b + ",s:" + secretOf("c"): "watch key 3 (s) is the third of that id",
		"s:" + a + ",t:" + a:                         "watch key 2 (t) has the secret of another",
	} {
		keys, err := watchtoken.ParseKeys(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hidden") || strings.Contains(err.Error(), a[:20]) || keys.Any() {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := watchtoken.ParseKeys("x,y"); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("not all is said at once: %v", err)
	}
	for _, text := range []string{"", "  "} {
		if keys, err := watchtoken.ParseKeys(text); err != nil || keys.Any() {
			t.Errorf("%q: %v, %v", text, keys, err)
		}
	}
}

func TestKeysAreNotPrinted(t *testing.T) {
	keys := parse(t, " shop:"+secretOf("a")+" , b:"+secretOf("b")+",shop:"+secretOf("c"))
	asJSON, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	for _, printed := range []string{keys.String(), fmt.Sprint(keys), fmt.Sprintf("%+v %#v", keys, keys), fmt.Sprintf("%v", &keys), string(asJSON)} {
		for _, secret := range []string{"aaaa", "YWFh", "[97", "61616161"} {
			if strings.Contains(printed, secret) {
				t.Errorf("shown: %s", printed)
			}
		}
	}
	if !slices.Equal(keys.IDs(), []string{"shop", "b"}) {
		t.Errorf("the ids are %v", keys.IDs())
	}
}

func TestMakeSaysWhatCannotBe(t *testing.T) {
	keys := parse(t, "shop:"+secretOf("a"))
	for _, c := range []struct{ key, stage, id, want string }{
		{"ship", "s", "m", "there is no watch key \"ship\"; there are: [shop]"}, {"shop", "a.b", "m", "cannot be a stage"}, {"shop", "s", "", "an id is 1 to 512"},
		{"shop", "s", "tab\t", "an id is"},
	} {
		if token, err := keys.Make(c.key, c.stage, c.id, now); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %q, %v", c, token, err)
		}
	}
}

func TestEveryErrorHasItsWord(t *testing.T) {
	words := map[string]bool{}
	for _, err := range []error{
		watchtoken.ErrMalformed, watchtoken.ErrUnknownKey, watchtoken.ErrChanged, watchtoken.ErrForeignStage, watchtoken.ErrForeignID, watchtoken.ErrExpired,
		watchtoken.ErrTooLong,
	} {
		words[watchtoken.Cause(fmt.Errorf("wrapped: %w", err))] = true
	}
	if len(words) != 7 || words["other"] || watchtoken.Cause(errors.New("x")) != "other" {
		t.Errorf("the words are %v", words)
	}
}
