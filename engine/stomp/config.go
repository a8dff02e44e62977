package stomp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/stomp/internal/session"
)

// The defaults of Config.
const (
	DefaultWindow         = 100
	DefaultMaxBodyBytes   = 4 << 20
	DefaultHeartBeat      = 10 * time.Second
	DefaultPublishers     = 2
	DefaultReceiptTimeout = 30 * time.Second
)

// Config is what a Broker or a Client needs. It holds a secret: print it with
// its String method, which leaves the passcode out.
type Config struct {
	// URLs are the endpoints, of which one is live: stomp://host:port, or
	// stomp+ssl://host:port for TLS; tcp:// and ssl:// mean the same. Without a
	// port it is 61613, with TLS 61614. They are tried in this order, beginning
	// with the one that worked last.
	URLs []string
	// Login and Passcode are the broker's user; an empty Login sends neither.
	Login, Passcode string
	// CredentialsFunc gives Login and Passcode in their place, each time before a
	// connection is made. stale says that the broker has just refused those given last;
	// if others are given then, it is tried with them at once. It may be called
	// concurrently, and may block until ctx ends. Nil: they are as they stand here.
	CredentialsFunc func(ctx context.Context, stale bool) (login, passcode string, err error)
	// Queue is where producers send; its lanes are Queue.p0 to Queue.p9. The
	// default is usher.work.
	Queue string
	// Window is how many messages a lane may have in hand, 100 by default; the
	// work queue itself counts as a lane.
	Window int
	// MaxBodyBytes is the longest body that is kept, 4 MiB by default. A longer
	// one, up to 128 MiB, is read past: the delivery has a nil Body and the
	// header engine.HeaderTooLarge with the length. (ActiveMQ takes 100 MiB.)
	// The same header marks a message of which a header is over 10,000 bytes, or
	// all of them over 64 KiB or 256 in number: ActiveMQ would not take a copy
	// of it. It keeps its body, and of its headers what the engine must know.
	MaxBodyBytes int
	// HeartBeat is how often either side promises to give a sign of life, 10 s
	// by default; a negative one is no heart-beats. The broker may ask for
	// fewer, or for none.
	HeartBeat time.Duration
	// TLS is used for stomp+ssl endpoints; nil stands for the system's roots and
	// TLS 1.2 or later. Verification cannot be turned off: put the certificate
	// of a private authority into RootCAs.
	TLS *tls.Config
	// Publishers is the number of connections that messages are sent on, 2 by
	// default. They are opened when they are first needed.
	Publishers int
	// ReceiptTimeout is how long the broker has to answer a request, 30 s by default.
	ReceiptTimeout time.Duration
	// Probe sends a message of each level when a session begins, and looks which
	// lane it comes out of; see [Broker.Findings].
	Probe bool
	// Log is told of sessions that come and go, and of what a probe has found.
	Log zerolog.Logger
}

// String tells where the config points to, without the passcode.
func (c Config) String() string {
	return fmt.Sprintf("stomp %v as %q, queue %s, window %d", c.URLs, c.Login, c.Queue, c.Window)
}

// GoString is String, so that %#v shows no secret either.
func (c Config) GoString() string { return c.String() }

func (c Config) withDefaults() Config {
	orDefault(&c.Queue, engine.WorkQueue)
	orDefault(&c.Window, DefaultWindow)
	orDefault(&c.MaxBodyBytes, DefaultMaxBodyBytes)
	orDefault(&c.HeartBeat, DefaultHeartBeat)
	orDefault(&c.Publishers, DefaultPublishers)
	orDefault(&c.ReceiptTimeout, DefaultReceiptTimeout)
	c.HeartBeat = max(c.HeartBeat, 0)
	return c
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports everything that is wrong with the config, each fault with
// the name of its field. Fields left at zero are right: they have defaults.
func (c Config) Validate() error {
	_, err := c.withDefaults().endpoints()
	faults := []error{err}
	for _, field := range []struct {
		name  string
		value int
	}{
		{"Window", c.Window}, {"MaxBodyBytes", c.MaxBodyBytes},
		{"Publishers", c.Publishers}, {"ReceiptTimeout", int(c.ReceiptTimeout)},
	} {
		if field.value < 0 {
			faults = append(faults, fmt.Errorf("stomp: %s is %d; it must be above 0", field.name, field.value))
		}
	}
	if c.TLS != nil && c.TLS.InsecureSkipVerify {
		faults = append(faults, errors.New("stomp: TLS.InsecureSkipVerify is set; put the broker's authority into TLS.RootCAs in its place"))
	}
	if err := c.sessionConfig("host", user{c.Login, c.Passcode}).Validate(); err != nil {
		faults = append(faults, errors.New("stomp: Login or Passcode has a line end or a NUL byte, which STOMP cannot carry"))
	}
	return errors.Join(faults...)
}

// user is who a session is for; without a login it is nobody.
type user struct{ login, passcode string }

// user gives that of the next connection.
func (c Config) user(ctx context.Context, stale bool) (user, error) {
	if c.CredentialsFunc == nil {
		return user{c.Login, c.Passcode}, nil
	}
	login, passcode, err := c.CredentialsFunc(ctx, stale)
	return user{login, passcode}, err
}

// endpoint is one address of the broker.
type endpoint struct {
	host    string // without the port
	address string // host:port
	tls     bool
}

// endpoints reads the URLs and reports every one that is wrong.
func (c Config) endpoints() ([]endpoint, error) {
	if len(c.URLs) == 0 {
		return nil, errors.New("stomp: URLs is empty; give at least one, as in stomp+ssl://host:61614")
	}
	var all []endpoint
	var faults []error
	for i, text := range c.URLs {
		e, err := parseEndpoint(text)
		if err != nil {
			faults = append(faults, fmt.Errorf("stomp: URLs[%d]: %w", i, err))
		}
		all = append(all, e)
	}
	return all, errors.Join(faults...)
}

func parseEndpoint(text string) (endpoint, error) {
	u, err := url.Parse(text)
	if err != nil {
		return endpoint{}, errors.New("it is no URL; write it as in stomp+ssl://host:61614") // the text may hold a password
	}
	e := endpoint{host: u.Hostname()}
	port := "61613"
	switch u.Scheme {
	case "stomp", "tcp":
	case "stomp+ssl", "ssl":
		e.tls, port = true, "61614"
	default:
		return endpoint{}, fmt.Errorf("the scheme %q is not known; write stomp://host:port or stomp+ssl://host:port", u.Scheme)
	}
	switch {
	case u.User != nil:
		return endpoint{}, errors.New("it has a user in it; set Login and Passcode")
	case e.host == "":
		return endpoint{}, errors.New("it has no host; write it as in stomp+ssl://host:61614")
	case u.Path != "" && u.Path != "/", u.RawQuery != "", u.Fragment != "":
		return endpoint{}, errors.New("it has more than a host and a port; there are no options in it")
	}
	if u.Port() != "" {
		port = u.Port()
	}
	e.address = net.JoinHostPort(e.host, port)
	return e, nil
}

func (c Config) sessionConfig(host string, u user) session.Config {
	return session.Config{
		Host: host, Login: u.login, Passcode: u.passcode, HeartBeat: c.HeartBeat,
		MaxBodyBytes: c.MaxBodyBytes, Timeout: c.ReceiptTimeout,
	}
}

// tlsFor is the TLS config for one host.
func (c Config) tlsFor(host string) *tls.Config {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.TLS != nil {
		t = c.TLS.Clone()
	}
	if t.ServerName == "" {
		t.ServerName = host
	}
	return t
}
