package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// kind is what the values of a key are: how they are written, checked, shown
// and described.
type kind struct {
	form  form
	words string // with its range: "a whole number, 1 to 1024"
	like  string // an example
	// schema is what JSON Schema can say of one value.
	schema map[string]any
	// parseFunc reads one value. Its error says what to do; it may be empty,
	// words say the rest.
	parseFunc func(text string) (any, error)
	// showFunc writes a value of a number or a quantity.
	showFunc func(n int64) string
	// names and values are the kinds of the names and values of a table; values
	// alone, of the items of a list.
	names, values *kind
}

// form is what a value looks like in YAML.
type form int

const (
	section  form = iota // a mapping that the table of keys describes
	text                 // one piece of text
	number               // one whole number
	quantity             // text, or a whole number
	literal              // one scalar of any type, taken as it is written
	list
	table
)

func showNumber(n int64) string { return strconv.FormatInt(n, 10) }

// count is a whole number.
func count(lo, hi int) kind {
	return kind{
		form: number, words: fmt.Sprintf("a whole number, %d to %d", lo, hi),
		schema:   map[string]any{"type": "integer", "minimum": lo, "maximum": hi},
		showFunc: showNumber,
		parseFunc: func(s string) (any, error) {
			n, err := strconv.Atoi(s)
			switch {
			case err != nil || s != strconv.Itoa(n):
				return nil, errors.New("write it in plain decimal digits")
			case n < lo || n > hi:
				return nil, errors.New("")
			}
			return n, nil
		},
	}
}

// duration is a length of time in Go's syntax, and days.
func duration(lo, hi time.Duration) kind {
	return kind{
		form: quantity, words: fmt.Sprintf("a duration, %s to %s", showDuration(lo), showDuration(hi)),
		schema: map[string]any{"anyOf": []any{
			map[string]any{"type": "string", "pattern": durations}, map[string]any{"const": 0},
		}},
		showFunc: func(n int64) string { return showDuration(time.Duration(n)) },
		parseFunc: func(s string) (any, error) {
			d, err := parseDuration(s)
			switch {
			case err != nil:
				return nil, err
			case d < lo || d > hi:
				return nil, errors.New("")
			}
			return d, nil
		},
	}
}

// durations are Go's, without signs, and whole days before them.
const durations = `^(0|[0-9]+d|([0-9]+d)?([0-9]+(\.[0-9]+)?(h|m|s|ms|us|µs|ns))+)$`

var isDuration = regexp.MustCompile(durations)

func parseDuration(s string) (time.Duration, error) {
	if _, err := strconv.Atoi(s); err == nil && s != "0" {
		return 0, fmt.Errorf("add a unit: %ss is seconds, %sms milliseconds", s, s)
	}
	if !isDuration.MatchString(s) {
		return 0, errors.New("write it as in 200ms, 30s, 1h30m or 7d")
	}
	const most = 36500 // days
	before, rest, found := strings.Cut(s, "d")
	if !found {
		before, rest = "0", s
	}
	n, err := strconv.Atoi(before)
	if err != nil || n > most {
		return 0, errors.New("")
	}
	whole := time.Duration(n) * 24 * time.Hour
	if rest == "" {
		return whole, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d > most*24*time.Hour {
		return 0, errors.New("")
	}
	return whole + d, nil
}

func showDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d > day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// size is a number of bytes, an int64.
func size(lo, hi int64) kind {
	return kind{
		form: quantity, words: fmt.Sprintf("a size, %s to %s", showSize(lo), showSize(hi)),
		schema: map[string]any{"anyOf": []any{
			map[string]any{"type": "string", "pattern": `^[0-9]+(KiB|MiB|GiB)?$`},
			map[string]any{"type": "integer", "minimum": lo, "maximum": hi},
		}},
		showFunc: showSize,
		parseFunc: func(s string) (any, error) {
			n, err := parseSize(s)
			switch {
			case err != nil:
				return nil, err
			case n < lo || n > hi:
				return nil, errors.New("")
			}
			return n, nil
		},
	}
}

var (
	sizes = regexp.MustCompile(`^(0|[1-9][0-9]{0,12})(?: ?([A-Za-z]+))?$`)
	units = [...]struct {
		name  string
		bytes int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"", 1}}
)

func parseSize(s string) (int64, error) {
	m := sizes.FindStringSubmatch(s)
	if m == nil {
		return 0, errors.New("write it as in 512KiB, 1MiB, 2GiB, or as a number of bytes")
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		return 0, err
	}
	for _, u := range units {
		if m[2] == u.name && s == m[1]+u.name {
			if n > math.MaxInt64/u.bytes {
				return 0, errors.New("")
			}
			return n * u.bytes, nil
		}
		if strings.EqualFold(m[2][:min(1, len(m[2]))], u.name[:min(1, len(u.name))]) {
			return 0, fmt.Errorf("the units are KiB, MiB and GiB: write %s%s", m[1], u.name)
		}
	}
	return 0, errors.New("the units are KiB, MiB and GiB")
}

func showSize(n int64) string {
	for _, u := range units {
		if n >= u.bytes && n%u.bytes == 0 {
			return fmt.Sprintf("%d%s", n/u.bytes, u.name)
		}
	}
	return showNumber(n)
}

// choice is one of a few words.
func choice(words ...string) kind {
	return kind{
		form: text, words: "one of " + strings.Join(words, ", "),
		schema: map[string]any{"enum": words},
		parseFunc: func(s string) (any, error) {
			if slices.Contains(words, s) {
				return s, nil
			}
			if near := nearest(s, words); near != "" {
				return nil, fmt.Errorf("did you mean %q?", near)
			}
			return nil, errors.New("")
		},
	}
}

// pattern is text that a regular expression describes.
func pattern(words, expression, like string) kind {
	compiled := sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) }) // few of a hundred are asked
	return kind{
		form: text, words: words, like: like,
		schema: map[string]any{"type": "string", "pattern": expression},
		parseFunc: func(s string) (any, error) {
			if !compiled().MatchString(s) {
				return nil, errors.New("")
			}
			return s, nil
		},
	}
}

// anyText is text without control characters, of at least one.
func anyText(words, like string) kind {
	return pattern(words, `^[^\x00-\x1f\x7f-\x9f]+$`, like)
}

// scalar is a value of a table: whatever is written, as text.
func scalar(words string) kind {
	k := pattern(words, `^[^\x00]*$`, "")
	k.form = literal
	k.schema = map[string]any{"type": []string{"string", "number", "boolean"}}
	return k
}

// levels is one level, or a range of them.
func levels() kind {
	return kind{
		form: literal, words: "a level, 0 to 9, or a range of them", like: "9, or 3-7",
		schema: map[string]any{"anyOf": []any{
			map[string]any{"type": "integer", "minimum": 0, "maximum": 9},
			map[string]any{"type": "string", "pattern": `^[0-9](-[0-9])?$`},
		}},
		parseFunc: func(s string) (any, error) {
			low, high, ok := parseLevels(s)
			switch {
			case !ok:
				return nil, errors.New("")
			case low > high:
				return nil, fmt.Errorf("write the lower level first: %d-%d", high, low)
			}
			return s, nil
		},
	}
}

func parseLevels(s string) (low, high int, ok bool) {
	digit := func(c byte) bool { return c >= '0' && c <= '9' }
	switch {
	case len(s) == 1 && digit(s[0]):
		return int(s[0] - '0'), int(s[0] - '0'), true
	case len(s) == 3 && digit(s[0]) && s[1] == '-' && digit(s[2]):
		return int(s[0] - '0'), int(s[2] - '0'), true
	}
	return 0, 0, false
}

// rate is a number of messages in a unit of time.
func rate() kind {
	return pattern("a number a second, minute or hour", `^[1-9][0-9]{0,5}/[smh]$`, "50/s, or 10/m")
}

// percent is a share.
func percent(most int) kind {
	k := pattern(fmt.Sprintf("a share, 0%% to %d%%", most), `^[0-9]{1,3}%$`, "5%")
	parse := k.parseFunc
	k.parseFunc = func(s string) (any, error) {
		if _, err := parse(s); err != nil {
			return nil, err
		}
		if n, err := strconv.Atoi(strings.TrimSuffix(s, "%")); err != nil || n > most {
			return nil, errors.New("")
		}
		return s, nil
	}
	return k
}

// digest is a SHA-256 in hex.
func digest() kind {
	k := pattern("a SHA-256 digest, 64 hex digits", `^[0-9A-Fa-f]{64}$`, "as sha256sum prints it")
	k.form = literal // one of digits only is no number
	parse := k.parseFunc
	k.parseFunc = func(s string) (any, error) {
		if _, err := parse(s); err != nil {
			return nil, fmt.Errorf("it has %d characters; sha256sum FILE prints it", len(s))
		}
		return strings.ToLower(s), nil
	}
	return k
}

// address is host:port to listen on.
func address() kind {
	return kind{
		form: text, words: "an address, host:port", like: "127.0.0.1:8080",
		schema: map[string]any{"type": "string", "pattern": `^.*:[0-9]{1,5}$`},
		parseFunc: func(s string) (any, error) {
			_, port, err := net.SplitHostPort(s)
			if err != nil || !isPort(port) || strings.ContainsAny(s, " /@") {
				return nil, errors.New("write it as in 127.0.0.1:8080, [::1]:8080 or :8080 (all interfaces); port 0 is any free one")
			}
			return s, nil
		},
	}
}

func isPort(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n >= 0 && n <= 65535
}

// endpoint is the URL of a STOMP broker.
func endpoint() kind {
	return kind{
		form: text, words: "a URL, stomp://host:port or stomp+ssl://host:port", like: "stomp+ssl://broker.example:61614",
		schema: map[string]any{"type": "string", "pattern": `^stomp(\+ssl)?://[^/@?#]+/?$`},
		parseFunc: func(s string) (any, error) {
			u, err := url.Parse(s)
			switch {
			case strings.Contains(s, "@"):
				return nil, fmt.Errorf("a login does not belong here: set %s and %s in the environment", LoginVariable, PasscodeVariable)
			case err != nil, u.Hostname() == "", u.Port() != "" && !isPort(u.Port()):
				return nil, errors.New("write it as in stomp+ssl://broker.example:61614")
			case u.Scheme != "stomp" && u.Scheme != "stomp+ssl":
				return nil, errors.New("write stomp:// for plain TCP, stomp+ssl:// for TLS")
			case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
				return nil, errors.New("nothing may follow the port")
			}
			return s, nil
		},
	}
}

// origin is a web origin as browsers send it.
func origin() kind {
	return kind{
		form: text, words: "a web origin, https://host or https://host:port", like: "https://shop.example",
		schema: map[string]any{"type": "string", "pattern": `^https?://[^/@?#*]+$`},
		parseFunc: func(s string) (any, error) {
			u, err := url.Parse(s)
			switch {
			case s == "*" || strings.Contains(s, "*"):
				return nil, errors.New("name each origin: there are no patterns")
			case err != nil, u.Host == "", u.Scheme != "https" && u.Scheme != "http":
				return nil, errors.New("write it as in https://shop.example")
			case s != u.Scheme+"://"+u.Host:
				return nil, errors.New("nothing may follow the host and its port, not even a slash")
			case s != strings.ToLower(s):
				return nil, errors.New("write it in small letters, as browsers send it")
			}
			return s, nil
		},
	}
}

// webURL is where something is sent over HTTP.
func webURL() kind {
	return kind{
		form: text, words: "a URL, https://host/path or http://host/path", like: "https://ops.example/usher",
		schema: map[string]any{"type": "string", "pattern": `^https?://[^/?#]+`},
		parseFunc: func(s string) (any, error) {
			u, err := url.Parse(s)
			switch {
			case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "", u.Port() != "" && !isPort(u.Port()):
				return nil, errors.New("write it as in https://ops.example/usher")
			case u.Fragment != "":
				return nil, errors.New("nothing may follow a #")
			}
			return s, nil
		},
	}
}

// listOf is a list with at least one item; command.
func listOf(words string, item kind, like string) kind {
	return kind{form: list, words: words, like: like, values: &item, schema: map[string]any{"type": "array", "minItems": 1, "items": item.schema}}
}

// tableOf is a mapping of names that the user chooses.
func tableOf(words string, names, values kind, like string) kind {
	return kind{form: table, words: words, like: like, names: &names, values: &values, schema: map[string]any{
		"type": "object", "propertyNames": names.schema, "additionalProperties": values.schema,
	}}
}
