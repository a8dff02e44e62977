// Package stomp connects the engine to a message broker that speaks STOMP 1.0
// to 1.2: Amazon MQ (ActiveMQ Classic), or the embedded broker.
//
// [Broker] implements [engine.Broker]. Its Run keeps one consuming session up:
// it goes through the endpoints, one of which is live, subscribes the lane of
// each level and the work queue itself, each with its own window, and begins
// again with jittered back-off when the session is lost. Each session has a new
// epoch, so that a late ack of an old one is dropped. Publishing has a small
// pool of connections of its own, for a broker gives each connection its share
// (Amazon MQ on EFS: about 80 persistent messages a second), and receipts are
// pipelined on each. [Client] is the same for command-line tools.
//
// The reader of a session always drains and never waits for a consumer, or
// heart-beats, receipts and other lanes would wait with it; what it may hold is
// bounded by the windows. ACK and SEND never ride in a STOMP transaction, NACK
// and UNSUBSCRIBE are never sent: see [Broker.Ack].
//
// A message whose body is over Config.MaxBodyBytes, or whose headers the broker
// would not take back, must not end every session that it is delivered to. It
// is handed over with [engine.HeaderTooLarge] set, so that the engine can
// dead-letter it: see [Config].
package stomp
