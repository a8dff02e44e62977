// Package webhook sends ops notes to a URL, as JSON.
package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"usher/engine/monitor"
)

// SignatureHeader has the signature of the body, if there is a secret: "sha256=" and
// the HMAC-SHA256 with the secret, in hex.
const SignatureHeader = "Usher-Signature"

const (
	// answerTimeout is how long the receiver has for its answer.
	answerTimeout = 5 * time.Second
	// maxAnswer is how much of an answer is read, so that the connection can be used
	// again.
	maxAnswer = 64 << 10
)

// Config says where notes go.
type Config struct {
	// URL is POSTed to; http or https. It may itself be a secret, as with most
	// chats: no error tells more of it than the host.
	URL string
	// Secret signs the bodies; "": they are not signed.
	Secret string
}

// Webhook takes notes for a URL. It is safe for concurrent use.
type Webhook struct {
	url    *url.URL
	secret []byte
	client http.Client
}

var _ monitor.Ops = (*Webhook)(nil)

// New checks the config and makes a Webhook of it.
func New(cfg Config) (*Webhook, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, errors.New("webhook: the URL is not of the form https://host/path")
	}
	return &Webhook{url: u, secret: []byte(cfg.Secret), client: http.Client{
		Timeout:   answerTimeout,
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute},
		// What is signed for one host is not for another.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Tell POSTs a note; see [monitor.Ops]. Any answer of 200 to 299 is taken. After 408,
// 429 and 500 to 599, and when nobody answers, trying again is of use.
func (w *Webhook) Tell(ctx context.Context, n monitor.Note) error {
	body, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("webhook: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url.String(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("webhook: %s: the request cannot be made", w.url.Host)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "usher")
	if len(w.secret) > 0 {
		req.Header.Set(SignatureHeader, Sign(w.secret, body))
	}
	resp, err := w.client.Do(req)
	if err != nil {
		if told, ok := errors.AsType[*url.Error](err); ok {
			err = told.Err // its text has the whole URL
		}
		return fmt.Errorf("webhook: %s: %w", w.url.Host, err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)) // only so that the connection can be used again
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return nil
	}
	return fmt.Errorf("webhook: %s: %w", w.url.Host, &refusal{resp.StatusCode, retryAfter(resp.Header.Get("Retry-After"))})
}

// Sign is the value of SignatureHeader for a body.
func Sign(secret, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// Close lets go of idle connections. It returns nil.
func (w *Webhook) Close() error {
	w.client.CloseIdleConnections()
	return nil
}

// refusal is an answer that took no note.
type refusal struct {
	status int
	after  time.Duration
}

var _ monitor.Again = (*refusal)(nil)

// Error names the status.
func (r *refusal) Error() string {
	return fmt.Sprintf("it answered %d %s", r.status, http.StatusText(r.status))
}

// Again says whether trying again is of use; see [monitor.Again].
func (r *refusal) Again() (time.Duration, bool) {
	return r.after, r.status == http.StatusRequestTimeout || r.status == http.StatusTooManyRequests || r.status >= 500
}

// retryAfter reads the seconds that a receiver asks for; 0 if it does not.
func retryAfter(text string) time.Duration {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0
	}
	return time.Duration(min(n, 3600)) * time.Second
}
