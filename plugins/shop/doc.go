// Package shop is the plugin of the tour: a shop whose messages show what can
// happen to a message. Its work is only waiting, and it obeys cancellation.
//
//	order.rush      ~5 ms; done
//	receipt.email   ~5 ms; done
//	order.placed    20 to 40 ms with progress; done, and emits a receipt.email
//	report.daily    ~100 ms with progress; done (a config usually delays it)
//	stock.sync      two of three ids fail at attempts 1 and 2, then all are done
//	card.charge     always fails, until its attempts are exhausted
//	address.check   permanent:no_such_street
//	legacy.import   panics
//	crash.test      ends the process if its body is {"exit": <status>}, else done
//
// What a message does depends on its type, id, attempt and body only, never on
// chance, so a run can be repeated.
//
// With the name of a file in the environment variable SHOP_EFFECTS, each effect
// (a message that is done) is appended to it as one line and synced to disk
// before the message is done:
//
//	<id> <idempotency key> <type> <attempt> <Unix time in nanoseconds>
//
// id and key are escaped as parts of a URL path are. A test can hold this ledger
// against what was sent: attempts may repeat, and a lost message is not in it.
package shop
