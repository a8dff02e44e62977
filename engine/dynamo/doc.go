// Package dynamo keeps records, parked copies and dead letters in DynamoDB.
//
// # Three tables
//
// Records has one item a message and no payload: its permission is that of
// operators, who may edit it by hand. Bodies has the copies that wait and the
// contents of dead letters. Letters is the list of dead letters. [Schemas] says
// what each looks like.
//
// # One read and one write
//
// What most messages need is in a batch of look-ups and one conditional UpdateItem
// that reads nothing: the guard of [engine.Change] is its condition. Everything else
// (claims, first sights, delays, watchers) reads the item and puts it back on the
// condition that nobody wrote in between: every write leaves a nonce, and the next
// one names it. A nonce also tells a writer whose answer was lost that its write
// has landed.
//
// # Indexes
//
// An item that waits is in the index "waiting", on one of [engine.Buckets] shelves
// or, while its type is held, on the shelf of that type. All others are not in it.
// An index lags behind the table: whoever releases asks the record again.
//
// # Time
//
// DynamoDB tells no time that is better than seconds, so what is due is decided by
// the clock of the engine that asks. Times are numbers of milliseconds, except that
// "ttl" is in seconds, as DynamoDB asks. It deletes up to days late: what has
// expired is as absent.
package dynamo
