package server

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	maxBody        = 4 << 10          // bytes of a request's body
	requestTimeout = 10 * time.Second // for what a request asks of others
)

// endpoint answers one method of one route. An error is answered as a problem.
type endpoint func(w http.ResponseWriter, r *http.Request) error

// route is one path. A route with a handler answers GET with it.
type route struct {
	path    string // a pattern of http.ServeMux
	about   string
	open    bool // needs no token
	methods map[string]endpoint
	handler http.Handler
}

func (s *Server) routes() []route {
	get := func(e endpoint) map[string]endpoint { return map[string]endpoint{http.MethodGet: e} }
	routes := []route{
		{path: "/livez", about: "200 while the process serves", open: true, methods: get(s.livez)},
		{path: "/readyz", about: "200 when messages can be run, else 503; one line a check, with reasons if ?verbose", open: true, methods: get(s.readyz)},
		{path: "/metrics", about: "Prometheus metrics", handler: s.metricsHandler()},
		{path: "/api/v1", about: "this list", methods: get(s.index)},
		{path: "/api/v1/messages/{id...}", about: "GET tells where a message is, DELETE cancels one, with ?running=true also while it runs", methods: map[string]endpoint{
			http.MethodGet: s.message, http.MethodDelete: s.cancel,
		}},
		{path: "/api/v1/delays", about: "what waits, by the time it is due; ?limit and ?after page, ?type, ?level and ?dueBefore choose", methods: get(s.delays)},
		{path: "/api/v1/delays/{id...}", about: `PUT {"until":"<RFC 3339>"} or {"in":"15m"} moves a message, DELETE releases it now`, methods: map[string]endpoint{
			http.MethodPut: s.setDelay, http.MethodDelete: s.release,
		}},
		{path: "/api/v1/queues", about: "how much waits, level by level", methods: get(s.queues)},
		{path: "/api/v1/broker", about: "what usher relies on at its broker, and whether it is so", methods: get(s.broker)},
		{path: "/api/v1/types", about: "the types, what runs of each, and which are held", methods: get(s.types)},
		{path: "/api/v1/types/{type}/pause", about: "POST has the messages of a type wait", methods: map[string]endpoint{http.MethodPost: s.pause}},
		{path: "/api/v1/types/{type}/resume", about: "POST lets them go on", methods: map[string]endpoint{http.MethodPost: s.resume}},
		{path: "/api/v1/plugins", about: "the plugins and how they are", methods: get(s.plugins)},
	}
	routes = append(routes, s.deadRoutes()...)
	if s.cfg.ConfigFunc != nil {
		routes = append(routes, route{path: "/api/v1/config", about: "the configuration that is in use, without secrets, and whether a newer one is wrong", methods: get(s.config)})
	}
	if s.cfg.Live != nil {
		routes = append(routes, route{path: "/ws", about: `WebSocket: {"action":"subscribe","id":"…"} tells where a message is, live`, open: s.cfg.LivePublic != nil, handler: http.HandlerFunc(s.live)})
	}
	return routes
}

// allowed lists the methods of a route.
func (r route) allowed() []string {
	if r.handler != nil {
		return []string{http.MethodGet}
	}
	return slices.Sorted(maps.Keys(r.methods))
}

// gatewayPath is where a WebSocket API's integrations call (deploy/template.yaml).
const gatewayPath = "/apigateway"

// newMux puts the routes together. What no route takes is a problem as well.
func (s *Server) newMux() *http.ServeMux {
	mux := http.NewServeMux()
	for _, route := range s.routes() {
		h := s.dispatch(route)
		if !route.open {
			h = s.requireToken(h)
		}
		mux.Handle(route.path, h)
	}
	if s.cfg.Gateway != nil {
		mux.Handle(gatewayPath+"/", http.StripPrefix(gatewayPath, s.cfg.Gateway))
	}
	if s.cfg.Awake != "" {
		mux.HandleFunc("GET "+awakePath+"{nonce}", s.awake)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		writeProblem(w, problem(http.StatusNotFound, "no_route", "no such route", "", "GET /api/v1 lists the routes"))
	})
	return mux
}

// dispatch calls the endpoint of the method.
func (s *Server) dispatch(route route) http.Handler {
	allow := strings.Join(route.allowed(), ", ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet
		}
		e := route.methods[method]
		switch {
		case e != nil:
			s.call(e, w, r)
		case route.handler != nil && method == http.MethodGet:
			route.handler.ServeHTTP(w, r)
		default:
			w.Header().Set("Allow", allow)
			writeProblem(w, problem(http.StatusMethodNotAllowed, "bad_method", "the method is not allowed here",
				r.Method+" is not one of: "+allow, ""))
		}
	})
}

// call runs an endpoint within its limits.
func (s *Server) call(e endpoint, w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	r = r.WithContext(ctx)
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	err := e(w, r)
	if err == nil {
		return
	}
	p, known := asProblem(err)
	if !known && !errors.Is(r.Context().Err(), context.Canceled) {
		s.cfg.Log.Error().Err(err).Str("method", r.Method).Str("path", r.URL.Path).Msg("a request failed")
	}
	writeProblem(w, p)
}

// live serves operators, who may watch everything, and people with tokens of
// their own, who may watch what these are for.
func (s *Server) live(w http.ResponseWriter, r *http.Request) {
	if s.cfg.LivePublic != nil && (s.cfg.Token == "" || !s.authorized(r)) {
		s.cfg.LivePublic.ServeHTTP(w, r)
		return
	}
	s.cfg.Live.ServeHTTP(w, r)
}

func (s *Server) index(w http.ResponseWriter, _ *http.Request) error {
	list := RouteList{Routes: []Route{}}
	for _, r := range s.routes() {
		list.Routes = append(list.Routes, Route{Path: r.path, Methods: r.allowed(), About: r.about})
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}
