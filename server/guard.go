package server

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"strings"
)

// guard is in front of every route: headers that keep browsers from guessing,
// and requests that no honest client sends.
func (s *Server) guard(next http.Handler) http.Handler {
	crossOrigin := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		switch {
		case s.cfg.Token == "" && !isLoopbackHost(r.Host):
			writeProblem(w, problem(http.StatusForbidden, "bad_host", "not under this name",
				"without a token only requests for localhost or a loopback address are answered", "use http://127.0.0.1, or set a token"))
		case crossOrigin.Check(r) != nil:
			writeProblem(w, problem(http.StatusForbidden, "cross_origin", "not from another site",
				"pages of other sites may not change anything here", ""))
		case !isPlain(r.URL.EscapedPath()):
			writeProblem(w, badRequest("bad_path", `the path has an empty, "." or ".." segment`,
				"percent-encode ids: / is %2F, . is %2E"))
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// isLoopbackHost says whether a Host header names this machine, whatever the port.
func isLoopbackHost(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
	}
	return isLoopback(strings.ToLower(host))
}

// isPlain says whether a path means what it says. http.ServeMux would send the
// client to the shortened path, and so to another message.
func isPlain(path string) bool {
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i, segment := range segments {
		if segment == "." || segment == ".." || segment == "" && i < len(segments)-1 {
			return false
		}
	}
	return true
}

// requireToken lets a request pass that carries the token, if there is one.
func (s *Server) requireToken(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.authorized(r) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="usher"`)
			writeProblem(w, problem(http.StatusUnauthorized, "no_token", "the token is missing or wrong",
				"", "send the header Authorization: Bearer <token>"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// authorized compares in a time that tells nothing of the token, not even its length.
func (s *Server) authorized(r *http.Request) bool {
	if s.cfg.Token == "" {
		return true
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	given, want := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(s.cfg.Token))
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(given[:], want[:]) == 1
}
