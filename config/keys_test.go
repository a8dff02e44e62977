package config

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"usher/engine"
)

// The table of keys and the fields of Config are one list: a field without a
// key could never be set, a key without a field would do nothing.
func TestEveryKeyHasAFieldAndEveryFieldAKey(t *testing.T) {
	var fields []string
	var walk func(typ reflect.Type, at string)
	walk = func(typ reflect.Type, at string) {
		if typ.Kind() == reflect.Map && typ.Elem().Kind() == reflect.Struct {
			at, typ = at+" *", typ.Elem()
			fields = append(fields, at)
		}
		if typ.Kind() != reflect.Struct {
			return
		}
		for field := range typ.Fields() {
			name := field.Tag.Get("koanf")
			if name == "" || name == "-" {
				continue
			}
			below := strings.TrimPrefix(at+" "+name, " ")
			fields = append(fields, below)
			walk(field.Type, below)
		}
	}
	walk(reflect.TypeFor[Config](), "")
	var table []string
	for _, k := range keys() {
		table = append(table, k.path)
	}
	slices.Sort(fields)
	slices.Sort(table)
	if !slices.Equal(fields, table) {
		t.Errorf("fields %q\nkeys   %q", fields, table)
	}
}

// The engine has defaults of its own, for those who build one without a
// configuration. They are the same, and so are the limits.
func TestDefaultsAreThoseOfTheEngine(t *testing.T) {
	cfg := mustLoad(t, fromText(shop))
	rush := cfg.Types["order.rush"]
	for _, c := range []struct{ got, want any }{
		{cfg.Engine.Slots, engine.DefaultSlots}, {cfg.Engine.Window, engine.DefaultWindow}, {cfg.Engine.MaxBody, int64(engine.DefaultMaxBody)},
		{cfg.Engine.Drain, engine.DefaultDrain}, {cfg.Engine.ParkAfter, engine.DefaultPark}, {cfg.Broker.Queue, engine.WorkQueue}, {rush.Timeout, engine.DefaultTimeout},
		{rush.Retry.Attempts, engine.DefaultAttempts}, {rush.Retry.Backoff, engine.DefaultBackoff}, {rush.MaxAge, engine.DefaultMaxAge}, {engine.Dedupe(rush.Dedupe), engine.DedupeDone},
		{lanes, engine.Levels + 1},
		{tree().at(path{"types", "*", "priority"}).kind.words, fmt.Sprintf("a level, 0 to %d, or a range of them", engine.Levels-1)},
		{tree().at(path{"types", "*", "retry", "backoff"}).kind.words, duration(time.Millisecond, engine.MaxShortWait).words},
	} {
		if c.got != c.want {
			t.Errorf("got %v, the engine has %v", c.got, c.want)
		}
	}
}

func TestEachRowOfTheTableIsSound(t *testing.T) {
	tree().each(func(s *shape) {
		if s.doc == "" || s.kind.form != section && s.kind.words == "" {
			t.Errorf("%s has no words", s.path)
		}
		if s.def == "" {
			return
		}
		v, err := s.kind.parseFunc(s.def)
		if err != nil {
			t.Errorf("%s: the default %s is wrong: %v", s.path, s.def, err)
		}
		if n := reflect.ValueOf(v); n.CanInt() && s.kind.showFunc(n.Int()) != s.def {
			t.Errorf("%s: the default %s is shown as %s", s.path, s.def, s.kind.showFunc(n.Int()))
		}
	})
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "1ms": time.Millisecond, "1.5s": 1500 * time.Millisecond, "1h30m": 90 * time.Minute, "7d": 7 * day,
		"1d12h": 36 * time.Hour, "0d": 0, "90s": 90 * time.Second, "5us": 5 * time.Microsecond, "5µs": 5 * time.Microsecond,
	} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
		if again, err := parseDuration(showDuration(want)); err != nil || again != want {
			t.Errorf("%s is shown as %s: %v, %v", text, showDuration(want), again, err)
		}
	}
	for _, text := range []string{
		"", "s", "d", "1", "-1s", "+1s", "1 s", "1s ", "1.5d", "12h1d", "1D", "1w", ".5s", "1.s", "1e3s", "٣s", "9999999999h", "36501d", "99999999999999999999d", "1d9999999999h",
	} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("%q is read as %v", text, got)
		}
	}
	for d, want := range map[time.Duration]string{day: "24h", 2 * day: "2d", 25 * time.Hour: "25h", 90 * time.Second: "1m30s", time.Hour: "1h", 10 * time.Minute: "10m"} {
		if got := showDuration(d); got != want {
			t.Errorf("%v is shown as %s, want %s", d, got, want)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "1": 1, "1023": 1023, "1KiB": 1024, "1024KiB": mib, "2GiB": 2 * gib, "9999999999": 9999999999} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
		if again, err := parseSize(showSize(want)); err != nil || again != want {
			t.Errorf("%s is shown as %s: %v, %v", text, showSize(want), again, err)
		}
	}
	for text, hint := range map[string]string{
		"1MB": "write 1MiB", "1m": "write 1MiB", "4 KiB": "write 4KiB", "4kib": "write 4KiB", "2G": "write 2GiB", "1TiB": "KiB, MiB and GiB",
		"": "write it as in", "1.5MiB": "write it as in", "-1": "write it as in", "01": "write it as in", "0x10": "write it as in", "9999999999999GiB": "",
	} {
		if got, err := parseSize(text); err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

func TestNearest(t *testing.T) {
	words := []string{"plugin", "priority", "concurrency", "rate", "timeout", "retry", "delay", "maxAge", "dedupe"}
	for text, want := range map[string]string{
		"prioirty": "priority", "Priority": "priority", "max_age": "maxAge", "MAX-AGE": "maxAge", "plug": "plugin", "timeouts": "timeout",
		"rety": "retry", "dealy": "delay", "x": "", "": "", "throughput": "", "pluginpluginplugin": "", strings.Repeat("a", 5000): "",
	} {
		if got := nearest(text, words); got != want {
			t.Errorf("%.20q: %q, want %q", text, got, want)
		}
	}
}

func TestExplain(t *testing.T) {
	for name, want := range map[string]string{
		"engine.maxBody": `engine.maxBody
  The longest body that is run. A longer one is dead-lettered as too_large.

  value        a size, 1KiB to 32MiB
  default      1MiB
  environment  USHER__ENGINE__MAX_BODY
`,
		"types.order.rush.retry.attempts": `types.<name>.retry.attempts
  How often a message is tried in a round. When there are no redeliveries left it is dead-lettered as exhausted.

  value        a whole number, 1 to 100
  default      3
  environment  none: it is set in files only
`,
		"broker.urls": `broker.urls
  Its endpoints, of which one is live. Login and passcode come from the environment: USHER_BROKER_LOGIN, USHER_BROKER_PASSCODE.

  value        a list of URLs, stomp://host:port or stomp+ssl://host:port
  default      none: it is required
  example      [stomp+ssl://b-1.example:61614]
  environment  USHER__BROKER__URLS
`,
		"log": `log
  What is logged, on standard error.

  level        The least severe level that is logged.
  format       json is one object a line, console is for people; auto is console on a terminal, else json.
`,
	} {
		if got, err := Explain(name); err != nil || got != want {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
	}
	for name, first := range map[string]string{
		"types": "types\n", "types.*": "types.<name>\n", "types.<name>.delay": "types.<name>.delay\n", "types.order.placed": "types.<name>\n",
		"types.a.b.maxAge": "types.<name>.maxAge\n", "plugins.shop.env.REGION": "plugins.<name>.env\n", "plugins.shop.files.a/b.py": "plugins.<name>.files\n",
	} {
		if got, err := Explain(name); err != nil || !strings.HasPrefix(got, first) {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
	}
	for name, want := range map[string]string{
		"engine.slot":         `there is no key "engine.slot" (did you mean "engine.slots"?)`,
		"types.a.b.timout":    `there is no key "types.a.b.timout" (did you mean "types.a.b.timeout"?)`,
		"attempts":            `there is no key "attempts" (did you mean "types.<name>.retry.attempts"?)`,
		"nothing.of.the.kind": `there is no key "nothing.of.the.kind"; the sections are engine, starvation, types, plugins, broker, embedded, records, server, notify, monitor, metrics, log, traces, unknownType`,
		"":                    `there is no key ""; the sections are engine, starvation, types, plugins, broker, embedded, records, server, notify, monitor, metrics, log, traces, unknownType`,
	} {
		if got, err := Explain(name); err == nil || err.Error() != want {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
	}
}

// reference is the part of docs/config.md that the table of keys says.
func reference() string {
	var b strings.Builder
	tree().each(func(s *shape) {
		switch {
		case s.kind.form == section && s.name == "*":
		case s.kind.form == section && !strings.Contains(s.path, " "):
			fmt.Fprintf(&b, "\n### %s\n\n%s\n\n| key | value | default | |\n|---|---|---|---|\n", s.display(), s.doc)
		case s.kind.form == section:
		default:
			def := s.defaultText()
			if def == s.def {
				def = "`" + def + "`"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", s.display(), s.kind.words, strings.TrimPrefix(def, "none: it is "), s.doc)
		}
	})
	return b.String()
}

func TestReferencePageNamesEveryKey(t *testing.T) {
	const file, begin, end = "../docs/config.md", "<!-- keys: begin -->\n", "<!-- keys: end -->\n"
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), begin)
	got, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no %s or no %s", file, begin, end)
	}
	if want := reference(); got != want {
		if *update {
			if err := os.WriteFile(file, []byte(before+begin+want+end+after), 0o600); err != nil {
				t.Fatal(err)
			}
			return
		}
		t.Errorf("%s is not what the table of keys says; write it with: go test ./config -update", file)
	}
}

// The examples of the pages are real: each YAML block loads.
func TestExamplesOfThePagesLoad(t *testing.T) {
	for file, least := range map[string]int{"../docs/config.md": 3, "../docs/status.md": 1} {
		page, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		blocks := strings.Split(string(page), "```yaml\n")[1:]
		if len(blocks) < least {
			t.Fatalf("%s has %d examples", file, len(blocks))
		}
		for _, block := range blocks {
			content, _, _ := strings.Cut(block, "```")
			if _, err := Load(fromText(content)); err != nil {
				t.Errorf("%s: %s\n%v", file, content, err)
			}
		}
	}
}
