package server_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"usher/engine"
	"usher/server"
)

// Whatever somebody asks with a good token: an answer of the API is JSON, says what was
// wrong if something was, and is never that of a broken server.
func FuzzAPI(f *testing.F) {
	for _, seed := range [][3]string{
		{http.MethodGet, "/api/v1/messages/order-7", ""}, {http.MethodDelete, "/api/v1/messages/order-7", ""},
		{http.MethodGet, "/api/v1/delays?limit=1&after=x&type=t&level=9&before=2026-01-31T08:00:00Z", ""},
		{http.MethodPut, "/api/v1/delays/order-7", `{"due":"2026-01-31T08:00:00Z"}`}, {http.MethodPut, "/api/v1/delays/order-7", `{"in":"90s"}`},
		{http.MethodGet, "/api/v1/dead?limit=1000&after=!&since=1h&state=all", ""}, {http.MethodPost, "/api/v1/dead/k/redrive", `{"force":true}`},
		{http.MethodGet, "/api/v1/queues", ""}, {http.MethodGet, "/api/v1/config", ""}, {http.MethodPut, "/api/v1/types/order.placed/pause", ""},
		{http.MethodGet, "/metrics", ""}, {http.MethodGet, "/api/v1/messages/%00%2f..%2f", ""}, {"BREW", "//api/v1", "\xff"},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, method, target, body string) {
		if len(target) == 0 || target[0] != '/' || strings.ContainsAny(target, " \r\n\t") || strings.ContainsAny(method, " \r\n\t") {
			return // no request line
		}
		request, err := http.NewRequestWithContext(t.Context(), method, "http://localhost:8080"+target, strings.NewReader(body))
		if err != nil {
			return
		}
		r := setup(t, func(c *server.Config) { c.Token = "sixteen bytes of it" })
		r.waits("order-7", time.Now().Add(time.Hour))
		request.Host, request.RequestURI, request.RemoteAddr = "localhost:8080", target, "127.0.0.1:1"
		request.Header.Set("Authorization", "Bearer sixteen bytes of it")
		request.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		r.handler.ServeHTTP(w, request)
		if w.Code >= http.StatusInternalServerError && w.Code != http.StatusServiceUnavailable {
			t.Fatalf("%s %q: %d %s", method, target, w.Code, w.Body)
		}
		if kind := w.Header().Get("Content-Type"); strings.Contains(kind, "json") && !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%s %q: not JSON: %s", method, target, w.Body)
		}
		if rec, err := r.table.Record(t.Context(), "order-7"); err != nil || rec.ID != "order-7" || rec.State == engine.Done {
			t.Fatalf("%s %q: the record is %+v, %v", method, target, rec, err)
		}
	})
}
