package stomp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"usher/engine/stomp/internal/session"
)

// dialTimeout is for TCP and TLS: a standby endpoint may swallow what is sent.
const dialTimeout = 5 * time.Second

// dialer opens sessions to whichever endpoint is live. It is safe for concurrent use.
type dialer struct {
	config    Config
	endpoints []endpoint
	good      atomic.Int64 // the endpoint that worked last
}

// newDialer checks the config and takes it with its defaults.
func newDialer(config Config) (*dialer, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	config = config.withDefaults()
	endpoints, err := config.endpoints()
	return &dialer{config: config, endpoints: endpoints}, err
}

// dial tries each endpoint once, beginning with the one that worked last. The
// session is not started. The error has what each endpoint said.
func (d *dialer) dial(ctx context.Context) (*session.Session, error) {
	first := int(d.good.Load())
	var faults []error
	for i := range d.endpoints {
		n := (first + i) % len(d.endpoints)
		s, err := d.open(ctx, d.endpoints[n])
		if err == nil {
			d.good.Store(int64(n))
			return s, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		faults = append(faults, err)
	}
	return nil, errors.Join(faults...)
}

// open makes a session. Where the broker refuses a user that is not the one to be
// used any more, it is made for the one that is.
func (d *dialer) open(ctx context.Context, e endpoint) (*session.Session, error) {
	u, err := d.config.user(ctx, false)
	if err != nil {
		return nil, fmt.Errorf("stomp: the user for %s: %w", e.address, err)
	}
	s, err := d.openFor(ctx, e, u)
	if _, refused := errors.AsType[*session.BrokerError](err); !refused || d.config.CredentialsFunc == nil {
		return s, err
	}
	now, staleErr := d.config.user(ctx, true)
	if staleErr != nil {
		return nil, errors.Join(err, fmt.Errorf("stomp: the user for %s, anew: %w", e.address, staleErr))
	}
	if now == u {
		return nil, err
	}
	return d.openFor(ctx, e, now)
}

func (d *dialer) openFor(ctx context.Context, e endpoint, u user) (*session.Session, error) {
	conn, err := d.connection(ctx, e)
	if err != nil {
		return nil, fmt.Errorf("stomp: dial %s: %w", e.address, err)
	}
	s, err := session.Connect(ctx, d.config.sessionConfig(e.host, u), conn)
	if err != nil {
		return nil, fmt.Errorf("stomp: connect %s: %w", e.address, err)
	}
	return s, nil
}

func (d *dialer) connection(ctx context.Context, e endpoint) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var plain net.Dialer
	if e.tls {
		return (&tls.Dialer{NetDialer: &plain, Config: d.config.tlsFor(e.host)}).DialContext(ctx, "tcp", e.address)
	}
	return plain.DialContext(ctx, "tcp", e.address)
}
