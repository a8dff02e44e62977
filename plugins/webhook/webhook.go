package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"usher/handlers"
	"usher/handlers/plugin"
)

// ChoiceHeader is the header with which a producer chooses one of the URLs that
// WEBHOOK_CHOICES names, instead of that of the message's type.
const ChoiceHeader = "webhook_to"

// The codes of messages that are not tried again, besides http_<status>.
const (
	CodeRedirect = "redirect"        // the answer was a 3xx
	CodeAddress  = "refused_address" // the host has an address that is not allowed
	CodeChoice   = "unknown_choice"  // ChoiceHeader names what there is not
	CodeHeader   = "bad_header"      // the id or the content-type cannot be a header of HTTP
)

// drainTime is how long the rest of an answer is waited for when its status is
// known: a connection is worth no more.
const drainTime = time.Second

// maxWords is how much of an answer goes into the words of an error, in bytes.
const maxWords = 256

// Serve serves webhooks to the usher that started the process, as
// [plugin.Serve] does.
func Serve() {
	s, err := read(os.Environ())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:forbidigo // it is the main of a process, as plugin.Serve is
	}
	w := newWebhook(s)
	defer w.transport.CloseIdleConnections()
	plugin.ServeConfig(plugin.Config{Handler: w, Name: "webhook", Concurrency: s.concurrency})
}

// webhook is the handler. It is safe for concurrent use.
type webhook struct {
	settings
	transport *http.Transport
	timed     handlers.Handler // post, within the time-out
}

var _ handlers.Handler = (*webhook)(nil)

func newWebhook(s settings) *webhook {
	dialer := &net.Dialer{Timeout: s.connect, Control: s.guard.control}
	w := &webhook{settings: s}
	w.transport = &http.Transport{
		// No Proxy: it would dial in our place, and the guard would see its address only.
		DialContext:         dialer.DialContext,
		TLSHandshakeTimeout: s.connect, ForceAttemptHTTP2: true,
		MaxIdleConns: 2 * s.concurrency, MaxIdleConnsPerHost: s.concurrency, IdleConnTimeout: 90 * time.Second,
		DisableCompression:     true, // an answer that grows is not asked for
		MaxResponseHeaderBytes: 64 << 10,
	}
	w.timed = handlers.Timeout(s.timeout, handlers.HandlerFunc(w.post))
	return w
}

// Types are the message types that have a URL.
func (w *webhook) Types() []string { return slices.Sorted(maps.Keys(w.urls)) }

// HandleMessage makes one request, and waits for its answer until ctx ends or
// the time-out is over.
func (w *webhook) HandleMessage(ctx context.Context, m *handlers.Message) error {
	return w.timed.HandleMessage(ctx, m)
}

func (w *webhook) post(ctx context.Context, m *handlers.Message) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := w.request(ctx, m)
	if err != nil {
		return err
	}
	// RoundTrip follows no redirect.
	resp, err := w.transport.RoundTrip(req)
	switch {
	case errors.Is(err, errRefused):
		return handlers.Permanent(fmt.Errorf("webhook: %s: %w", req.URL.Host, err), CodeAddress)
	case err != nil:
		return fmt.Errorf("webhook: %s: %w", req.URL.Host, err)
	}
	defer resp.Body.Close()
	defer time.AfterFunc(drainTime, cancel).Stop()
	return w.answer(resp, w.drain(resp.Body))
}

// target is the URL of a message.
func (w *webhook) target(m *handlers.Message) (*url.URL, error) {
	if name, chosen := m.Headers[ChoiceHeader]; chosen {
		if u := w.choices[name]; u != nil {
			return u, nil
		}
		return nil, handlers.Permanent(fmt.Errorf("webhook: the header %s is %q; there are: %v", ChoiceHeader, name, slices.Sorted(maps.Keys(w.choices))), CodeChoice)
	}
	if u := w.urls[m.Type]; u != nil {
		return u, nil
	}
	return nil, handlers.Permanent(fmt.Errorf("webhook: the type %q has no URL; there are: %v", m.Type, w.Types()), handlers.CodeNoHandler)
}

var traceParent = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-|$)`)

// request is the request of one attempt, signed.
func (w *webhook) request(ctx context.Context, m *handlers.Message) (*http.Request, error) {
	to, err := w.target(m)
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{"id": m.IdempotencyKey, "content-type": m.ContentType} {
		if !fits(value) || value == "" {
			return nil, handlers.Permanent(fmt.Errorf("webhook: the %s %q cannot be the value of an HTTP header", name, value), CodeHeader)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), bytes.NewReader(m.Body))
	if err != nil {
		return nil, handlers.Permanent(fmt.Errorf("webhook: %s: no request can be made", to.Host), CodeAddress)
	}
	h := req.Header
	h.Set("Content-Type", m.ContentType)
	h.Set("User-Agent", "usher-webhook")
	// It also lets net/http repeat the request when an idle connection is found closed.
	h.Set("Idempotency-Key", m.IdempotencyKey)
	h.Set("Usher-Type", m.Type)
	h.Set("Usher-Attempt", strconv.Itoa(m.Attempt))
	if parent := m.Headers["traceparent"]; traceParent.MatchString(parent) && fits(parent) {
		h.Set("Traceparent", parent)
		if state := m.Headers["tracestate"]; state != "" && fits(state) {
			h.Set("Tracestate", state)
		}
	}
	w.sign(h, m, time.Now())
	return req, nil
}

// fits says whether text arrives as the value of a header byte for byte.
func fits(text string) bool {
	return strings.TrimSpace(text) == text && strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

// drain reads what there is to read of an answer, so that its connection can be
// used again, and gives the beginning of it.
func (w *webhook) drain(body io.Reader) string {
	var start bytes.Buffer
	rest := io.LimitReader(body, w.response+1) // one more, to see the end of one that long
	// What breaks off has said its status.
	if _, err := io.CopyN(&start, rest, maxWords); err == nil {
		_, _ = io.Copy(io.Discard, rest)
	}
	return handlers.OneLine(start.String(), maxWords)
}

// answer is what the receiver's answer means for the message.
func (w *webhook) answer(resp *http.Response, said string) error {
	err := fmt.Errorf("webhook: %s answered %s", resp.Request.URL.Host, resp.Status)
	if said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	status := resp.StatusCode
	switch {
	case status/100 == 2:
		return nil
	case status/100 == 3:
		return handlers.Permanent(fmt.Errorf("%w (redirects are not followed: set the URL that is meant)", err), CodeRedirect)
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests, status >= 500:
		if after := min(retryAfter(resp.Header.Get("Retry-After"), time.Now()), w.retryAfter); after > 0 {
			return handlers.RetryAfter(after, err)
		}
		return err
	}
	return handlers.Permanent(err, "http_"+strconv.Itoa(status))
}

// retryAfter is how long a receiver asks to wait, in seconds or until a date; 0
// if it does not say, or nothing that can be read.
func retryAfter(text string, now time.Time) time.Duration {
	const most = 1 << 31 // seconds; more is no time but a mistake
	if n, err := strconv.ParseUint(text, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(n, most)) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}
