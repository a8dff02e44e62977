package live

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/coder/websocket"

	"usher/engine"
)

// What a client can ask for.
const (
	actionSubscribe   = "subscribe"
	actionUnsubscribe = "unsubscribe"
)

// The codes of error frames.
const (
	codeBadRequest  = "bad_request"
	codeTooMany     = "too_many_subscriptions"
	codeUnavailable = "unavailable"
	codeBadToken    = "bad_token"     // whatever is wrong with it
	codeTokenEnded  = "token_expired" // of what was watched until now
)

// request is a frame from a client.
type request struct {
	Action string `json:"action"`
	ID     string `json:"id"`
	// Token is looked at where there are keys.
	Token string `json:"token"`
	// Seq is of the last status that the client has, from another connection:
	// it wants later ones only. Empty: it has none.
	Seq string `json:"seq"`

	since *engine.Seq // Seq, read; nil: there is none
}

// failure is a frame that tells a client what went wrong.
type failure struct {
	V       int    `json:"v"`
	Error   string `json:"error"`
	ID      string `json:"id,omitempty"`
	Message string `json:"message"`
}

func newFailure(code, id, message string) failure {
	return failure{V: engine.StatusVersion, Error: code, ID: id, Message: message}
}

// parse reads a client's frame; its error is for the client to read.
func parse(typ websocket.MessageType, data []byte) (request, error) {
	if typ != websocket.MessageText {
		return request{}, errors.New(`send text frames, as in {"action":"subscribe","id":"order-7"}`)
	}
	var r request
	if err := json.Unmarshal(data, &r); err != nil {
		return request{}, fmt.Errorf(`this is not {"action":"subscribe","id":"order-7"}: %w`, err)
	}
	if r.Action != actionSubscribe && r.Action != actionUnsubscribe {
		return request{}, fmt.Errorf("the action %.40q is not known; there are subscribe and unsubscribe", r.Action)
	}
	if !engine.ValidID(r.ID) {
		return request{}, fmt.Errorf("an id is 1 to %d printable ASCII bytes", engine.MaxIDBytes)
	}
	if r.Seq != "" {
		r.since = new(engine.Seq)
		if err := r.since.UnmarshalText([]byte(r.Seq)); err != nil {
			return request{}, fmt.Errorf(`the seq %.40q is not that of a status, as in "2.7"`, r.Seq)
		}
	}
	return r, nil
}
