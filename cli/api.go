package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"usher/engine/stomp"
	"usher/server"
)

// Where a running usher is, if the environment does not say otherwise.
const (
	defaultURL    = "http://127.0.0.1:8080"
	defaultBroker = "stomp://127.0.0.1:61613"
)

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// api calls a running usher over HTTP.
type api struct {
	base  string
	token string
	http  http.Client
}

func newAPI() *api {
	return &api{
		base: strings.TrimSuffix(env("USHER_URL", defaultURL), "/"), token: os.Getenv("USHER_TOKEN"),
		http: http.Client{Timeout: 30 * time.Second},
	}
}

// messagePath is the path of one message; ids may have any printable character.
func messagePath(kind, id string) string { return "/api/v1/" + kind + "/" + url.PathEscape(id) }

// call sends in as JSON, if it is not nil, and reads the answer into out.
func (a *api) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader = http.NoBody
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	resp, err := a.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		return refused(resp)
	}
	return decode(resp, out)
}

// get asks for JSON and gives the answer, whatever its status; the caller closes it.
func (a *api) get(ctx context.Context, path string) (*http.Response, error) {
	return a.do(ctx, http.MethodGet, path, http.NoBody)
}

func (a *api) do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, body)
	if err != nil {
		return nil, fail(exitUsage, "USHER_URL %q: %w", a.base, err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, fail(exitUnreachable, "no usher answers at %s (is `usher dev` or `usher run` up? USHER_URL says where): %w", a.base, err)
	}
	return resp, nil
}

// decode reads the answer into out.
func decode(resp *http.Response, out any) error {
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fail(exitFailed, "%s gave an answer that is no JSON: %w", resp.Request.URL, err)
	}
	return nil
}

// refused turns a problem of the server into an error with its exit code.
func refused(resp *http.Response) error {
	var p server.Problem
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&p); err != nil || p.Title == "" {
		return fail(exitFailed, "the server answered %s", resp.Status)
	}
	text := p.Title
	if p.Detail != "" {
		text += ": " + p.Detail
	}
	if p.Hint != "" {
		text += "\n" + p.Hint
	}
	code := exitFailed
	switch {
	case resp.StatusCode == http.StatusNotFound:
		code = exitNotFound
	case resp.StatusCode == http.StatusConflict:
		code = exitConflict
	case resp.StatusCode >= 500:
		code = exitUnreachable
	case resp.StatusCode == http.StatusBadRequest:
		code = exitInvalid
	}
	return &failure{code: code, err: errors.New(text), problem: p.Code}
}

// brokerConfig is the broker that the environment names.
func brokerConfig() stomp.Config {
	return stomp.Config{
		URLs:  strings.Split(env("USHER_BROKER", defaultBroker), ","),
		Login: os.Getenv("USHER_BROKER_LOGIN"), Passcode: os.Getenv("USHER_BROKER_PASSCODE"),
		Log: zerolog.Nop(),
	}
}

// dialBroker connects to the broker that the environment names.
func dialBroker(ctx context.Context) (*stomp.Client, error) {
	cfg := brokerConfig()
	if err := cfg.Validate(); err != nil {
		return nil, fail(exitUsage, "USHER_BROKER: %w", err)
	}
	dial, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	client, err := stomp.Dial(dial, cfg)
	if err != nil {
		return nil, fail(exitUnreachable, "no broker answers at %s (USHER_BROKER says where): %w", strings.Join(cfg.URLs, ", "), err)
	}
	return client, nil
}

// ago is how long ago a time was, in short.
func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return time.Since(t).Truncate(time.Second).String() + " ago"
}

// when is a time for people: the local clock, and how far it is.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	text := t.Local().Format("2006-01-02 15:04:05")
	if d := time.Until(t); d > 0 {
		return text + fmt.Sprintf(" (in %s)", d.Round(time.Second))
	}
	return text + fmt.Sprintf(" (%s)", ago(t))
}
