//go:build !crashpoints

package cli

import (
	"usher/engine"
	"usher/engine/stomp"
)

// dying has the engine's ports, the monitor's and a redriver's as they are. A binary that
// is built with the tag crashpoints, for tests, may die at their calls; see
// engine/enginetest/crash.
func dying(broker *stomp.Broker, s store) (engine.Broker, store) { return broker, s }
