package server

import (
	"context"
	"net/http"
	"strings"
	"time"
)

const (
	awakePath = "/awake/"
	// awakeFor is how long a poll is held: App Runner ends requests after 120 s.
	awakeFor = 100 * time.Second
	// awakeLimit is when a poll that is not answered is given up.
	awakeLimit = awakeFor + 15*time.Second
	// A poll that reached somebody else is repeated after a wait, twice as long each time.
	awakeWait, awakeWaitMost = 50 * time.Millisecond, 5 * time.Second
)

// awake holds the poll of this very process, and sends away those of others at once.
func (s *Server) awake(w http.ResponseWriter, r *http.Request) {
	if r.PathValue("nonce") != s.nonce {
		w.WriteHeader(http.StatusMisdirectedRequest)
		return
	}
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(awakeLimit)); err != nil {
		s.cfg.Log.Warn().Err(err).Msg("a poll cannot be held for long")
	}
	end := time.NewTimer(awakeFor)
	defer end.Stop()
	select {
	case <-end.C:
	case <-r.Context().Done():
	}
	w.WriteHeader(http.StatusNoContent)
}

// KeepAwake keeps a request to this process under way until ctx ends, by way of
// Config.Awake: App Runner gives an instance without one next to no CPU. Which instance a
// request reaches is App Runner's to say, so it is asked until it is this one.
func (s *Server) KeepAwake(ctx context.Context) error {
	client := http.Client{Timeout: awakeLimit, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}}
	url := strings.TrimSuffix(s.cfg.Awake, "/") + awakePath + s.nonce
	for wait := awakeWait; ctx.Err() == nil; {
		if held(ctx, &client, url) {
			wait = awakeWait
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		wait = min(2*wait, awakeWaitMost)
	}
	return nil
}

// held makes one poll, and says whether it reached this process.
func held(ctx context.Context, client *http.Client, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return false
	}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close() // it is empty
	return resp.StatusCode == http.StatusNoContent
}
