// Package handlers is the contract between usher and the people who write
// message handlers. It depends on the standard library only.
//
// A [Handler] is given one [Message] at a time and answers with an error that
// says what is to happen to it:
//
//	nil                    done; what it emitted is sent
//	any other error        transient: tried again, with back-off
//	RetryAfter(d, err)     transient, and not before d has passed
//	Defer(d)               not now, and not the message's fault: no attempt is counted
//	Permanent(err, code)   it will never work: dead-lettered at once as permanent:<code>
//	Drop()                 nothing to do: acked, state cancelled
//
// Delivery is at least once. A handler whose effect must not happen twice keys
// it with [Message.IdempotencyKey], which is the same for every attempt.
//
// [Mux] routes by message type and is itself a Handler; [Recover] and
// [Timeout] are middleware around any Handler.
package handlers
