package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"usher/engine"
)

// Problem is how the server says that a request failed (RFC 9457). Code is for
// programs and does not change; Title, Detail and Hint are for people.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Code   string `json:"code"`
	Hint   string `json:"hint,omitempty"`
}

// problemError is a Problem on its way out of an endpoint.
type problemError struct{ Problem }

// Error gives the problem in one line.
func (p *problemError) Error() string { return p.Title + ": " + p.Detail }

// problem makes a problem; its type is made of the code.
func problem(status int, code, title, detail, hint string) *problemError {
	return &problemError{Problem{
		Type: "urn:usher:problem:" + code, Title: title, Status: status,
		Detail: detail, Code: code, Hint: hint,
	}}
}

func badRequest(code, detail, hint string) *problemError {
	return problem(http.StatusBadRequest, code, "the request is not valid", detail, hint)
}

// asProblem finds what to tell of an error. What is nobody's mistake is a 503,
// and the caller is not told more than that; known is false then.
func asProblem(err error) (p *problemError, known bool) {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &p):
		return p, true
	case errors.As(err, &tooLarge):
		return problem(http.StatusRequestEntityTooLarge, "too_large", "the body is too large",
			fmt.Sprintf("at most %d bytes are read", tooLarge.Limit), ""), true
	case errors.Is(err, engine.ErrNotFound):
		return problem(http.StatusNotFound, "not_seen", "not seen", "there is no record of this id",
			"check the id; a message has a record once an engine has settled or deferred it, and an in-hand status while it runs"), true
	case errors.Is(err, engine.ErrFinished):
		return problem(http.StatusConflict, "finished", "the message is finished",
			"it is done, dead or cancelled, so nothing about it can be changed", "a dead message can be redriven: usher dlq redrive"), true
	}
	if errors.Is(err, engine.ErrRunning) {
		return problem(http.StatusConflict, "running", "the message is running", "its handler has it now",
			"try again when the attempt has ended (usher msg show tells), or stop it: usher msg cancel --running"), true
	}
	return problem(http.StatusServiceUnavailable, "unavailable", "not now",
		"the records or the broker did not answer", "try again; the log and /readyz?verbose say more"), false
}

// writeProblem answers with a problem.
func writeProblem(w http.ResponseWriter, p *problemError) {
	writeBody(w, p.Status, "application/problem+json", p.Problem)
}

// writeJSON answers with a value.
func writeJSON(w http.ResponseWriter, status int, v any) {
	writeBody(w, status, "application/json", v)
}

func writeBody(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("server: an answer cannot be encoded: %v", err)) // its types are ours
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // a client that is gone is not waited for
}
