// Package watchframe has the frames that watchers and usher exchange over WebSocket,
// whichever way they are connected. What usher tells them of a message is an
// [engine.Status].
package watchframe

import (
	"encoding/json"
	"fmt"

	"usher/engine"
)

// What a client can ask for.
const (
	Subscribe   = "subscribe"
	Unsubscribe = "unsubscribe"
)

// The codes of failures.
const (
	BadRequest  = "bad_request"
	TooMany     = "too_many_subscriptions"
	Unavailable = "unavailable"
	BadToken    = "bad_token"     // whatever is wrong with it
	TokenEnded  = "token_expired" // of what was watched until now
)

// MaxBytes is the length of the longest frame that a client may send.
const MaxBytes = 4 << 10

// Request is a frame from a client.
type Request struct {
	Action string `json:"action"`
	ID     string `json:"id"`
	// Token is looked at where there are keys.
	Token string `json:"token"`
	// Seq is of the last status that the client has, from another connection:
	// it wants later ones only. Empty: it has none.
	Seq string `json:"seq"`

	Since *engine.Seq `json:"-"` // Seq, read; nil: there is none
}

// Failure is a frame that tells a client what went wrong.
type Failure struct {
	V       int    `json:"v"`
	Error   string `json:"error"`
	ID      string `json:"id,omitempty"`
	Message string `json:"message"`
}

// Fail makes a Failure. The id may be empty.
func Fail(code, id, message string) Failure {
	return Failure{V: engine.StatusVersion, Error: code, ID: id, Message: message}
}

// FailToken is the answer to a token that is not good. It does not say why: that is
// for the operators.
func FailToken(id string) Failure {
	return Fail(BadToken, id, "there is no token with this, or it is not good for this message now; ask for a new one where you got it")
}

// FailUnavailable is the answer where the records cannot be reached.
func FailUnavailable(id string) Failure {
	return Fail(Unavailable, id, "the records cannot be reached now; subscribe again later")
}

// Parse reads a client's frame; its error is for the client to read.
func Parse(data []byte) (Request, error) {
	var r Request
	if err := json.Unmarshal(data, &r); err != nil {
		return Request{}, fmt.Errorf(`this is not {"action":"subscribe","id":"order-7"}: %w`, err)
	}
	if r.Action != Subscribe && r.Action != Unsubscribe {
		return Request{}, fmt.Errorf("the action %.40q is not known; there are subscribe and unsubscribe", r.Action)
	}
	if !engine.ValidID(r.ID) {
		return Request{}, fmt.Errorf("an id is 1 to %d printable ASCII bytes", engine.MaxIDBytes)
	}
	if r.Seq != "" {
		r.Since = new(engine.Seq)
		if err := r.Since.UnmarshalText([]byte(r.Seq)); err != nil {
			return Request{}, fmt.Errorf(`the seq %.40q is not that of a status, as in "2.7"`, r.Seq)
		}
	}
	return r, nil
}
