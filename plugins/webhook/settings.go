package webhook

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"usher/handlers/plugin"
)

// The environment variables, which say everything; there are no others that
// begin with WEBHOOK_.
const (
	urlsVariable        = "WEBHOOK_URLS"
	urlVariable         = "WEBHOOK_URL"
	typesVariable       = "WEBHOOK_TYPES"
	choicesVariable     = "WEBHOOK_CHOICES"
	hostsVariable       = "WEBHOOK_HOSTS"
	secretVariable      = "WEBHOOK_SECRET"
	secretFileVariable  = "WEBHOOK_SECRET_FILE" //nolint:gosec // the name of the variable, not its value
	unsignedVariable    = "WEBHOOK_UNSIGNED"
	httpVariable        = "WEBHOOK_ALLOW_HTTP"
	networksVariable    = "WEBHOOK_ALLOW_NETWORKS"
	connectVariable     = "WEBHOOK_CONNECT_TIMEOUT"
	timeoutVariable     = "WEBHOOK_TIMEOUT"
	responseVariable    = "WEBHOOK_MAX_RESPONSE"
	retryAfterVariable  = "WEBHOOK_MAX_RETRY_AFTER"
	concurrencyVariable = "WEBHOOK_CONCURRENCY"
)

// settings are what the environment says, checked.
type settings struct {
	urls        map[string]*url.URL // by message type
	choices     map[string]*url.URL // by the name that a producer may choose
	secrets     [][]byte            // each signs; none: nothing is signed
	guard       guard
	connect     time.Duration // for DNS, TCP and TLS
	timeout     time.Duration // for a whole request
	response    int64         // bytes of an answer's body that are read
	retryAfter  time.Duration // the longest that a receiver can ask for
	concurrency int
}

// reader takes variables one after another, and collects all that is wrong.
type reader struct {
	values map[string]string // not taken yet
	errs   []error
}

// read makes settings of an environment. The error names all that is wrong, and
// no value that may be secret: secrets, and URLs beyond their host.
func read(environ []string) (settings, error) {
	r := &reader{values: map[string]string{}}
	for _, variable := range environ {
		if name, value, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "WEBHOOK_") {
			r.values[name] = strings.TrimSpace(value)
		}
	}
	s := settings{
		secrets:     r.secrets(),
		guard:       guard{r.networks()},
		connect:     r.duration(connectVariable, 5*time.Second, time.Minute),
		timeout:     r.duration(timeoutVariable, 15*time.Second, time.Hour),
		response:    int64(r.number(responseVariable, 64<<10, 16<<20)),
		retryAfter:  r.duration(retryAfterVariable, time.Hour, 24*time.Hour),
		concurrency: r.number(concurrencyVariable, plugin.DefaultConcurrency, 1024),
	}
	r.targets(&s)
	for _, name := range slices.Sorted(maps.Keys(r.values)) {
		r.failf(name, "there is no such variable; docs/webhook.md has them all")
	}
	return s, errors.Join(r.errs...)
}

func (r *reader) failf(variable, format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf("webhook: "+variable+": "+format, args...))
}

func (r *reader) take(name string) string {
	value := r.values[name]
	delete(r.values, name)
	return value
}

func (r *reader) duration(name string, otherwise, most time.Duration) time.Duration {
	text := r.take(name)
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Millisecond || d > most {
		r.failf(name, "%q is not a duration of 1ms to %v, as in 500ms or 10s", text, most)
	}
	return d
}

func (r *reader) number(name string, otherwise, most int) int {
	text := r.take(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		r.failf(name, "%q is not a whole number of 1 to %d", text, most)
	}
	return n
}

func (r *reader) yes(name string) bool {
	text := r.take(name)
	if text != "" && text != "true" && text != "false" {
		r.failf(name, "%q is neither true nor false", text)
	}
	return text == "true"
}

func (r *reader) networks() []netip.Prefix {
	var list []netip.Prefix
	for text := range strings.FieldsSeq(r.take(networksVariable)) {
		p, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
			r.failf(networksVariable, "%q is not a network, as in 10.1.0.0/16 or fd00::/8", text)
		case p.Addr().Is4In6():
			r.failf(networksVariable, "%s is IPv4 in IPv6: write it as in 10.1.0.0/16", text)
		case p != p.Masked():
			r.failf(networksVariable, "%s has bits after its prefix: write %s", text, p.Masked())
		default:
			list = append(list, p)
		}
	}
	return list
}

// maxSecretFile is the size of the longest file of secrets that is read.
const maxSecretFile = 4 << 10

// secrets are the keys that sign, the newest first: more than one while the
// receivers change over.
func (r *reader) secrets() [][]byte {
	value, file, unsigned := r.take(secretVariable), r.take(secretFileVariable), r.yes(unsignedVariable)
	name := secretVariable
	switch {
	case value != "" && file != "":
		r.failf(secretFileVariable, "%s is set as well: unset one of them", secretVariable)
		return nil
	case unsigned && value+file != "":
		r.failf(unsignedVariable, "there is a secret as well: unset one of them")
		return nil
	case unsigned:
		return nil
	case file != "":
		name = secretFileVariable
		var ok bool
		if value, ok = r.secretFile(file); !ok {
			return nil
		}
	}
	var list [][]byte
	for i, text := range strings.Fields(value) {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(text, "whsec_"))
		if err != nil || !strings.HasPrefix(text, "whsec_") || len(key) < 24 || len(key) > 64 {
			r.failf(name, `secret %d is not whsec_ and 24 to 64 bytes in base64; make one with: echo "whsec_$(openssl rand -base64 32)"`, i+1)
		}
		list = append(list, key)
	}
	if len(list) == 0 {
		r.failf(name, "there is no secret to sign with: set %s or %s, or %s to true if the receivers check nothing", secretFileVariable, secretVariable, unsignedVariable)
	}
	return list
}

func (r *reader) secretFile(name string) (string, bool) {
	f, err := os.Open(name)
	if err != nil {
		r.failf(secretFileVariable, "%w", err)
		return "", false
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil || len(text) > maxSecretFile {
		r.failf(secretFileVariable, "%s cannot be read, or is over %d bytes", name, maxSecretFile)
		return "", false
	}
	return string(text), true
}

// targets are the URLs, which together are the list of what may be called.
func (r *reader) targets(s *settings) {
	check := urlRules{http: r.yes(httpVariable), hosts: strings.Fields(r.take(hostsVariable)), guard: s.guard}
	s.urls = r.pairs(urlsVariable, "order.placed", check)
	s.choices = r.pairs(choicesVariable, "billing", check)
	types := strings.Fields(r.take(typesVariable))
	if text := r.take(urlVariable); text != "" {
		u, err := check.parse(text)
		if err != nil {
			r.failf(urlVariable, "%w", err)
		}
		if len(types) == 0 {
			r.failf(urlVariable, "no type is sent there: name the types in %s", typesVariable)
		}
		for _, typ := range types {
			if s.urls[typ] != nil {
				r.failf(typesVariable, "%s has a URL in %s already", typ, urlsVariable)
			}
			s.urls[typ] = u
		}
	} else if len(types) > 0 {
		r.failf(typesVariable, "these types have no URL: set %s", urlVariable)
	}
	if len(s.urls) == 0 && len(r.errs) == 0 {
		r.failf(urlsVariable, "there is nowhere to send to: write order.placed=https://hooks.example/orders")
	}
}

var word = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)

// pairs reads name=URL, with blanks between them.
func (r *reader) pairs(variable, like string, check urlRules) map[string]*url.URL {
	m := map[string]*url.URL{}
	for i, pair := range strings.Fields(r.take(variable)) {
		name, text, ok := strings.Cut(pair, "=")
		if !ok || !word.MatchString(name) {
			r.failf(variable, "entry %d is not name=URL, as in %s=https://hooks.example/path", i+1, like)
			continue
		}
		if m[name] != nil {
			r.failf(variable, "%s occurs twice", name)
		}
		u, err := check.parse(text)
		if err != nil {
			r.failf(variable, "%s: %w", name, err)
			continue
		}
		m[name] = u
	}
	return m
}

// urlRules are what holds for every URL.
type urlRules struct {
	http  bool     // without TLS too
	hosts []string // those there may be; none: any
	guard guard
}

// parse reads a URL. Its error shows no more than the host: the rest may be secret.
func (c urlRules) parse(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.Opaque != "" {
		return nil, errors.New("this is not a URL, as in https://hooks.example/orders")
	}
	host := u.Hostname()
	switch a, err := netip.ParseAddr(host); {
	case u.Scheme == "http" && !c.http:
		return nil, fmt.Errorf("http://%s is not encrypted: write https, or set %s to true", host, httpVariable)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("a URL on %s begins with neither https:// nor http://", host)
	case u.User != nil:
		return nil, fmt.Errorf("a login does not belong into a URL (on %s); requests are signed", host)
	case u.Fragment != "":
		return nil, fmt.Errorf("a URL on %s has a fragment, which is never sent: remove it", host)
	case len(c.hosts) > 0 && !slices.ContainsFunc(c.hosts, func(h string) bool { return strings.EqualFold(h, host) }):
		return nil, fmt.Errorf("the host %s is not in %s (%s)", host, hostsVariable, strings.Join(c.hosts, " "))
	case err == nil && !c.guard.allows(a):
		return nil, fmt.Errorf("%w: %s (%s allows more)", errRefused, a, networksVariable)
	}
	return u, nil
}
