// Package broker is usher's own STOMP broker for one machine. Any STOMP 1.0,
// 1.1 or 1.2 client can talk to it, and it behaves as ActiveMQ Classic does
// where usher and its producers rely on it.
//
// # The life of a message
//
// A connection's reader takes a SEND, encodes it and hands it to the committer.
// The committer gathers what all connections have handed it into one SQLite
// transaction, and after its fsync the message is visible to consumers and the
// RECEIPT goes out. The core gives it to a subscription with a free window: the
// highest level of the queue first, within a level by arrival. The connection's
// writer reads the body back from the store if it is not in memory, and sends
// it. An ACK frees the window at once and deletes the message with the next commit.
//
// # The guarantee
//
// What has a RECEIPT survives the death of the process and of the machine. What
// was not acked is delivered again, at the head of its level, with
// redelivered:true. After a restart every recovered message bears that header,
// because which of them had been delivered is not written down.
//
// # Where it differs from ActiveMQ
//
// Every message to a queue is durable, persistent:true or not, as it is there with
// the XML that usher writes. enginetest.EmbeddedFeatures lists what it does otherwise
// on purpose, and why: ten levels a queue and not three bands, for one. Selectors, exclusive consumers, wildcards, composite
// names, temporary topics, durable topic subscriptions, and the PERIOD, REPEAT
// and CRON of its scheduler are refused with an ERROR rather than ignored. Login
// and passcode are not checked: listen on the loopback interface. A message
// with a header that the version of the receiver cannot carry comes without
// that header.
//
// # Errors
//
// A fault in what a client asks for is answered with an ERROR frame and the
// connection stays, as on ActiveMQ; a fault in the protocol, or a number in a
// SEND that is none, also closes the connection. Nothing a connection does, or
// fails to do, holds up another one.
package broker
