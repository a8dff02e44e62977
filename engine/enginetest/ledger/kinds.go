package ledger

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// Ending is how messages of a kind have to end.
type Ending int

// The endings.
const (
	// Done is with an effect. Only crashes of its plugin may make a message dead.
	Done Ending = iota
	// Dead is in the dead-letter queue, without an effect.
	Dead
)

// Kind is one kind of message that producers send.
type Kind struct {
	Type string
	Ends Ending
	// FollowOn is the type that each message emits when it is done, under
	// FollowOnKey; "": none.
	FollowOn, FollowOnKey string
	// MaxDelay is the longest delay that a producer asks for; 0: it asks for none.
	MaxDelay time.Duration
	// Level is the one it is sent at, 1 to 9; 0: any.
	Level int
	// Due is the time before which producers want none to be done; zero: none.
	Due time.Time
}

// Shop is what producers send to the shop plugin: kinds that are done at once, at
// the third attempt, with a follow-on and after a delay, and kinds that end as
// dead letters.
func Shop() []Kind {
	return []Kind{
		{Type: "order.rush"},
		{Type: "order.placed", FollowOn: "receipt.email", FollowOnKey: "receipt"},
		{Type: "order.placed", FollowOn: "receipt.email", FollowOnKey: "receipt", MaxDelay: 1500 * time.Millisecond},
		{Type: "order.rush", MaxDelay: 4 * time.Second},
		{Type: "report.daily"},
		{Type: "stock.sync"},
		{Type: "card.charge", Ends: Dead},
		{Type: "address.check", Ends: Dead},
	}
}

// followOnID is the id that the follow-on of a message has, as the design has it:
// by parent, type, key, and its place among equals, which is the first.
func followOnID(parent string, k Kind) string {
	sum := sha256.Sum256([]byte(parent + "\x00" + k.FollowOn + "\x00" + k.FollowOnKey + "\x000"))
	return "f-" + hex.EncodeToString(sum[:16])
}
