package config

import (
	"slices"
	"strings"
	"time"
)

// key is one row of the table of keys, from which all else is made: what is
// accepted, what is said of it, the schema and the reference.
type key struct {
	// path has levels separated by a blank; * stands for a name that the user chooses.
	path string
	kind kind
	// def is the default as YAML has it; empty: there is none.
	def      string
	required bool
	orElse   string // what can be done instead of adding it
	// reload says that the key can be changed while usher runs.
	reload bool
	doc    string
}

const (
	day = 24 * time.Hour
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

// keys is the table. Sections stand before what is in them.
func keys() []key {
	return slices.Concat(engineKeys(), typeKeys(), pluginKeys(), brokerKeys(), recordKeys(), serverKeys(), monitorKeys(), metricsKeys(), logKeys(), traceKeys(), unknownTypeKeys())
}

func engineKeys() []key {
	return []key{
		{path: "engine", doc: "How much runs at once, and how much is kept in hand."},
		{path: "engine slots", kind: count(1, 1024), def: "32", reload: true,
			doc: "Messages that run at once, in all plugins together."},
		{path: "engine window", kind: count(1, 1000), def: "100",
			doc: "Messages in hand of each lane, un-acked: what the broker sends ahead."},
		{path: "engine drain", kind: duration(time.Millisecond, 10*time.Minute), def: "10s", reload: true,
			doc: "How long a stop waits for the messages that run. What is not done then is delivered again."},
		{path: "engine parkAfter", kind: duration(time.Second, 5*time.Minute), def: "5s", reload: true,
			doc: "The longest wait that is left to the broker's scheduler. What waits longer is parked in the record table and costs the broker nothing."},
		{path: "engine maxBody", kind: size(kib, 32*mib), def: "1MiB",
			doc: "The longest body that is run. A longer one is dead-lettered as too_large."},
		{path: "engine memory", kind: size(mib, 1024*gib), def: "2GiB",
			doc: "Memory for the bodies in hand. 11 lanes x window x maxBody must fit into it."},

		{path: "engine reserve", doc: "Slots that only the top levels may have."},
		{path: "engine reserve slots", kind: count(0, 1023), def: "0", reload: true,
			doc: "How many of the slots are kept for them."},
		{path: "engine reserve from", kind: count(1, 9), def: "8", reload: true,
			doc: "The lowest of the levels they are kept for."},

		{path: "starvation", doc: "What lower levels get while higher ones wait."},
		{path: "starvation share", kind: percent(50), def: "0%", reload: true,
			doc: "Their part of all starts, the oldest message first. 0% is strictly by level."},
	}
}

func typeKeys() []key {
	return []key{
		{path: "types", doc: "Message types, by name: what the header type (JMSType) says."},
		{path: "types *", kind: kind{names: new(typeName())}, doc: "How messages of this type are run."},
		{path: "types * plugin", kind: anyText("the name of a plugin", "orders"), required: true, reload: true,
			doc: "The plugin that runs them: a name under plugins."},
		{path: "types * priority", kind: levels(), reload: true,
			doc: "The level of all messages of this type, 9 first; or the range that each message's own is brought into. Without it each message has its own."},
		{path: "types * concurrency", kind: count(1, 1024), reload: true,
			doc: "How many messages of this type run at once in one engine. Without it, as many as there are slots."},
		{path: "types * rate", kind: rate(), reload: true,
			doc: "How many messages of this type one engine starts in a second, minute or hour, evenly. Without it, as many as there are."},
		{path: "types * timeout", kind: duration(time.Millisecond, time.Hour), def: "30s", reload: true,
			doc: "How long one attempt may take. Then the handler is cancelled, and the attempt has failed."},
		{path: "types * retry", doc: "What happens when the handler answers with an error."},
		{path: "types * retry attempts", kind: count(1, 100), def: "3", reload: true,
			doc: "How often a message is tried in a round. When there are no redeliveries left it is dead-lettered as exhausted."},
		{path: "types * retry redeliveries", kind: listOf("a list of durations, each 1s to 30d", duration(time.Second, 30*day), "[30s, 5m]"), reload: true,
			doc: "The waits before further rounds of attempts, in order. Up to a tenth is added to each, so that what failed together does not come back together."},
		{path: "types * retry backoff", kind: duration(time.Millisecond, 2*time.Second), def: "200ms", reload: true,
			doc: "The longest first wait between attempts. It doubles each time, up to 2s, and the wait is a random part of it."},
		{path: "types * delay", doc: "How long messages wait before their first attempt."},
		{path: "types * delay default", kind: duration(0, 30*day), def: "0s", reload: true,
			doc: "The wait of a message whose headers ask for none."},
		{path: "types * delay bypass", kind: count(0, 9), reload: true,
			doc: "Messages of this level and above do not wait for it. A wait that a header or an operator asks for holds for all levels."},
		{path: "types * maxAge", kind: duration(time.Second, 30*day), def: "24h", reload: true,
			doc: "How old a message may get by being deferred by its handler. Then it is dead-lettered."},
		{path: "types * breaker", kind: count(0, 10_000), def: "0", reload: true,
			doc: "How many attempts in a row, of whatever messages of the type, must fail for the others to wait, while one at a time is tried. 0 is never."},
		{path: "types * dedupe", kind: choice("done", "claim", "off"), def: "done", reload: true,
			doc: "What becomes of a message that is sent again with the same id and body. done: it is acked once the first is done. claim: also, and where two engines get both at once one runs it, for a write more a message. off: it runs, and the broker's own message-id is its id."},
	}
}

func pluginKeys() []key {
	return []key{
		{path: "plugins", doc: "Plugin processes, by name."},
		{path: "plugins *", kind: kind{names: new(pluginName())}, doc: "One plugin process."},
		{path: "plugins * command", kind: listOf("a list, the program and its arguments", pattern("text", `^[^\x00]*$`, ""), "[./bin/orders, --fast]"), required: true, reload: true,
			doc: "The program and its arguments, no shell. A program with a slash is relative to the folder of this file; one without is looked for in PATH when it starts; usher alone is this very binary."},
		{path: "plugins * dir", kind: anyText("a folder", "plugins/orders"), reload: true,
			doc: "The folder it runs in, relative to the folder of this file, which is the default."},
		{path: "plugins * sha256", kind: digest(), reload: true,
			doc: "The digest that the program must have, or it is not started."},
		{path: "plugins * files", kind: tableOf("a mapping of files to their SHA-256 digests", anyText("a file", ""), digest(), "{main.py: 77c0…}"), reload: true,
			doc: "More files with their digests, such as the script of an interpreter; relative to the folder of this file."},
		{path: "plugins * env", kind: tableOf("a mapping of variables to their values", variableName(), scalar("text"), "{REGION: eu}"), reload: true,
			doc: "Environment variables of the process. Of usher's own it gets only PATH, HOME, TMPDIR, LANG and TZ."},
		{path: "plugins * memory", kind: size(32*mib, 1024*gib), reload: true,
			doc: "How much memory a process of it may have for data; on Linux. Who wants more fails, as most programs do, or ends. Without it there is no limit, and when the machine has none left the plugin ends and usher does not."},
		{path: "plugins * grace", kind: duration(time.Millisecond, time.Minute), def: "2s", reload: true,
			doc: "How long a message may go on after it was cancelled. Then its process is killed."},
	}
}

func brokerKeys() []key {
	return []key{
		{path: "broker", doc: "A STOMP broker of your own. Without it the embedded broker is used."},
		{path: "broker urls", kind: listOf("a list of URLs, stomp://host:port or stomp+ssl://host:port", endpoint(), "[stomp+ssl://b-1.example:61614]"), required: true, orElse: ", or remove broker to use the embedded one",
			doc: "Its endpoints, of which one is live. Login and passcode come from the environment: " + LoginVariable + ", " + PasscodeVariable + "."},
		{path: "broker secret", kind: pattern("the name or ARN of a secret, 1 to 512 of A-Z a-z 0-9 / _ + = . @ : -", `^[A-Za-z0-9/_+=.@:-]{1,512}$`, "usher/broker"),
			doc: `A secret of AWS Secrets Manager, {"username":"…","password":"…"}, with login and passcode in the place of the environment's. It is read again when the broker refuses them.`},
		{path: "broker queue", kind: pattern("the name of a queue, 1 to 200 of A-Z a-z 0-9 . _ -", `^[A-Za-z0-9._-]{1,200}$`, "usher.work"), def: "usher.work",
			doc: "The queue that producers send to. Its lanes are queue.p0 to queue.p9."},
		{path: "broker heartbeat", kind: duration(100*time.Millisecond, 5*time.Minute), def: "10s",
			doc: "How often either side gives a sign of life. A broker that is silent for two of them is left."},

		{path: "embedded", doc: "The broker inside this process, used without broker."},
		{path: "embedded stomp", kind: address(), def: "127.0.0.1:61613",
			doc: "The address where producers reach it. It asks nobody for a login."},
	}
}

func recordKeys() []key {
	return []key{
		{path: "records", doc: "Where records, messages that wait, and dead letters are kept. Without it that is a file in the state folder."},
		{path: "records dynamodb", doc: "Tables of Amazon DynamoDB, which engines on many machines share. Credentials are found as all AWS tools find them."},
		{path: "records dynamodb table", kind: pattern("the beginning of the tables' names, 3 to 200 of A-Z a-z 0-9 . _ -", `^[A-Za-z0-9._-]{3,200}$`, "usher"), required: true, orElse: ", or remove dynamodb",
			doc: "What the names of the tables begin with: usher for usher-records, usher-bodies and usher-letters. They must be there."},
		{path: "records dynamodb region", kind: pattern("an AWS region", `^[a-z0-9-]{1,40}$`, "eu-central-1"),
			doc: "Their region. Without it that of the environment (AWS_REGION) or of the AWS profile."},
		{path: "records dynamodb endpoint", kind: webURL(),
			doc: "Another address than the region's: a VPC endpoint, or what stands in for DynamoDB in tests."},
	}
}

func serverKeys() []key {
	return []key{
		{path: "server", doc: "The HTTP server: health, metrics, API, status over WebSocket."},
		{path: "server listen", kind: address(), def: "127.0.0.1:8080",
			doc: "Its address. One that is not loopback needs a token in the environment: " + TokenVariable + "."},
		{path: "server awake", kind: webURL(),
			doc: "On AWS App Runner, the service's public address: a request by way of it is kept under way, because an instance without one gets next to no CPU."},

		{path: "notify", doc: "Who may watch messages over WebSocket."},
		{path: "notify origins", kind: listOf("a list of web origins, https://host or https://host:port", origin(), "[https://shop.example]"),
			doc: "Web origins whose pages may, exactly as browsers send them. Pages of the server's own host always may."},
		{path: "notify perAddress", kind: count(1, 100_000), def: "64",
			doc: "Connections that one address may have (in IPv6, one /64). Behind a proxy all clients have the proxy's."},
		{path: "notify stage", kind: pattern("1 to 64 of A-Z a-z 0-9 _ -", `^[A-Za-z0-9_-]{1,64}$`, "prod"), def: "local",
			doc: "What tokens to watch with are made for. One that was made for another stage is refused. Their keys come from the environment: " + WatchKeysVariable + "."},
		{path: "notify apigateway", doc: "A WebSocket API of Amazon API Gateway that watchers connect to. What it shows when it calls usher comes from the environment: " + GatewayVariable + "."},
		{path: "notify apigateway endpoint", kind: webURL(), required: true, orElse: ", or remove apigateway",
			doc: "Its address for back ends, stage included: https://{api}.execute-api.{region}.amazonaws.com/{stage}."},
	}
}

func monitorKeys() []key {
	return []key{
		{path: "monitor", doc: "Who is told of dead letters."},
		{path: "monitor window", kind: duration(time.Second, day), def: "5m",
			doc: "How long dead letters of one kind are counted for one note. The first is told at once."},
		{path: "monitor topic", kind: pattern("the ARN of an SNS topic, arn:aws:sns:region:account:name", `^arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]+:[A-Za-z0-9_.-]+$`, "arn:aws:sns:eu-central-1:123456789012:usher-ops"),
			doc: "A topic of Amazon SNS where notes go, as JSON; by mail, as a line of text."},
		{path: "monitor webhook", doc: "Where notes go, as JSON with a line of text for a chat."},
		{path: "monitor webhook url", kind: webURL(), required: true, orElse: ", or remove webhook",
			doc: "It is POSTed to. A URL that is itself a secret comes from the environment: " + variableOf(path{"monitor", "webhook", "url"}) + ". With " + WebhookVariable + " there, bodies are signed."},
	}
}

func metricsKeys() []key {
	return []key{
		{path: "metrics", doc: "Metrics for those who do not read /metrics."},
		{path: "metrics cloudwatch", doc: "Lines on standard output, one a minute, that CloudWatch Logs makes metrics of: backlog, oldest message of each lane, dead letters, what should have been released."},
		{path: "metrics cloudwatch service", kind: pattern("a name, 1 to 100 of A-Z a-z 0-9 . _ -", `^[A-Za-z0-9._-]{1,100}$`, "usher-prod"), required: true, orElse: ", or remove cloudwatch",
			doc: "The dimension Service of all of them, in the namespace usher."},
	}
}

func logKeys() []key {
	return []key{
		{path: "log", doc: "What is logged, on standard error."},
		{path: "log level", kind: choice("trace", "debug", "info", "warn", "error"), def: "info", reload: true,
			doc: "The least severe level that is logged."},
		{path: "log format", kind: choice("auto", "json", "console"), def: "auto",
			doc: "json is one object a line, console is for people; auto is console on a terminal, else json."},
	}
}

func traceKeys() []key {
	return []key{
		{path: "traces", doc: "What an OpenTelemetry collector is told: a span for each attempt."},
		{path: "traces otlp", kind: pattern("an http or https URL", `^https?://[^\s/?#@]+[^\s?#@]*$`, "http://127.0.0.1:4318"),
			doc: "The collector, which takes OTLP over HTTP; /v1/traces is added. Without it there are no spans."},
		{path: "traces sample", kind: percent(100), def: "100%",
			doc: "How many of the traces that usher begins are told of; for those that producers began their traceparent says it."},
	}
}

func unknownTypeKeys() []key {
	return []key{
		{path: "unknownType", doc: "Messages of a type that is not under types."},
		{path: "unknownType wait", kind: duration(0, 30*day), def: "0s", reload: true,
			doc: "How long they wait before they are dead-lettered as unknown_type; 0s: not at all."},
	}
}

func typeName() kind {
	return pattern("1 to 128 of A-Z a-z 0-9 . _ -", `^[A-Za-z0-9._-]{1,128}$`, "order.placed")
}

// pluginName has no dots and slashes, so that it can be the name of a folder.
func pluginName() kind {
	return pattern("1 to 64 of A-Z a-z 0-9 _ -", `^[A-Za-z0-9_-]{1,64}$`, "orders")
}

func variableName() kind {
	return pattern("a variable: A-Z a-z 0-9 _, no digit first", `^[A-Za-z_][A-Za-z0-9_]*$`, "REGION")
}

// shape is the table as a tree.
type shape struct {
	key
	name string // the last level of the path
	sub  []*shape
	any  *shape // below a name that the user chooses; nil: there are none
}

// tree makes the tree of the table; its root is no key.
func tree() *shape {
	root := &shape{}
	for _, k := range keys() {
		if k.kind.like == "" {
			k.kind.like = k.def
		}
		at := root
		levels := strings.Split(k.path, " ")
		for _, l := range levels[:len(levels)-1] {
			at = at.below(l)
		}
		s := &shape{key: k, name: levels[len(levels)-1]}
		if s.name == "*" {
			at.any = s
		} else {
			at.sub = append(at.sub, s)
		}
	}
	return root
}

// below is the shape of what has this name; nil: there is none.
func (s *shape) below(name string) *shape {
	for _, sub := range s.sub {
		if sub.name == name {
			return sub
		}
	}
	return s.any
}

// names are the keys of a section.
func (s *shape) names() []string {
	var names []string
	for _, sub := range s.sub {
		names = append(names, sub.name)
	}
	return names
}

// at finds the shape of a path; nil: there is none.
func (s *shape) at(p path) *shape {
	for _, name := range p {
		if s = s.below(name); s == nil {
			return nil
		}
	}
	return s
}

// path is where a value stands, level by level.
type path []string

// separator stands between the levels of a path that is one string. No name may
// have it; a dot would not do, types are full of them.
const separator = "\x1f"

func (p path) id() string { return strings.Join(p, separator) }

// String is the path for people.
func (p path) String() string { return printable(strings.Join(p, ".")) }

// to is the path one level down; it shares nothing with p.
func (p path) to(name string) path { return append(slices.Clip(p), name) }
