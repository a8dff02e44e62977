package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// writeFile puts a file into a folder and returns its name.
func writeFile(t *testing.T, dir, name, content string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// fromText loads a configuration from text, in the place of the built-in one.
func fromText(content string) Options {
	return Options{Default: []byte(content), DefaultName: "usher.yaml"}
}

func mustLoad(t *testing.T, o Options) *Config {
	t.Helper()
	cfg, err := Load(o)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

const shop = `
types:
  order.rush: {plugin: shop}
plugins:
  shop: {command: [usher, plugin, serve, shop]}
`

func TestNothingAtAllIsTheDefaults(t *testing.T) {
	want := &Config{
		Engine:     Engine{Slots: 32, Window: 100, Drain: 10 * time.Second, ParkAfter: 5 * time.Second, MaxBody: 1 << 20, Memory: 2 << 30, Reserve: Reserve{From: 8}},
		Types:      map[string]Type{},
		Plugins:    map[string]Plugin{},
		Starvation: Starvation{Share: "0%"},
		Broker:     Broker{Queue: "usher.work", Heartbeat: 10 * time.Second},
		Embedded:   Embedded{Stomp: "127.0.0.1:61613"},
		Server:     Server{Listen: "127.0.0.1:8080"},
		Notify:     Notify{PerAddress: 64, Stage: "local"},
		Monitor:    Monitor{Window: 5 * time.Minute},
		Log:        Log{Level: "info", Format: "auto"},
		Traces:     Traces{Sample: "100%"},
	}
	for name, content := range map[string]string{
		"no file": "", "blank": "\n\n", "comments": "# nothing\n", "BOM": "\ufeff", "null": "null\n",
		"document start": "---\n", "empty mapping": "{}\n", "empty sections": "engine:\ntypes:\nplugins: {}\n",
	} {
		t.Run(name, func(t *testing.T) {
			cfg := mustLoad(t, fromText(content))
			if len(cfg.Warnings) != 0 {
				t.Errorf("warnings: %v", cfg.Warnings)
			}
			cfg.origins = nil
			if !reflect.DeepEqual(cfg, want) {
				t.Errorf("got %+v\nwant %+v", cfg, want)
			}
		})
	}
}

func TestTypesAndPluginsHaveTheirDefaults(t *testing.T) {
	cfg := mustLoad(t, fromText(shop))
	rush := cfg.Types["order.rush"]
	if want := (Type{
		Plugin: "shop", Timeout: 30 * time.Second, Retry: Retry{Attempts: 3, Backoff: 200 * time.Millisecond}, MaxAge: 24 * time.Hour, Dedupe: "done",
	}); !reflect.DeepEqual(rush, want) {
		t.Errorf("type: %+v, want %+v", rush, want)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := cfg.Plugins["shop"], (Plugin{
		Command: []string{"usher", "plugin", "serve", "shop"}, Dir: here, Files: map[string]string{}, Grace: 2 * time.Second,
	}); !reflect.DeepEqual(got, want) {
		t.Errorf("plugin: %+v, want %+v", got, want)
	}
}

func TestEveryKeyIsRead(t *testing.T) {
	cfg := mustLoad(t, fromText(`
engine: {slots: 4, reserve: {slots: 3, from: 7}, window: 2, drain: 3s, parkAfter: 4s, maxBody: 4KiB, memory: 5MiB}
types:
  a.b: {plugin: p, priority: 0, concurrency: 5, rate: 10/m, timeout: 6ms, retry: {attempts: 7, backoff: 8ms, redeliveries: [30s, 5m]}, delay: {default: 1d12h, bypass: 0}, maxAge: 30d, dedupe: off}
plugins:
  p:
    command: [/bin/p, "", "two\nlines"]
    dir: /tmp
    sha256: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
    files: {/a: 0000000000000000000000000000000000000000000000000000000000000000}
    env: {PORT: 8080, ON: true, TEXT: x, QUOTED: "0x10", EMPTY: ""}
    memory: 512MiB
    grace: 9s
broker: {urls: ["stomp://h", "stomp+ssl://[::1]:61614/"], secret: usher/broker, queue: q, heartbeat: 11s}
server: {listen: ":0", awake: "https://usher.example"}
notify: {origins: [https://a.example, "http://[::1]:3000"], perAddress: 12, stage: s-1, apigateway: {endpoint: "https://x.example/prod"}}
monitor: {window: 90s, topic: "arn:aws:sns:eu-central-1:1:ops", webhook: {url: "http://ops.example:81/a?b=c"}}
metrics: {cloudwatch: {service: usher-prod}}
log: {level: trace, format: console}
unknownType: {wait: 12h}
starvation: {share: 5%}
traces: {otlp: "http://127.0.0.1:4318", sample: 7%}
`))
	zero, five := 0, 5
	want := &Config{
		Engine: Engine{Slots: 4, Reserve: Reserve{Slots: 3, From: 7}, Window: 2, Drain: 3 * time.Second, ParkAfter: 4 * time.Second, MaxBody: 4096, Memory: 5 << 20},
		Types: map[string]Type{"a.b": {
			Plugin: "p", Priority: "0", Concurrency: &five, Rate: "10/m", Timeout: 6 * time.Millisecond, Retry: Retry{Attempts: 7, Backoff: 8 * time.Millisecond, Redeliveries: []time.Duration{30 * time.Second, 5 * time.Minute}},
			Delay: Delay{Default: 36 * time.Hour, Bypass: &zero}, MaxAge: 720 * time.Hour, Dedupe: "off",
		}},
		Plugins: map[string]Plugin{"p": {
			Command: []string{"/bin/p", "", "two\nlines"}, Dir: "/tmp", SHA256: strings.Repeat("a", 64),
			Files:  map[string]string{"/a": strings.Repeat("0", 64)},
			Env:    map[string]string{"PORT": "8080", "ON": "true", "TEXT": "x", "QUOTED": "0x10", "EMPTY": ""},
			Memory: 512 << 20, Grace: 9 * time.Second,
		}},
		Broker:      Broker{URLs: []string{"stomp://h", "stomp+ssl://[::1]:61614/"}, Secret: "usher/broker", Queue: "q", Heartbeat: 11 * time.Second},
		Server:      Server{Listen: ":0", Awake: "https://usher.example"},
		Notify:      Notify{Origins: []string{"https://a.example", "http://[::1]:3000"}, PerAddress: 12, Stage: "s-1", APIGateway: APIGateway{Endpoint: "https://x.example/prod"}},
		Monitor:     Monitor{Window: 90 * time.Second, Topic: "arn:aws:sns:eu-central-1:1:ops", Webhook: Webhook{URL: "http://ops.example:81/a?b=c"}},
		Metrics:     Metrics{CloudWatch: CloudWatch{Service: "usher-prod"}},
		Log:         Log{Level: "trace", Format: "console"},
		Traces:      Traces{OTLP: "http://127.0.0.1:4318", Sample: "7%"},
		UnknownType: UnknownType{Wait: 12 * time.Hour},
		Starvation:  Starvation{Share: "5%"},
	}
	cfg.origins, cfg.Warnings = nil, nil
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("got  %+v\nwant %+v", cfg, want)
	}
}

func TestLaterLayersWin(t *testing.T) {
	dir := t.TempDir()
	base := writeFile(t, dir, "base.yaml", shop+"engine: {slots: 1, window: 1, drain: 1s}\nlog: {level: warn}\n")
	prod := writeFile(t, dir, "prod.yaml", "engine:\n  window: 2\n  drain: 2s\ntypes:\n  order.rush: {timeout: 2s}\n")
	cfg := mustLoad(t, Options{
		Files:   []string{base, prod},
		Environ: []string{"USHER__ENGINE__DRAIN=3s", "USHER__LOG__LEVEL=error", "OTHER=x", "broken"},
		Flags:   map[string]any{"log.level": "debug"},
	})
	if cfg.Engine.Slots != 1 || cfg.Engine.Window != 2 || cfg.Engine.Drain != 3*time.Second || cfg.Log.Level != "debug" {
		t.Errorf("engine %+v, log %+v", cfg.Engine, cfg.Log)
	}
	if rush := cfg.Types["order.rush"]; rush.Plugin != "shop" || rush.Timeout != 2*time.Second {
		t.Errorf("files are not merged key by key: %+v", rush)
	}
	for key, want := range map[string]string{
		"engine.slots": base + ":6", "engine.window": prod + ":2", "engine.drain": "USHER__ENGINE__DRAIN",
		"log.level": "flag log.level", "log.format": "default", "types.order.rush.plugin": base + ":3",
		"types.order.rush.timeout": prod + ":5", "types.order.rush.retry.attempts": "default", "plugins.shop.command": base + ":5",
	} {
		if got := cfg.Origins()[key].String(); got != want {
			t.Errorf("%s comes from %s, want %s", key, got, want)
		}
	}
	if _, has := cfg.Origins()["types.order.rush.priority"]; has {
		t.Error("a key without a value has an origin")
	}
}

func TestLaterFilesReplaceLists(t *testing.T) {
	dir := t.TempDir()
	a := writeFile(t, dir, "a.yaml", "broker: {urls: [stomp://a, stomp://b]}\n")
	b := writeFile(t, dir, "b.yaml", "broker: {urls: [stomp://c]}\n")
	if got := mustLoad(t, Options{Files: []string{a, b}}).Broker.URLs; !reflect.DeepEqual(got, []string{"stomp://c"}) {
		t.Errorf("got %v", got)
	}
}

func TestEnvironmentNamesAKeyInEitherWay(t *testing.T) {
	for _, variable := range []string{"USHER__ENGINE__MAX_BODY", "USHER__ENGINE__MAXBODY"} {
		cfg := mustLoad(t, Options{Environ: []string{variable + "=2048"}})
		if cfg.Engine.MaxBody != 2048 || cfg.Origins()["engine.maxBody"].Variable != variable {
			t.Errorf("%s: %d from %v", variable, cfg.Engine.MaxBody, cfg.Origins()["engine.maxBody"])
		}
	}
	cfg := mustLoad(t, Options{Environ: []string{"USHER__UNKNOWN_TYPE__WAIT=1d"}})
	if cfg.UnknownType.Wait != 24*time.Hour {
		t.Errorf("unknownType.wait is %v", cfg.UnknownType.Wait)
	}
}

func TestEnvironmentAloneSelectsABroker(t *testing.T) {
	cfg := mustLoad(t, Options{Environ: []string{"USHER__BROKER__URLS=stomp://a:1, stomp+ssl://b"}})
	if got := cfg.Broker.URLs; !reflect.DeepEqual(got, []string{"stomp://a:1", "stomp+ssl://b"}) {
		t.Errorf("urls: %q", got)
	}
	if cfg.Embedded.Stomp != "" || cfg.Broker.Queue != "usher.work" {
		t.Errorf("%+v, %+v", cfg.Embedded, cfg.Broker)
	}
}

func TestFlagsMayHaveTheirOwnTypes(t *testing.T) {
	cfg := mustLoad(t, Options{Flags: map[string]any{
		"engine.slots": 7, "engine.drain": 90 * time.Second, "engine.maxBody": "2KiB", "broker.urls": []string{"stomp://a", "stomp://b"},
	}})
	if cfg.Engine.Slots != 7 || cfg.Engine.Drain != 90*time.Second || cfg.Engine.MaxBody != 2048 || len(cfg.Broker.URLs) != 2 {
		t.Errorf("%+v %+v", cfg.Engine, cfg.Broker)
	}
}

func TestPathsAreRelativeToTheirFile(t *testing.T) {
	dir := t.TempDir()
	sum := strings.Repeat("0", 64)
	a := writeFile(t, dir, "a/a.yaml", fmt.Sprintf(`
types: {t: {plugin: p}, u: {plugin: q}, v: {plugin: r}}
plugins:
  p: {command: [./p, ./argument], files: {x: %[1]s, /abs/../y: %[1]s}}
  q: {command: [q], dir: sub}
  r: {command: [r/r]}
`, sum))
	b := writeFile(t, dir, "b/b.yaml", fmt.Sprintf("plugins: {q: {dir: ../q}, p: {files: {z: %s}}}", sum))
	cfg := mustLoad(t, Options{Files: []string{a, b}})
	for _, c := range []struct{ got, want any }{
		{cfg.Plugins["p"].Command, []string{dir + "/a/p", "./argument"}},
		{cfg.Plugins["p"].Dir, dir + "/a"},
		{cfg.Plugins["p"].Files, map[string]string{dir + "/a/x": sum, "/y": sum, dir + "/b/z": sum}},
		{cfg.Plugins["q"].Command, []string{"q"}},
		{cfg.Plugins["q"].Dir, dir + "/q"},
		{cfg.Plugins["r"].Command, []string{dir + "/a/r/r"}},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("got %v, want %v", c.got, c.want)
		}
	}
	if got := cfg.Origins()["plugins.p.files."+dir+"/b/z"].File; got != b {
		t.Errorf("the file z comes from %q", got)
	}
}

// A relative name of the file itself must not make "./p" a bare "p", which
// would be looked for in PATH.
func TestProgramBesideARelativeFileStaysAPath(t *testing.T) {
	t.Chdir(t.TempDir())
	writeFile(t, ".", "usher.yaml", "types: {t: {plugin: p}}\nplugins: {p: {command: [./p]}}\n")
	cfg := mustLoad(t, Options{Files: []string{"usher.yaml"}})
	if got := cfg.Plugins["p"].Command[0]; !filepath.IsAbs(got) || filepath.Base(got) != "p" {
		t.Errorf("the command is %q", got)
	}
}

func TestAliasesAndMergesAreFollowed(t *testing.T) {
	cfg := mustLoad(t, fromText(`
types:
  base: &base {plugin: shop, timeout: 5s, priority: 1}
  same: *base
  other: {<<: *base, timeout: 6s}
  two: {<<: [{timeout: 7s}, *base], priority: 2}
plugins:
  shop: {command: [usher]}
`))
	for name, want := range map[string]struct {
		timeout  time.Duration
		priority string
	}{"base": {5 * time.Second, "1"}, "same": {5 * time.Second, "1"}, "other": {6 * time.Second, "1"}, "two": {7 * time.Second, "2"}} {
		got := cfg.Types[name]
		if got.Plugin != "shop" || got.Timeout != want.timeout || got.Priority != want.priority {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestLineEndsOfWindowsAreTolerated(t *testing.T) {
	cfg := mustLoad(t, fromText("engine:\r\n  slots: 5\r\n  window: 6\r\n"))
	if cfg.Engine.Slots != 5 || cfg.Engine.Window != 6 || cfg.Origins()["engine.window"].Line != 3 {
		t.Errorf("%+v, window in line %d", cfg.Engine, cfg.Origins()["engine.window"].Line)
	}
}

func TestSecretsComeFromTheEnvironmentAndAreNotPrinted(t *testing.T) {
	cfg := mustLoad(t, Options{Environ: []string{"USHER_BROKER_LOGIN=joe", "USHER_BROKER_PASSCODE=hunter=2", "USHER_TOKEN=tok", "USHER_WATCH_KEYS=shop:a2V5", "USHER_GATEWAY_SECRET=gate", "USHER_WEBHOOK_SECRET=shh"}})
	if want := (Secrets{BrokerLogin: "joe", BrokerPasscode: "hunter=2", Token: "tok", WatchKeys: "shop:a2V5", Gateway: "gate", Webhook: "shh"}); cfg.Secrets != want {
		t.Fatal("the secrets are not those of the environment")
	}
	asJSON, err := json.Marshal(map[string]any{"config": cfg, "secrets": cfg.Secrets, "key": map[Secrets]int{cfg.Secrets: 1}})
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := Annotate(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for how, printed := range map[string]string{
		"%v": fmt.Sprintf("%v", cfg.Secrets), "%+v": fmt.Sprintf("%+v", *cfg), "%#v": fmt.Sprintf("%#v", *cfg),
		"pointer": fmt.Sprint(&cfg.Secrets), "json": string(asJSON), "yaml": string(asYAML),
	} {
		for _, secret := range []string{"joe", "hunter", "tok", "a2V5", "shh"} {
			if strings.Contains(printed, secret) {
				t.Errorf("%s shows %q: %s", how, secret, printed)
			}
		}
	}
	if !strings.Contains(string(asYAML), "# USHER_BROKER_LOGIN set, USHER_BROKER_PASSCODE set, USHER_TOKEN set, USHER_WATCH_KEYS set") {
		t.Errorf("it does not say which secrets are set:\n%s", asYAML)
	}
}

func TestWarnings(t *testing.T) {
	plugin := shop + "  idle: {command: [usher]}\n"
	for name, c := range map[string]struct {
		options Options
		want    string // empty: none
	}{
		"plugin without types": {fromText(plugin), "usher.yaml:6:3: warning: no type names the plugin \"idle\""},
		"server for all":       {Options{Flags: map[string]any{"server.listen": ":80"}}, "flag server.listen: warning: the server can be reached from other machines and has no token"},
		"with a token":         {Options{Flags: map[string]any{"server.listen": ":80"}, Environ: []string{"USHER_TOKEN=x"}}, ""},
		"pages without keys":   {Options{Default: []byte("notify: {origins: [https://a.example]}"), DefaultName: "usher.yaml", Flags: map[string]any{"server.listen": ":80"}, Environ: []string{"USHER_TOKEN=x"}}, "usher.yaml:1:10: warning: pages of these origins cannot watch"},
		"pages with keys":      {Options{Default: []byte("notify: {origins: [https://a.example]}"), DefaultName: "usher.yaml", Flags: map[string]any{"server.listen": ":80"}, Environ: []string{"USHER_TOKEN=x", "USHER_WATCH_KEYS=x"}}, ""},
		"pages, localhost":     {Options{Default: []byte("notify: {origins: [https://a.example]}"), DefaultName: "usher.yaml"}, ""},
		"localhost":            {Options{Flags: map[string]any{"server.listen": "localhost:80"}}, ""},
		"STOMP for all":        {fromText("embedded: {stomp: 0.0.0.0:61613}"), "usher.yaml:1:12: warning: the embedded broker can be reached from other machines"},
		"both brokers":         {fromText("embedded: {stomp: 127.0.0.1:1}\nbroker: {urls: [stomp://a]}"), "usher.yaml:1:12: warning: embedded.stomp has no effect"},
		"one underscore":       {Options{Environ: []string{"USHER_BROKER_QUEUE=x", "USHER_ENGINE_MAXBODY=1"}}, "environment USHER_BROKER_QUEUE: warning: this variable is not read (did you mean USHER__BROKER__QUEUE?)"},
		"not ours":             {Options{Environ: []string{"USHER_PORT=tcp://10.0.0.1:80", "USHER_SERVICE_HOST=x", "USHER_BROKER=x"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := Errors(mustLoad(t, c.options).Warnings).Error()
			if c.want == "" && got != "" || !strings.HasPrefix(got, c.want) {
				t.Errorf("got:\n%s\nwant: %s", got, c.want)
			}
		})
	}
}

func TestErrorsAreFoundByType(t *testing.T) {
	_, err := Load(fromText("engin: {}"))
	wrapped := fmt.Errorf("run: %w", err)
	found, ok := errors.AsType[Errors](wrapped)
	if !ok || len(found) != 1 {
		t.Fatalf("%v", wrapped)
	}
	want := Problem{File: "usher.yaml", Line: 1, Column: 1, Path: "engin", Message: `unknown key "engin" (did you mean "engine"?)`}
	got := found[0]
	if got.File != want.File || got.Line != want.Line || got.Column != want.Column || got.Path != want.Path || got.Message != want.Message || got.Hint == "" {
		t.Errorf("got %+v", got)
	}
	asJSON, err := json.Marshal(found)
	if err != nil || !strings.HasPrefix(string(asJSON), `[{"file":"usher.yaml","line":1,"column":1,"path":"engin","message":`) {
		t.Errorf("%s, %v", asJSON, err)
	}
}
