// Package monitor looks after the queues of dead letters: usher's own, and those
// where the broker puts what has expired and what a client has refused.
//
// A [Monitor] takes each letter in this order: it puts it into the archive, writes
// the record where the broker alone decided that the message is dead, logs one line
// (never a body), counts it for the ops notes, and acks last. A crash on any line
// makes it take a letter twice, which the archive recognises by its key; it never
// loses one. What is too large for the archive stays in its queue, with a row in
// the archive that says so.
//
// Ops notes tell people: one at once for the first letter of a kind of failure, and
// then one a window with how many there were. They go to [Ops], from a queue of
// their own, so that whoever does not take them holds up nothing.
package monitor
