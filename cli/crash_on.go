//go:build crashpoints

package cli

import (
	"os"

	"usher/engine"
	"usher/engine/enginetest/crash"
	"usher/engine/stomp"
)

// dying gives ports at whose calls the process dies, if USHER_CRASH_AT says so:
// Write,after,3 is after the third write.
func dying(broker *stomp.Broker, s store) (engine.Broker, store) {
	at, err := crash.Parse(os.Getenv("USHER_CRASH_AT"))
	if err != nil {
		panic(err)
	}
	return crash.Broker{Broker: broker, Point: at}, crash.Stores{Store: s, Point: at}
}
