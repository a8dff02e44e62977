package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log" //nolint:depguard // http.Server takes no other logger
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"usher/engine"
)

const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	writeTimeout      = 30 * time.Second
	idleTimeout       = 2 * time.Minute
	shutdownGrace     = 5 * time.Second
	maxHeaderBytes    = 16 << 10
	maxConnections    = 1000
)

// Server answers HTTP requests. It is safe for concurrent use.
type Server struct {
	cfg       Config
	handler   http.Handler
	readiness *cached[[]CheckResult]
	backlogs  *cached[map[string]Queue]
	tallies   *cached[[]engine.Tally]
	overdue   *cached[time.Duration] // of the first that waits
	nonce     string                 // of polls that only this process holds
	polls     *polls
}

// New makes a Server. The error names all that is wrong with the configuration;
// an address that other machines can reach is, without a token.
func New(cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, nonce: rand.Text(), polls: newPolls()}
	s.readiness = newCached(readinessTimeout, s.check)
	s.backlogs = newCached(backlogTimeout, s.fetchBacklogs)
	s.tallies = newCached(backlogTimeout, s.fetchTallies)
	s.overdue = newCached(backlogTimeout, s.fetchOverdue)
	if err := cfg.Metrics.registry.Register(newCollector(s)); err != nil {
		return nil, fmt.Errorf("server: Metrics belongs to another Server: %w", err)
	}
	s.handler = s.guard(s.newMux())
	return s, nil
}

// Handler is what serves all routes, with every check before them.
func (s *Server) Handler() http.Handler { return s.handler }

// Run serves the listener, and closes it, until ctx ends; then it takes no new
// requests, gives those under way 5 s, and returns nil. WebSockets are the Live
// handler's to end. The error is the listener's, or says that the listener can
// be reached from other machines and there is no token.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	if addr, ok := ln.Addr().(*net.TCPAddr); ok && s.cfg.Token == "" && !addr.IP.IsLoopback() {
		return errors.Join(fmt.Errorf("server: %s can be reached from other machines: set a token (USHER_TOKEN), or listen on 127.0.0.1", addr), ln.Close())
	}
	srv := &http.Server{
		Handler: s.handler, ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout,
		WriteTimeout: writeTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog:    log.New(s.cfg.Log, "", 0),
		ConnState:   atMost(s.cfg.Connections),
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	select {
	case err := <-served:
		return fmt.Errorf("server: serve %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		s.cfg.Log.Warn().Err(err).Msg("requests were cut off when the server stopped")
		_ = srv.Close() // it has nothing to add
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("server: serve %s: %w", ln.Addr(), err)
	}
	return nil
}

// atMost closes connections that are more than so many, as soon as they come.
func atMost(n int) func(net.Conn, http.ConnState) {
	var open atomic.Int64
	return func(conn net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			if open.Add(1) > int64(n) {
				_ = conn.Close() // its end is told as that of others
			}
		case http.StateHijacked, http.StateClosed:
			open.Add(-1)
		case http.StateActive, http.StateIdle:
		}
	}
}
