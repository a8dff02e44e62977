package server_test

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"usher/engine/watchtoken"
	"usher/server"
)

const token = "0123456789abcdef-a-token"

// withLive stands for the WebSocket endpoint.
func withLive(c *server.Config) {
	c.Live = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
}

func TestAnOpenAddressNeedsAToken(t *testing.T) {
	for addr, wantOK := range map[string]bool{
		"127.0.0.1:8080": true, "localhost:8080": true, "[::1]:8080": true, "127.8.9.1:0": true, "[::ffff:127.0.0.1]:80": true,
		":8080": false, "0.0.0.0:8080": false, "[::]:8080": false, "10.1.2.3:8080": false, "usher.example:80": false,
		"localhost.example:80": false, "8080": false, "": false,
	} {
		r := setup(t)
		cfg := r.cfg
		cfg.Metrics, cfg.Addr = server.NewMetrics(nil), addr
		_, err := server.New(cfg)
		if (err == nil) != wantOK {
			t.Errorf("%q without a token: %v", addr, err)
		}
		if strings.Contains(addr, ":") {
			cfg.Metrics, cfg.Token = server.NewMetrics(nil), token
			if _, err := server.New(cfg); err != nil {
				t.Errorf("%q with a token: %v", addr, err)
			}
		}
	}
}

func TestConfigTellsAllThatIsWrong(t *testing.T) {
	_, err := server.New(server.Config{Addr: "127.0.0.1:1", Token: "short"})
	if err == nil || !strings.Contains(err.Error(), "Table") || !strings.Contains(err.Error(), "16") {
		t.Errorf("New answers %v", err)
	}
	if err != nil && strings.Contains(err.Error(), "short") {
		t.Errorf("the error tells the token: %v", err)
	}
}

func TestMetricsBelongToOneServer(t *testing.T) {
	r := setup(t)
	if _, err := server.New(r.cfg); err == nil {
		t.Error("two servers share their metrics")
	}
}

func TestEveryRouteButHealthNeedsTheToken(t *testing.T) {
	r := setup(t, withLive, func(c *server.Config) { c.Addr, c.Token = "0.0.0.0:8080", token })
	keys, err := watchtoken.ParseKeys("shop:" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("k"), 32)))
	if err != nil {
		t.Fatal(err)
	}
	watchers, err := keys.Make("shop", "prod", "m", time.Now().Add(time.Hour)) // good for watching the message m, and no more
	if err != nil {
		t.Fatal(err)
	}
	paths := []string{"/metrics", "/api/v1", "/api/v1/messages/m", "/api/v1/delays", "/api/v1/delays/m", "/api/v1/queues", "/api/v1/plugins", "/ws"}
	for _, path := range paths {
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete, http.MethodOptions} {
			for _, header := range []string{"", "Bearer", "Bearer ", "Bearer " + token + "x", "Bearer " + token[1:], "Basic " + token, token, "Bearer " + watchers} {
				w := r.wantProblem(http.StatusUnauthorized, "no_token", method, path, "", "Authorization", header, "Host", "usher.example")
				if w.Header().Get("WWW-Authenticate") == "" {
					t.Errorf("%s %s: no WWW-Authenticate", method, path)
				}
			}
		}
		if w := r.ask(http.MethodGet, path, "", "Authorization", "bearer "+token, "Host", "usher.example"); w.Code == http.StatusUnauthorized {
			t.Errorf("GET %s with the token is answered with %d", path, w.Code)
		}
	}
	for _, path := range []string{"/livez", "/readyz"} {
		if w := r.ask(http.MethodGet, path, "", "Host", "10.1.2.3"); w.Code != http.StatusOK {
			t.Errorf("%s is answered with %d", path, w.Code)
		}
	}
}

func TestWithoutATokenOnlyLoopbackNamesAreAnswered(t *testing.T) {
	r := setup(t, withLive)
	for _, host := range []string{"localhost", "localhost:8080", "LOCALHOST:1", "127.0.0.1:8080", "127.0.0.1", "[::1]:8080", "[::1]"} {
		if w := r.ask(http.MethodGet, "/livez", "", "Host", host); w.Code != http.StatusOK {
			t.Errorf("the Host %q is answered with %d", host, w.Code)
		}
	}
	for _, host := range []string{"evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "::", "localhost:80:80"} {
		for _, path := range []string{"/livez", "/metrics", "/api/v1/queues", "/ws", "/nothing"} {
			r.wantProblem(http.StatusForbidden, "bad_host", http.MethodGet, path, "", "Host", host)
		}
	}
}

func TestOtherSitesMayNotChangeAnything(t *testing.T) {
	r := setup(t)
	foreign := [][]string{
		{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"},
		{"Origin", "https://evil.example"},
		{"Origin", "null"},
	}
	for _, headers := range foreign {
		r.wantProblem(http.StatusForbidden, "cross_origin", http.MethodPut, "/api/v1/delays/m", `{"in":"1s"}`, headers...)
		r.wantProblem(http.StatusForbidden, "cross_origin", http.MethodDelete, "/api/v1/delays/m", "", headers...)
	}
	if w := r.ask(http.MethodPut, "/api/v1/delays/m", `{"in":"1s"}`, "Origin", "http://localhost:8080", "Sec-Fetch-Site", "same-origin"); w.Code != http.StatusOK {
		t.Errorf("a page of our own is answered with %d: %s", w.Code, w.Body)
	}
}

func TestAnUncleanPathIsNotAnotherMessage(t *testing.T) {
	r := setup(t)
	r.waits("b", nowPlus(1))
	r.waits("a/b", nowPlus(1))
	for _, path := range []string{
		"/api/v1/messages/a//b", "/api/v1/messages/a/../b", "/api/v1/messages/./b", "//api/v1/queues", "/api/v1/messages/..",
	} {
		r.wantProblem(http.StatusBadRequest, "bad_path", http.MethodGet, path, "")
	}
	r.wantProblem(http.StatusBadRequest, "bad_path", http.MethodDelete, "/api/v1/delays/a/../b", "")
	for path, id := range map[string]string{"a/b": "a/b", "a%2Fb": "a/b", "a%2F..%2Fb": "a/../b", "%2E%2E": "..", "b/": "b/"} {
		var m server.Delay
		r.want(http.StatusOK, &m, http.MethodPut, "/api/v1/delays/"+path, `{"in":"1h"}`)
		if m.ID != id {
			t.Errorf("the path %s is the message %q, want %q", path, m.ID, id)
		}
	}
}

func TestEveryAnswerKeepsBrowsersFromGuessing(t *testing.T) {
	r := setup(t)
	for _, path := range []string{"/livez", "/readyz", "/metrics", "/api/v1/queues", "/nothing"} {
		h := r.ask(http.MethodGet, path, "").Header()
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") != "no-store" || h.Get("Content-Security-Policy") == "" {
			t.Errorf("%s has the headers %v", path, h)
		}
	}
}

func TestWhatNoRouteTakesIsAProblem(t *testing.T) {
	r := setup(t)
	for _, path := range []string{"/", "/nothing", "/api", "/api/v1/", "/api/v2", "/ws", "/livez/x"} {
		r.wantProblem(http.StatusNotFound, "no_route", http.MethodGet, path, "")
	}
	for path, allow := range map[string]string{
		"/livez": "GET", "/metrics": "GET", "/api/v1/queues": "GET", "/api/v1/messages/m": "DELETE, GET", "/api/v1/delays/m": "DELETE, PUT",
	} {
		for _, method := range []string{http.MethodPost, http.MethodOptions, http.MethodPatch, "BREW"} {
			if w := r.wantProblem(http.StatusMethodNotAllowed, "bad_method", method, path, ""); w.Header().Get("Allow") != allow {
				t.Errorf("%s %s allows %q, want %q", method, path, w.Header().Get("Allow"), allow)
			}
		}
	}
	if w := r.ask(http.MethodHead, "/api/v1/queues", ""); w.Code != http.StatusOK {
		t.Errorf("HEAD is answered with %d", w.Code)
	}
}

// The reference names every route and method, and the index lists them.
func TestTheReferenceNamesEveryRoute(t *testing.T) {
	r := setup(t, withLive)
	page, err := os.ReadFile("../docs/http.md")
	if err != nil {
		t.Fatal(err)
	}
	var list server.RouteList
	r.want(http.StatusOK, &list, http.MethodGet, "/api/v1", "")
	if len(list.Routes) != 14 {
		t.Errorf("there are %d routes", len(list.Routes))
	}
	lines := strings.Split(string(page), "\n")
	for _, route := range list.Routes {
		i := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "| `"+route.Path+"` |") })
		if i < 0 || route.About == "" {
			t.Errorf("docs/http.md has no line for %s", route.Path)
			continue
		}
		for _, method := range route.Methods {
			if !strings.Contains(lines[i], method) {
				t.Errorf("docs/http.md does not name %s of %s", method, route.Path)
			}
		}
	}
}

func TestTheWebSocketIsServed(t *testing.T) {
	r := setup(t, withLive)
	if w := r.ask(http.MethodGet, "/ws", ""); w.Code != http.StatusTeapot {
		t.Errorf("/ws is answered with %d", w.Code)
	}
	r.wantProblem(http.StatusMethodNotAllowed, "bad_method", http.MethodPost, "/ws", "")
}

func TestWhatDoesNotAnswerIsSaidWithoutItsAddress(t *testing.T) {
	var log bytes.Buffer
	r := setup(t, func(c *server.Config) { c.Table, c.Log = brokenTable{}, zerolog.New(&log) })
	for _, ask := range [][]string{
		{http.MethodGet, "/api/v1/messages/m", ""},
		{http.MethodGet, "/api/v1/delays", ""},
		{http.MethodPut, "/api/v1/delays/m", `{"in":"1s"}`},
		{http.MethodDelete, "/api/v1/delays/m", ""},
	} {
		log.Reset()
		if w := r.wantProblem(http.StatusServiceUnavailable, "unavailable", ask[0], ask[1], ask[2]); strings.Contains(w.Body.String(), "10.0.0.7") {
			t.Errorf("the answer tells %s", w.Body)
		}
		if !strings.Contains(log.String(), "10.0.0.7") {
			t.Errorf("%s %s: the log does not tell why: %q", ask[0], ask[1], log.String())
		}
	}
}

// Operators come in with the token, and all others to the endpoint that asks
// for tokens of its own.
func TestWebSocketsOfPeopleAreServedWithoutTheToken(t *testing.T) {
	public := func(c *server.Config) {
		c.LivePublic = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) })
	}
	guarded := setup(t, withLive, public, func(c *server.Config) { c.Addr, c.Token = "0.0.0.0:8080", token })
	open := setup(t, withLive, public)
	for name, c := range map[string]struct {
		r             *rig
		authorization string
		want          int
	}{
		"the token":            {guarded, "Bearer " + token, http.StatusTeapot},
		"no token":             {guarded, "", http.StatusAccepted},
		"another token":        {guarded, "Bearer x", http.StatusAccepted},
		"a server without one": {open, "", http.StatusAccepted},
		"and one all the same": {open, "Bearer " + token, http.StatusAccepted},
	} {
		if got := c.r.ask(http.MethodGet, "/ws", "", "Authorization", c.authorization); got.Code != c.want {
			t.Errorf("%s: %d, want %d", name, got.Code, c.want)
		}
	}
}
