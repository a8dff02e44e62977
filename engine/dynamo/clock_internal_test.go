package dynamo

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// shown is a machine whose clock is set by hand, and a server whose clock is right.
type shown struct {
	wall, right time.Time
	running     time.Duration
	came        []string
	under       time.Duration // by which the clock is set while the next request is under way
}

func (s *shown) read() reading { return reading{s.wall, s.running} }

func (s *shown) RoundTrip(req *http.Request) (*http.Response, error) {
	s.came = append(s.came, req.Method)
	s.wall, s.under = s.wall.Add(s.under), 0
	return &http.Response{
		StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader("")), Request: req,
		Header: http.Header{"Date": {s.right.UTC().Format(http.TimeFormat)}},
	}, nil
}

// pass lets time pass.
func (s *shown) pass(d time.Duration) {
	s.wall, s.right, s.running = s.wall.Add(d), s.right.Add(d), s.running+d
}

// try sends a request, and gives what reached the server.
func (s *shown) try(t *testing.T, c *timed) (came []string, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://tables.test/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	s.came = nil
	answer, err := c.RoundTrip(req)
	if err == nil {
		_ = answer.Body.Close()
	}
	return s.came, err
}

// TestAClockThatIsSetIsLookedAtBeforeAnythingIsWritten: by an hour, forwards and
// backwards, while usher runs, and set right again.
func TestAClockThatIsSetIsLookedAtBeforeAnythingIsWritten(t *testing.T) {
	for name, by := range map[string]time.Duration{"back": -time.Hour, "forward": time.Hour} {
		t.Run(name, func(t *testing.T) {
			now := time.Date(2026, 11, 27, 12, 0, 0, 3e8, time.UTC)
			s := &shown{wall: now, right: now, running: time.Minute}
			c := &timed{next: s, read: s.read}
			steps := []struct {
				what    string
				do      func()
				reaches string
				words   string
			}{
				{"the first request asks for the time", func() {}, "GET POST", ""},
				{"the next one does not", func() { s.pass(time.Hour) }, "POST", ""},
				{"nor after a night", func() { s.pass(9 * time.Hour) }, "POST", ""},
				{"set", func() { s.wall = s.wall.Add(by) }, "GET", "by itself"},
				{"asked seldom", func() { s.pass(time.Second) }, "", "by itself"},
				{"asked again", func() { s.pass(2 * time.Second) }, "GET", "chrony"},
				{"set right", func() { s.wall = s.right; s.pass(2 * time.Second) }, "GET POST", ""},
				{"and right", func() { s.pass(time.Second) }, "POST", ""},
				{"set while a request is under way", func() { s.under = by }, "POST", ""},
				{"the next one asks", func() {}, "GET", "by itself"},
			}
			for _, step := range steps {
				step.do()
				came, err := s.try(t, c)
				if got := strings.Join(came, " "); got != step.reaches || (err == nil) != (step.words == "") {
					t.Fatalf("%s: %q reached the server, want %q; error %v", step.what, got, step.reaches, err)
				}
				if err != nil && !strings.Contains(err.Error(), step.words) {
					t.Errorf("%s: %v does not say %q", step.what, err, step.words)
				}
			}
		})
	}
}

// TestWhatCountsAsOff: what may be the second of the answer, or its way, does not.
func TestWhatCountsAsOff(t *testing.T) {
	at := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		sent, got time.Duration // after the second of the answer began
		want      time.Duration
	}{
		"the same":                        {0, 0, 0},
		"at the end of the second":        {999 * time.Millisecond, 1100 * time.Millisecond, 0},
		"a slow answer":                   {-4 * time.Second, 5 * time.Second, 0},
		"a second ahead":                  {1900 * time.Millisecond, 1950 * time.Millisecond, 0},
		"a second behind":                 {-1100 * time.Millisecond, -900 * time.Millisecond, 0},
		"more than two ahead":             {2100 * time.Millisecond, 2200 * time.Millisecond, -1100 * time.Millisecond},
		"more than one behind":            {-1200 * time.Millisecond, -1100 * time.Millisecond, 1100 * time.Millisecond},
		"five minutes ahead, slow answer": {300 * time.Second, 304 * time.Second, -299 * time.Second},
	} {
		if got := apart(at.Add(tt.sent), at.Add(tt.got), at); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
