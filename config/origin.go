package config

import (
	"encoding/json"
	"fmt"
	"maps"
)

// Origin is where a value came from. The zero Origin is the default.
type Origin struct {
	// File is the file's name as it was given to Load; Line and Column count
	// from 1, columns in characters.
	File         string
	Line, Column int
	// Variable is the environment variable.
	Variable string
	// Flag is the key of Options.Flags.
	Flag string
}

// String is "default", "usher.yaml:3", "USHER__ENGINE__SLOTS" or "flag engine.slots".
func (o Origin) String() string {
	switch {
	case o.File != "":
		return fmt.Sprintf("%s:%d", o.File, o.Line)
	case o.Variable != "":
		return o.Variable
	case o.Flag != "":
		return "flag " + o.Flag
	}
	return "default"
}

// MarshalText is String.
func (o Origin) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// Origins tells where each value came from, by its key, for example
// "types.order.rush.timeout". Keys that have no value are not in it. The map is
// the caller's.
func (c *Config) Origins() map[string]Origin { return maps.Clone(c.origins) }

// Secrets are what no file may hold. Printed in any way they tell only which of
// them are set; the fields themselves are to be handed on, not printed.
type Secrets struct {
	BrokerLogin    string // USHER_BROKER_LOGIN
	BrokerPasscode string // USHER_BROKER_PASSCODE
	Token          string // USHER_TOKEN: what clients of the HTTP server must send
	WatchKeys      string // USHER_WATCH_KEYS: what makes tokens to watch messages with, as in shop:<base64>,billing:<base64>
	Gateway        string // USHER_GATEWAY_SECRET: what notify.apigateway shows when it calls
	Webhook        string // USHER_WEBHOOK_SECRET: signs the notes to monitor.webhook
}

// The environment variables of Secrets.
const (
	LoginVariable     = "USHER_BROKER_LOGIN"
	PasscodeVariable  = "USHER_BROKER_PASSCODE" //nolint:gosec // the name of the variable, not its value
	TokenVariable     = "USHER_TOKEN"
	WatchKeysVariable = "USHER_WATCH_KEYS"
	GatewayVariable   = "USHER_GATEWAY_SECRET"
	WebhookVariable   = "USHER_WEBHOOK_SECRET"
)

// String tells which secrets are set.
func (s Secrets) String() string {
	text := func(variable, value string) string {
		if value == "" {
			return variable + " not set"
		}
		return variable + " set"
	}
	return text(LoginVariable, s.BrokerLogin) + ", " + text(PasscodeVariable, s.BrokerPasscode) + ", " + text(TokenVariable, s.Token) + ", " +
		text(WatchKeysVariable, s.WatchKeys) + ", " + text(GatewayVariable, s.Gateway) + ", " + text(WebhookVariable, s.Webhook)
}

// GoString is String, so that %#v shows no secret either.
func (s Secrets) GoString() string { return s.String() }

// MarshalText is String.
func (s Secrets) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON is String, quoted.
func (s Secrets) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }
