package apigateway_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"usher/engine/apigateway"
	"usher/engine/enginetest/moto"
)

func TestAPushIsSignedAndIsTheStatus(t *testing.T) {
	g := newGateway(t, takesAll)
	p := pusher(t, g.config())
	want := status("order-7", 3)
	p.Notify(watchers("L0SM9cOFvHcCIhw=", "a/b+c"), want)
	all := g.await("two pushes", func(all []posted) bool { return len(all) == 2 })
	var to []string
	for _, one := range all {
		to = append(to, one.connection)
		if got := statusOf(t, one); got.ID != want.ID || got.Seq != want.Seq || got.State != want.State || got.Attempt != want.Attempt {
			t.Errorf("%s got %+v, want %+v", one.connection, got, want)
		}
	}
	if slices.Sort(to); !slices.Equal(to, []string{"L0SM9cOFvHcCIhw=", "a/b+c"}) {
		t.Errorf("told were %q", to)
	}
}

func TestAConnectionThatIsGoneIsAskedOnce(t *testing.T) {
	g := newGateway(t, func(string, int) (int, string) { return http.StatusGone, "GoneException" })
	l := newLost()
	cfg := g.config()
	cfg.LostFunc = l.count
	p := pusher(t, cfg)
	for i := range 3 {
		p.Notify(watchers("gone"), status("m", i))
		l.await(t, "gone")
	}
	if n := g.requests("gone"); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
}

// The slow one gets the latest of each message when it takes something again, and no
// other waits for it.
func TestASlowConnectionGetsTheLatestAndDelaysNoOther(t *testing.T) {
	var open atomic.Bool
	g := newGateway(t, func(connection string, _ int) (int, string) {
		if connection == "slow" && !open.Load() {
			return http.StatusTooManyRequests, "LimitExceededException"
		}
		return http.StatusOK, ""
	})
	p := pusher(t, g.config())
	const last = 200
	for i := 1; i <= last; i++ {
		p.Notify(watchers("slow", "quick"), status("m", i))
		p.Notify(watchers("slow"), status("other", i))
	}
	newest := func(connection, id string) func([]posted) bool {
		return func(all []posted) bool {
			return slices.ContainsFunc(all, func(one posted) bool {
				s := statusOf(t, one)
				return one.connection == connection && s.ID == id && s.Seq.Count == last
			})
		}
	}
	g.await("the quick one's latest, while the slow one takes nothing", newest("quick", "m"))
	open.Store(true)
	g.await("the slow one's latest", newest("slow", "m"))
	all := g.await("its latest of the other message", newest("slow", "other"))
	slow := 0
	for _, one := range all {
		if one.connection == "slow" {
			slow++
		}
	}
	// One of them may have been on its way when the later ones came.
	if slow > 3 {
		t.Errorf("it was told %d times of two messages", slow)
	}
}

// A status older than what waits never replaces it.
func TestAnOlderStatusReplacesNone(t *testing.T) {
	var open atomic.Bool
	g := newGateway(t, func(string, int) (int, string) {
		if !open.Load() {
			return http.StatusTooManyRequests, "LimitExceededException"
		}
		return http.StatusOK, ""
	})
	p := pusher(t, g.config())
	p.Notify(watchers("c"), status("first", 1))
	p.Notify(watchers("c"), status("m", 9))
	p.Notify(watchers("c"), status("m", 4))
	open.Store(true)
	all := g.await("both messages", func(all []posted) bool { return len(all) == 2 })
	for _, one := range all {
		if s := statusOf(t, one); s.ID == "m" && s.Seq.Count != 9 {
			t.Errorf("it was told %v", s.Seq)
		}
	}
}

func TestErrorsOfTheGatewayAreTriedFourTimes(t *testing.T) {
	g := newGateway(t, func(_ string, nth int) (int, string) { return http.StatusInternalServerError, "InternalFailure" })
	l := newLost()
	cfg := g.config()
	cfg.LostFunc = l.count
	p := pusher(t, cfg)
	p.Notify(watchers("c"), status("m", 1))
	l.await(t, "failed")
	if n := g.requests("c"); n != 4 {
		t.Errorf("it was tried %d times", n)
	}
}

func TestAPassingErrorLosesNothing(t *testing.T) {
	g := newGateway(t, func(_ string, nth int) (int, string) {
		if nth < 4 {
			return http.StatusServiceUnavailable, "ServiceUnavailable"
		}
		return http.StatusOK, ""
	})
	p := pusher(t, g.config())
	p.Notify(watchers("c"), status("m", 1))
	all := g.await("the status", func(all []posted) bool { return len(all) == 1 })
	if s := statusOf(t, all[0]); s.ID != "m" {
		t.Errorf("it was told of %q", s.ID)
	}
}

func TestWhatIsNotAllowedIsNotTriedAgain(t *testing.T) {
	for kind, want := range map[string]struct {
		status int
		cause  string
	}{
		"ForbiddenException":       {http.StatusForbidden, "refused"},
		"PayloadTooLargeException": {http.StatusRequestEntityTooLarge, "too_large"},
	} {
		t.Run(kind, func(t *testing.T) {
			g := newGateway(t, func(string, int) (int, string) { return want.status, kind })
			l := newLost()
			cfg := g.config()
			cfg.LostFunc = l.count
			p := pusher(t, cfg)
			p.Notify(watchers("c"), status("m", 1))
			l.await(t, want.cause)
			if n := g.requests("c"); n != 1 {
				t.Errorf("it was tried %d times", n)
			}
		})
	}
}

// What one connection is to be told, and how many have to be told, is bounded.
func TestNothingGrowsWithoutBound(t *testing.T) {
	release := make(chan struct{})
	g := newGateway(t, func(string, int) (int, string) {
		<-release
		return http.StatusOK, ""
	})
	l := newLost()
	cfg := g.config()
	cfg.LostFunc = l.count
	p := apigateway.New(cfg)
	p.Notify(watchers("c"), status("in hand", 1))
	for i := range 150 {
		p.Notify(watchers("c"), status(fmt.Sprintf("m%d", i), 1))
	}
	for range 50 {
		l.await(t, "too_many")
	}
	if err := p.Close(); err != nil { // while the gateway answers nobody
		t.Error(err)
	}
	close(release)
	p.Notify(watchers("c"), status("m", 1))
	for cause := range l.more {
		if cause != "shutting_down" && cause != "too_many" {
			t.Errorf("lost for %q", cause)
		}
		if len(l.more) == 0 {
			break
		}
	}
	if n := l.counts["too_many"]; n < 50 || n > 51 {
		t.Errorf("%d were too many, of 151 where 100 are not, or 101 with the one in hand", n)
	}
}

// moto's API for back ends takes what the SDK sends: it is the one that is not ours.
func TestOnMoto(t *testing.T) {
	m := moto.Start(t)
	to, err := url.Parse(m.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan int, 1)
	between := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) },
		ModifyResponse: func(r *http.Response) error {
			answers <- r.StatusCode
			return nil
		},
	})
	defer between.Close()
	p := pusher(t, apigateway.Config{AWS: m.Config(), Endpoint: between.URL})
	p.Notify(watchers("L0SM9cOFvHcCIhw="), status("m", 1))
	select {
	case code := <-answers:
		if code != http.StatusOK {
			t.Errorf("moto answered %d", code)
		}
	case <-time.After(deadline):
		t.Error("moto was not asked")
	}
}
