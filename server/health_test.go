package server_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"usher/engine"
	"usher/server"
)

func TestLivezIsOKWhateverElseIsNot(t *testing.T) {
	r := setup(t, func(c *server.Config) { c.Table = brokenTable{} })
	r.engine.stopped = true
	if w := r.ask(http.MethodGet, "/livez", ""); w.Code != http.StatusOK || w.Body.String() != "ok\n" {
		t.Errorf("it is answered with %d %q", w.Code, w.Body)
	}
}

func TestReadyzHasALineForEachCheck(t *testing.T) {
	r := setup(t, func(c *server.Config) {
		well := func(context.Context) error { return nil }
		c.Checks = []server.Check{{Name: "lanes", Func: well}, {Name: "broker", Func: well}}
	})
	want := "[+] engine ok\n[+] broker ok\n[+] records ok\n[+] plugins ok\n[+] lanes ok\nready\n"
	if w := r.ask(http.MethodGet, "/readyz", ""); w.Code != http.StatusOK || w.Body.String() != want {
		t.Errorf("it is answered with %d %q", w.Code, w.Body)
	}
}

func TestReadyzFailsByItsChecks(t *testing.T) {
	for name, test := range map[string]struct {
		check, detail string
		change        func(*server.Config)
		engine        func(*fakeEngine)
	}{
		"engine stopped":  {check: "engine", detail: "does not run", engine: func(f *fakeEngine) { f.stopped = true }},
		"engine drains":   {check: "engine", detail: "drains", engine: func(f *fakeEngine) { f.view.Draining = true }},
		"no session":      {check: "broker", detail: "no session", engine: func(f *fakeEngine) { f.view.Epoch = 0 }},
		"store down":      {check: "records", detail: "does not answer", engine: func(f *fakeEngine) { f.view.StoreDown = true }},
		"table broken":    {check: "records", detail: "refused", change: func(c *server.Config) { c.Table = brokenTable{} }},
		"plugin is down":  {check: "plugins", detail: "orders is starting", change: withPlugin(server.Plugin{Name: "orders", State: "starting"})},
		"no frames":       {check: "broker", detail: "silent for 30s", change: withCheck("broker", errors.New("silent for 30s"))},
		"own check fails": {check: "lanes", detail: "level 3 is lost", change: withCheck("lanes", errors.New("level\n3 is lost"))},
	} {
		t.Run(name, func(t *testing.T) {
			r := setup(t, func(c *server.Config) {
				if test.change != nil {
					test.change(c)
				}
			})
			if test.engine != nil {
				test.engine(r.engine)
			}
			w := r.ask(http.MethodGet, "/readyz", "")
			if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "[-] "+test.check+" failed\n") || !strings.HasSuffix(w.Body.String(), "\nnot ready\n") {
				t.Errorf("it is answered with %d %q", w.Code, w.Body)
			}
			if n := strings.Count(w.Body.String(), "[-]"); n != 1 {
				t.Errorf("%d checks failed: %q", n, w.Body)
			}
			if w := r.ask(http.MethodGet, "/readyz?verbose", ""); !strings.Contains(w.Body.String(), "[-] "+test.check+" failed: ") || !strings.Contains(w.Body.String(), test.detail) {
				t.Errorf("in words: %q", w.Body)
			}
			var answer server.Readiness
			r.want(http.StatusServiceUnavailable, &answer, http.MethodGet, "/readyz?verbose", "", "Accept", "application/json")
			for _, c := range answer.Checks {
				if answer.Ready || c.OK == (c.Name == test.check) || !c.OK && !strings.Contains(c.Detail, test.detail) {
					t.Errorf("in JSON: %+v", answer)
				}
			}
		})
	}
}

func withPlugin(p server.Plugin) func(*server.Config) {
	return func(c *server.Config) { c.PluginsFunc = func() []server.Plugin { return []server.Plugin{p} } }
}

func withCheck(name string, err error) func(*server.Config) {
	return func(c *server.Config) {
		c.Checks = []server.Check{{Name: name, Func: func(context.Context) error { return err }}}
	}
}

func TestReasonsNeedTheTokenAndReadinessDoesNot(t *testing.T) {
	r := setup(t, func(c *server.Config) { c.Addr, c.Token, c.Table = "0.0.0.0:80", token, brokenTable{} })
	if w := r.ask(http.MethodGet, "/readyz", "", "Accept", "application/json"); w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "10.0.0.7") {
		t.Errorf("without the token it is answered with %d %s", w.Code, w.Body)
	}
	r.wantProblem(http.StatusUnauthorized, "no_token", http.MethodGet, "/readyz?verbose", "")
	if w := r.ask(http.MethodGet, "/readyz?verbose", "", "Authorization", "Bearer "+token); !strings.Contains(w.Body.String(), "10.0.0.7") {
		t.Errorf("with the token it is answered with %s", w.Body)
	}
}

func TestReadinessIsAskedForOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		failure := errors.New("not yet")
		r := setup(t, func(c *server.Config) {
			c.Checks = []server.Check{{Name: "own", Func: func(ctx context.Context) error {
				if asked.Add(1) == 1 {
					<-ctx.Done() // as long as it may
					return failure
				}
				return nil
			}}}
		})
		codes := make(chan int)
		began := time.Now()
		for range 10 {
			go func() { codes <- r.ask(http.MethodGet, "/readyz", "").Code }()
		}
		for range 10 {
			if code := <-codes; code != http.StatusServiceUnavailable {
				t.Errorf("it is answered with %d", code)
			}
		}
		if took := time.Since(began); took != 3*time.Second || asked.Load() != 1 {
			t.Errorf("ten answers took %v and %d questions", took, asked.Load())
		}
		<-time.After(time.Second)
		if code := r.ask(http.MethodGet, "/readyz", "").Code; code != http.StatusOK || asked.Load() != 2 {
			t.Errorf("a second later it is answered with %d after %d questions", code, asked.Load())
		}
	})
}

func TestRunServesUntilItsContextEnds(t *testing.T) {
	r := setup(t)
	r.cfg.Metrics = server.NewMetrics(nil)
	slow, started := make(chan struct{}), make(chan struct{})
	r.cfg.Checks = []server.Check{{Name: "slow", Func: func(context.Context) error { close(started); <-slow; return nil }}}
	s, err := server.New(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, ln) }()

	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	answered := make(chan int, 1)
	go func() {
		response, err := client.Get("http://" + ln.Addr().String() + "/readyz")
		if err != nil {
			t.Error(err)
			answered <- 0
			return
		}
		response.Body.Close()
		answered <- response.StatusCode
	}()
	<-started
	stop() // with a request under way, which is finished
	for {  // until nobody listens any more
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			break
		}
		c.Close()
	}
	close(slow)
	if code := <-answered; code != http.StatusOK {
		t.Errorf("the request under way was answered with %d", code)
	}
	if err := <-done; err != nil {
		t.Errorf("Run returned %v", err)
	}
}

func TestThereAreOnlySoManyConnectionsWithShortHeaders(t *testing.T) {
	r := setup(t)
	r.cfg.Metrics, r.cfg.Connections = server.NewMetrics(nil), 3
	s, err := server.New(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, ln) }()
	// ask sends a request on a new connection and gives the first line of its answer.
	ask := func(header string) (answer string, conn net.Conn) {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: localhost\r\nX: "+header+"\r\n\r\n") // it may be closed already
		answer, _ = bufio.NewReader(conn).ReadString('\n')
		return answer, conn
	}
	var open []net.Conn
	for range 3 {
		answer, conn := ask("x")
		if !strings.Contains(answer, "200") {
			t.Errorf("within the limit: %q", answer)
		}
		open = append(open, conn)
	}
	answer, fourth := ask("x")
	fourth.Close()
	if answer != "" {
		t.Errorf("the fourth was answered: %q", answer)
	}
	open[0].Close()
	for answer = ""; answer == ""; { // until its end has come through
		var conn net.Conn
		if answer, conn = ask(strings.Repeat("x", 32<<10)); answer == "" {
			conn.Close()
			continue
		}
		open = append(open, conn)
	}
	if !strings.Contains(answer, "431") {
		t.Errorf("headers of 32 KiB: %q", answer)
	}
	for _, conn := range open {
		conn.Close()
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestRunRefusesAnOpenListenerWithoutAToken(t *testing.T) {
	r := setup(t)
	r.cfg.Metrics = server.NewMetrics(nil)
	s, err := server.New(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context(), ln); err == nil || !strings.Contains(err.Error(), "token") {
		t.Errorf("Run returned %v", err)
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is open: %v", err)
	}
}

func TestRunTellsOfAListenerThatFails(t *testing.T) {
	r := setup(t)
	r.cfg.Metrics = server.NewMetrics(nil)
	s, err := server.New(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := s.Run(t.Context(), ln); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Run returned %v", err)
	}
}

var _ server.Engine = (*engine.Engine)(nil)
