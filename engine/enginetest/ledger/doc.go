// Package ledger keeps the books of a test that kills things: producers write
// down what they sent and what the broker acknowledged, handlers what they did,
// and when all is over [Ledger.Close] holds one against the other, with the
// record table, the dead-letter queue and the archive. Only tests import it.
//
// The promise it checks: a message that the broker has acknowledged is done, with
// its effect, or dead, with a copy in the dead-letter queue, or in the archive where
// a monitor is; and so is each follow-on of a message that is done. Whatever comes twice comes under the same
// key. Messages that were not acknowledged may be there or not, but are treated no
// worse.
//
// The effects are read from files with a line for each:
//
//	<id> <idempotency key> <type> <attempt> <Unix time in nanoseconds>
//
// id and key escaped as parts of a URL path are; the handler syncs a line to disk
// before it says that it is done.
package ledger
