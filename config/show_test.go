package config

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"usher/deploy/samples"
)

// someConfig draws any configuration that Load could have made.
func someConfig(t *rapid.T) *Config {
	between := func(lo, hi time.Duration) time.Duration {
		return time.Duration(rapid.Int64Range(int64(lo), int64(hi)).Draw(t, "duration"))
	}
	pick := func(words ...string) string { return rapid.SampledFrom(words).Draw(t, "word") }
	absolute := rapid.Custom(func(t *rapid.T) string {
		return filepath.Clean("/" + rapid.StringMatching(`[^\x00-\x1f\x7f-\x9f]{0,20}`).Draw(t, "path"))
	})
	digests := rapid.StringMatching(`[0-9a-f]{64}`)
	cfg := &Config{
		Engine: Engine{
			Slots: rapid.IntRange(1, 1024).Draw(t, "slots"), Window: rapid.IntRange(1, 1000).Draw(t, "window"),
			Drain: between(time.Millisecond, 10*time.Minute), ParkAfter: between(time.Second, 5*time.Minute), MaxBody: rapid.Int64Range(kib, 32*mib).Draw(t, "body"), Memory: 1024 * gib,
			Reserve: Reserve{From: rapid.IntRange(1, 9).Draw(t, "from")},
		},
		Starvation:  Starvation{Share: pick("0%", "5%", "50%")},
		UnknownType: UnknownType{Wait: between(0, 30*day)},
		Types:       map[string]Type{},
		Plugins:     map[string]Plugin{},
		Broker:      Broker{Queue: "usher.work", Heartbeat: 10 * time.Second},
		Embedded:    Embedded{Stomp: pick("127.0.0.1:61613", ":0", "[::1]:1")},
		Server:      Server{Listen: pick("localhost:80", "0.0.0.0:65535")},
		Notify:      Notify{PerAddress: rapid.IntRange(1, 100_000).Draw(t, "perAddress"), Stage: pick("local", "prod-2")},
		Monitor:     Monitor{Window: between(time.Second, day), Webhook: Webhook{URL: pick("", "https://ops.example/x?y=1")}},
		Log:         Log{Level: pick("trace", "error"), Format: pick("auto", "json")},
		Traces:      Traces{OTLP: pick("", "https://collector.example:4318/base"), Sample: pick("0%", "100%")},
	}
	if rapid.Bool().Draw(t, "dynamodb") {
		cfg.Records.DynamoDB = DynamoDB{Table: pick("usher", "usher.prod"), Region: pick("", "eu-central-1"), Endpoint: pick("", "https://dynamodb.example")}
	}
	if rapid.Bool().Draw(t, "own broker") {
		cfg.Embedded = Embedded{}
		cfg.Broker = Broker{
			URLs:  rapid.SliceOfN(rapid.StringMatching(`stomp(\+ssl)?://[a-z0-9.-]{1,9}[a-z](:[0-9]{1,4})?`), 1, 3).Draw(t, "urls"),
			Queue: rapid.StringMatching(`[A-Za-z0-9._-]{1,20}`).Draw(t, "queue"), Heartbeat: between(time.Second, time.Minute),
		}
	}
	for _, name := range rapid.SliceOfNDistinct(rapid.StringMatching(`[A-Za-z0-9_-]{1,9}`), 1, 3, rapid.ID[string]).Draw(t, "plugins") {
		cfg.Plugins[name] = Plugin{
			Command: append([]string{pick("usher", "/bin/p", "null")}, rapid.SliceOfN(rapid.StringMatching(`[^\x00]{0,10}`), 0, 3).Draw(t, "arguments")...),
			Dir:     absolute.Draw(t, "dir"), SHA256: pick("", digests.Draw(t, "sha256")), Grace: between(time.Millisecond, time.Minute), Memory: rapid.SampledFrom([]int64{0, 32 * mib, 3 * gib}).Draw(t, "memory"),
			Files: rapid.MapOfN(absolute, digests, 0, 2).Draw(t, "files"),
			Env:   rapid.MapOfN(rapid.StringMatching(`[A-JL-Za-jl-z_][A-JL-Za-jl-z0-9_]{0,5}`), rapid.StringMatching(`[^\x00]{0,10}`), 0, 2).Draw(t, "env"),
		}
	}
	if rapid.Bool().Draw(t, "origins") {
		cfg.Notify.Origins = []string{"https://shop.example", "http://localhost:3000"}
	}
	plugins := slices.Sorted(maps.Keys(cfg.Plugins))
	names := rapid.OneOf(rapid.StringMatching(`[A-Za-z0-9._-]{1,128}`), rapid.SampledFrom([]string{"null", "true", "1", "0x1", "1.0", "-", ".", "-.inf", "2026-01-01"}))
	for _, name := range rapid.SliceOfNDistinct(names, 0, 4, rapid.ID[string]).Draw(t, "types") {
		typ := Type{
			Plugin: pick(plugins...), Timeout: between(time.Millisecond, time.Hour), MaxAge: between(time.Second, 30*day), Dedupe: pick("done", "claim", "off"),
			Retry: Retry{Attempts: rapid.IntRange(1, 100).Draw(t, "attempts"), Backoff: between(time.Millisecond, 2*time.Second)},
			Delay: Delay{Default: between(0, 30*day)},
		}
		typ.Priority, typ.Rate = pick("", "0", "9", "3-7", "0-9"), pick("", "1/s", "10/m", "999999/h")
		if n := rapid.IntRange(0, 3).Draw(t, "concurrency"); n > 0 {
			typ.Concurrency = &n
		}
		for range rapid.IntRange(0, 3).Draw(t, "redeliveries") {
			typ.Retry.Redeliveries = append(typ.Retry.Redeliveries, between(time.Second, 30*day))
		}
		if level := rapid.IntRange(-1, 9).Draw(t, "bypass"); level >= 0 {
			typ.Delay.Bypass = &level
		}
		cfg.Types[name] = typ
	}
	return cfg
}

func TestWhatIsShownLoadsAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := someConfig(t)
		for name, write := range map[string]func(*Config) ([]byte, error){"Marshal": Marshal, "Annotate": Annotate} {
			shown, err := write(cfg)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			again, err := Load(fromText(string(shown)))
			if err != nil {
				t.Fatalf("%s:\n%s\n%v", name, shown, err)
			}
			again.origins, again.Warnings = nil, nil
			if !reflect.DeepEqual(normal(again), normal(cfg)) {
				t.Fatalf("%s:\n%s\ngot  %+v\nwant %+v", name, shown, again, cfg)
			}
		}
	})
}

func TestShownAsJSONIsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := someConfig(t)
		var fromJSON, fromYAML any
		asJSON, err := json.Marshal(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(asJSON, &fromJSON); err != nil {
			t.Fatal(err)
		}
		asYAML, err := Marshal(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(asYAML, &fromYAML); err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(fromYAML)
		if err != nil {
			t.Fatal(err)
		}
		if string(again) != string(asJSON) {
			t.Fatalf("got  %s\nwant %s", asJSON, again)
		}
	})
}

// A block of text that begins with an empty line is written by the YAML library
// with an indentation that it cannot read.
func TestValueThatBeginsWithALineEndLoadsAgain(t *testing.T) {
	for _, value := range []string{"\nI", "\n", "\n\n x\n", "a\r\nb", " \n", "\u2028x"} {
		cfg := mustLoad(t, fromText(shop))
		p := cfg.Plugins["shop"]
		p.Command, p.Env = []string{"usher", value}, map[string]string{"A": value}
		cfg.Plugins["shop"] = p
		shown, err := Marshal(cfg)
		if err != nil {
			t.Fatal(err)
		}
		again := mustLoad(t, fromText(string(shown))).Plugins["shop"]
		if again.Command[1] != value || again.Env["A"] != value {
			t.Errorf("%q comes back as %q and %q", value, again.Command[1], again.Env["A"])
		}
	}
}

// normal makes empty maps of plugins nil.
func normal(c *Config) Config {
	n := *c
	n.Plugins = maps.Clone(c.Plugins)
	for name, p := range n.Plugins {
		if len(p.Files) == 0 {
			p.Files = nil
		}
		if len(p.Env) == 0 {
			p.Env = nil
		}
		n.Plugins[name] = p
	}
	return n
}

func TestAnnotateSaysWhereValuesComeFrom(t *testing.T) {
	o := fromText(shop + "engine: {slots: 3}\nbroker:\n  urls: [stomp://a]\n")
	o.Environ = []string{"USHER__ENGINE__WINDOW=5", "USHER_BROKER_LOGIN=joe"}
	o.Flags = map[string]any{"log.level": "warn"}
	got, err := Annotate(mustLoad(t, o))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"# USHER_BROKER_LOGIN set, USHER_BROKER_PASSCODE not set, USHER_TOKEN not set, USHER_WATCH_KEYS not set, USHER_GATEWAY_SECRET not set, USHER_WEBHOOK_SECRET not set\n", "  slots: 3 # usher.yaml:6\n",
		"  window: 5 # USHER__ENGINE__WINDOW\n", "  drain: 10s # default\n", "  level: warn # flag log.level\n",
		"    plugin: shop # usher.yaml:3\n", "  urls: ['stomp://a'] # usher.yaml:8\n",
	} {
		if !strings.Contains(string(got), line) {
			t.Errorf("%q is not in\n%s", line, got)
		}
	}
}

func TestShownEnvironmentOfPluginsHidesSecrets(t *testing.T) {
	cfg := mustLoad(t, fromText("types: {t: {plugin: shop}}\nplugins:\n  shop:\n    command: [usher]\n    env: {STRIPE_API_KEY: sk_live, DB_PASSWORD: hunter2, REGION: eu}\n"))
	if cfg.Plugins["shop"].Env["DB_PASSWORD"] != "hunter2" {
		t.Error("the plugin does not get it")
	}
	for _, write := range []func(*Config) ([]byte, error){Marshal, Annotate, (*Config).MarshalJSON} {
		got, err := write(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(got, []byte("sk_live")) || bytes.Contains(got, []byte("hunter2")) || !bytes.Contains(got, []byte("eu")) {
			t.Errorf("got:\n%s", got)
		}
	}
}

func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	var doc any
	if err := json.Unmarshal(Schema(), &doc); err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("usher.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := compiler.Compile("usher.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// valid says what the schema finds in a YAML text.
func valid(t *testing.T, s *jsonschema.Schema, content []byte) error {
	t.Helper()
	var v any
	if err := yaml.Unmarshal(content, &v); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(doc)
}

func TestSchemaAcceptsWhatLoads(t *testing.T) {
	s := schema(t)
	rapid.Check(t, func(rt *rapid.T) {
		text, err := Marshal(someConfig(rt))
		if err != nil {
			rt.Fatal(err)
		}
		if err := valid(t, s, text); err != nil {
			rt.Fatalf("%s\n%v", text, err)
		}
	})
	if err := valid(t, s, []byte("engine:\ntypes: {}\nunknownType: {wait: 0}\n")); err != nil {
		t.Error(err)
	}
}

// What a schema can say, it says: each of these is bad for Load as well.
func TestSchemaRejects(t *testing.T) {
	s := schema(t)
	for _, content := range []string{
		"engin: {}", "engine: {slot: 3}", "engine: {slots: 0}", "engine: {slots: 1025}", "engine: {slots: '3'}", "engine: {slots: 1.5}",
		"engine: {drain: 30}", "engine: {drain: 30 s}", "engine: {drain: -1s}", "engine: {maxBody: 1MB}", "engine: {maxBody: 10}", "engine: 3",
		"types: {t: {}}", "types: {t: {plugin: 5}}", "types: {'a b': {plugin: p}}", "types: [t]", "types: {t: {plugin: p, delay: 10s}}",
		"types: {t: {plugin: p, priority: 10}}", "plugins: {p: {}}", "plugins: {p: {command: []}}", "plugins: {p: {command: x}}",
		"plugins: {a.b: {command: [x]}}", "plugins: {p: {command: [x], sha256: abc}}", "plugins: {p: {command: [x], env: {a-b: c}}}",
		"plugins: {p: {command: [x], files: {a: b}}}", "broker: {queue: q}", "broker: {urls: ['http://a']}", "broker: {urls: ['stomp://a@b']}",
		"broker: {urls: ['stomp://a'], queue: 'a>'}", "server: {listen: localhost}", "log: {level: warning}", "broker: {urls: ['stomp://a'], passcode: x}",
	} {
		if valid(t, s, []byte(content)) == nil {
			t.Errorf("the schema accepts %s", content)
		}
		if _, err := Load(fromText(content)); err == nil {
			t.Errorf("Load accepts %s", content)
		}
	}
}

func TestSchemaHasWordsForEditors(t *testing.T) {
	var doc map[string]any
	if err := json.Unmarshal(Schema(), &doc); err != nil {
		t.Fatal(err)
	}
	engine, _ := doc["properties"].(map[string]any)["engine"].(map[string]any)
	slots, _ := engine["properties"].(map[string]any)["slots"].(map[string]any)
	if slots["default"] != 32.0 || slots["description"] != "Messages that run at once, in all plugins together. It is a whole number, 1 to 1024." {
		t.Errorf("engine.slots: %v", slots)
	}
	if doc["$schema"] != "https://json-schema.org/draft/2020-12/schema" {
		t.Errorf("$schema is %v", doc["$schema"])
	}
}

func TestSamplesAreValid(t *testing.T) {
	files, err := filepath.Glob("../deploy/samples/*.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("%v, %v", files, err)
	}
	s := schema(t)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			cfg := mustLoad(t, Options{Files: []string{file}})
			if len(cfg.Warnings) > 0 {
				t.Errorf("warnings:\n%s", Errors(cfg.Warnings))
			}
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := valid(t, s, content); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestShopSampleHasEachType(t *testing.T) {
	cfg := mustLoad(t, Options{Default: samples.Shop(), DefaultName: "the shop's"})
	if got := cfg.Plugins["shop"].Command; !reflect.DeepEqual(got, []string{"usher", "plugin", "serve", "shop"}) {
		t.Errorf("command %v", got)
	}
	for _, name := range []string{
		"order.rush", "order.placed", "receipt.email", "report.daily", "stock.sync", "card.charge", "address.check", "legacy.import",
	} {
		if cfg.Types[name].Plugin != "shop" {
			t.Errorf("%s: %+v", name, cfg.Types[name])
		}
	}
	if rush := cfg.Types["order.rush"]; rush.Priority != "9" || rush.Timeout != 5*time.Second {
		t.Errorf("order.rush: %+v", rush)
	}
	if cfg.Types["report.daily"].Delay.Default != 10*time.Second || len(cfg.Broker.URLs) != 0 {
		t.Errorf("report.daily: %+v, broker %+v", cfg.Types["report.daily"], cfg.Broker)
	}
	changed := samples.Shop()
	changed[0] = 0
	if samples.Shop()[0] == 0 {
		t.Error("the bytes are shared")
	}
}
