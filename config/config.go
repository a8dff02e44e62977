package config

import (
	"strconv"
	"strings"
	"time"
)

// Config is all that usher is told by files, environment and flags, checked and
// with every default filled in. Who loads it owns it; it is not changed after.
type Config struct {
	Engine      Engine            `koanf:"engine"`
	Starvation  Starvation        `koanf:"starvation"`
	UnknownType UnknownType       `koanf:"unknownType"`
	Types       map[string]Type   `koanf:"types"`   // by message type
	Plugins     map[string]Plugin `koanf:"plugins"` // by name
	Broker      Broker            `koanf:"broker"`
	Embedded    Embedded          `koanf:"embedded"`
	Records     Records           `koanf:"records"`
	Server      Server            `koanf:"server"`
	Notify      Notify            `koanf:"notify"`
	Monitor     Monitor           `koanf:"monitor"`
	Metrics     Metrics           `koanf:"metrics"`
	Log         Log               `koanf:"log"`
	Traces      Traces            `koanf:"traces"`

	// Secrets come from the environment only.
	Secrets Secrets `koanf:"-"`
	// Warnings are what loads and yet looks wrong.
	Warnings []Problem `koanf:"-"`

	origins map[string]Origin
}

// Engine says how much runs at once.
type Engine struct {
	// Slots is how many messages run at once, in all plugins together.
	Slots int `koanf:"slots"`
	// Window is how many un-acked messages the broker gives us of each lane.
	Window int `koanf:"window"`
	// Drain is how long a stop waits for the messages that run.
	Drain time.Duration `koanf:"drain"`
	// ParkAfter is the longest wait that is left to the broker's scheduler.
	ParkAfter time.Duration `koanf:"parkAfter"`
	// MaxBody is the longest body that is run, in bytes.
	MaxBody int64 `koanf:"maxBody"`
	// Memory is what the bodies in hand may take, in bytes.
	Memory int64 `koanf:"memory"`
	// Reserve keeps slots for the top levels.
	Reserve Reserve `koanf:"reserve"`
}

// Reserve keeps slots for the top levels.
type Reserve struct {
	// Slots is how many are kept.
	Slots int `koanf:"slots"`
	// From is the lowest level that may have them.
	From int `koanf:"from"`
}

// Starvation says what lower levels get while higher ones wait.
type Starvation struct {
	// Share is their part of all starts, as in "5%".
	Share string `koanf:"share"`
}

// Part is the share as a number, 0 to 0.5.
func (s Starvation) Part() float64 {
	return part(s.Share)
}

// Traces is where spans go.
type Traces struct {
	// OTLP is the URL of an OpenTelemetry collector; "": there are no spans.
	OTLP string `koanf:"otlp"`
	// Sample is how many of the traces that usher begins are told of, as in "10%".
	Sample string `koanf:"sample"`
}

// Part is the sample as a part of 1.
func (t Traces) Part() float64 { return part(t.Sample) }

// part reads a percentage; 0 if it is none.
func part(text string) float64 {
	n, err := strconv.Atoi(strings.TrimSuffix(text, "%"))
	if err != nil {
		return 0
	}
	return float64(n) / 100
}

// UnknownType says what becomes of messages of a type that is not in Types.
type UnknownType struct {
	// Wait is how long such a message waits before it is dead-lettered; 0: it is at once.
	Wait time.Duration `koanf:"wait"`
}

// Type is how messages of one type are run.
type Type struct {
	// Plugin names the entry of Config.Plugins that runs them.
	Plugin string `koanf:"plugin"`
	// Priority is the level of its messages, as in "9", or the range that each
	// message's own is brought into, as in "3-7"; "" keeps that.
	Priority string `koanf:"priority"`
	// Concurrency is how many run at once in one engine; nil: as many as there are slots.
	Concurrency *int `koanf:"concurrency"`
	// Rate is how many one engine starts, as in "50/s" or "10/m"; "": as many as there are.
	Rate string `koanf:"rate"`
	// Timeout is how long one attempt may take.
	Timeout time.Duration `koanf:"timeout"`
	Retry   Retry         `koanf:"retry"`
	Delay   Delay         `koanf:"delay"`
	// MaxAge is how old a message may get by being deferred.
	MaxAge time.Duration `koanf:"maxAge"`
	// Breaker is how many attempts in a row must fail for the others to wait.
	Breaker int `koanf:"breaker"`
	// Dedupe is what becomes of a message that is sent again: done, claim or off.
	Dedupe string `koanf:"dedupe"`
}

// Levels are the bounds of a message's level; nil: there are none.
func (t Type) Levels() (low, high *int) {
	if l, h, ok := parseLevels(t.Priority); ok {
		return &l, &h
	}
	return nil, nil
}

// PerSecond is the rate as a number a second; 0: there is none.
func (t Type) PerSecond() float64 {
	number, unit, _ := strings.Cut(t.Rate, "/")
	n, err := strconv.Atoi(number)
	if err != nil {
		return 0
	}
	return float64(n) / map[string]float64{"s": 1, "m": 60, "h": 3600}[unit]
}

// Retry is what happens when a handler answers with an error.
type Retry struct {
	// Attempts is how often a message is tried in one round.
	Attempts int `koanf:"attempts"`
	// Redeliveries are the waits before further rounds.
	Redeliveries []time.Duration `koanf:"redeliveries"`
	// Backoff bounds the first wait between attempts; it doubles, up to 2 s.
	Backoff time.Duration `koanf:"backoff"`
}

// Delay is how long messages wait before their first attempt.
type Delay struct {
	// Default is for messages that ask for no delay themselves.
	Default time.Duration `koanf:"default"`
	// Bypass is the lowest level that does not wait for Default; nil: none.
	Bypass *int `koanf:"bypass"`
}

// Plugin is one plugin process.
type Plugin struct {
	// Command is the program and its arguments. The program is a bare name
	// ("usher" is this very binary, others are looked for in PATH when the plugin
	// starts) or an absolute path.
	Command []string `koanf:"command"`
	// Dir is the folder it runs in, absolute.
	Dir string `koanf:"dir"`
	// SHA256 is the digest that the program must have, 64 lower-case hex digits.
	// Empty: any.
	SHA256 string `koanf:"sha256"`
	// Files are more files with the digest each must have, by absolute path.
	Files map[string]string `koanf:"files"`
	// Env is its environment, besides what every plugin gets.
	Env map[string]string `koanf:"env"`
	// Memory is how many bytes of data a process may have. 0: as many as there are.
	Memory int64 `koanf:"memory"`
	// Grace is how long a message may go on after it was cancelled; then the
	// process is killed.
	Grace time.Duration `koanf:"grace"`
}

// Broker is a STOMP broker of one's own.
type Broker struct {
	// URLs are its endpoints, of which one is live: stomp://host:port or
	// stomp+ssl://host:port. None: the embedded broker is used.
	URLs []string `koanf:"urls"`
	// Secret names a secret of AWS Secrets Manager with the user. Empty: it is in Secrets.
	Secret string `koanf:"secret"`
	// Queue is where producers send; its lanes are Queue.p0 to Queue.p9.
	Queue string `koanf:"queue"`
	// Heartbeat is how often either side gives a sign of life.
	Heartbeat time.Duration `koanf:"heartbeat"`
}

// Embedded is the broker inside the process, used when Broker has no URLs.
type Embedded struct {
	// Stomp is the address it listens on, host:port. Empty if it is not used.
	Stomp string `koanf:"stomp"`
}

// Records says where records are kept.
type Records struct {
	// DynamoDB has the tables; without a name of them it is a file of this machine.
	DynamoDB DynamoDB `koanf:"dynamodb"`
}

// DynamoDB says which tables, and where.
type DynamoDB struct {
	Table    string `koanf:"table"`    // their names begin with it; "": none are used
	Region   string `koanf:"region"`   // "": that of the environment
	Endpoint string `koanf:"endpoint"` // "": the region's
}

// Server is the HTTP server.
type Server struct {
	// Listen is its address, host:port.
	Listen string `koanf:"listen"`
	// Awake is the public address that is polled to stay awake. Empty: none is.
	Awake string `koanf:"awake"`
}

// Notify says who may watch messages.
type Notify struct {
	// Origins are web origins whose pages may, besides those of the server's own host.
	Origins []string `koanf:"origins"`
	// PerAddress is how many connections one address may have.
	PerAddress int `koanf:"perAddress"`
	// Stage is what the tokens of those who watch are for.
	Stage string `koanf:"stage"`
	// APIGateway is a WebSocket API that watchers connect to.
	APIGateway APIGateway `koanf:"apigateway"`
}

// APIGateway is a WebSocket API of Amazon API Gateway.
type APIGateway struct {
	// Endpoint is its address for back ends, stage included. Empty: there is none.
	Endpoint string `koanf:"endpoint"`
}

// Monitor says who is told of dead letters.
type Monitor struct {
	// Window is how long those of one kind are counted for one note.
	Window time.Duration `koanf:"window"`
	// Topic is the ARN of an SNS topic that takes the notes. Empty: there is none.
	Topic string `koanf:"topic"`
	// Webhook takes the notes.
	Webhook Webhook `koanf:"webhook"`
}

// Webhook is where notes are sent.
type Webhook struct {
	// URL is POSTed to. Empty: nobody is told.
	URL string `koanf:"url"`
}

// Metrics says who is told of metrics.
type Metrics struct {
	CloudWatch CloudWatch `koanf:"cloudwatch"`
}

// CloudWatch takes metrics from lines on standard output.
type CloudWatch struct {
	// Service is the dimension of all of them. Empty: there are none.
	Service string `koanf:"service"`
}

// Log says what is logged.
type Log struct {
	// Level is trace, debug, info, warn or error.
	Level string `koanf:"level"`
	// Format is auto (console on a terminal, else json), json or console.
	Format string `koanf:"format"`
}
