// Package engine is the core of usher: it takes messages from a broker, urgent
// ones first, lets early ones wait, runs each through a handler, and settles
// it exactly once a delivery.
//
// life.go is the page to read first: the life of one message, from top to
// bottom. ports.go declares what the engine consumes; adapters implement it.
//
// The promise: publish first, ack last. A crash on any line may run a message
// twice; it never loses one. Every copy that the engine sends carries the next
// hop, every record write is guarded by the hop, so an extra copy has no effect.
package engine
