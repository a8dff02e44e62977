package enginetest

import (
	"maps"
	"strings"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine"
)

// The cases of RunBroker in this file are what the design knows of ACK, NACK and
// what comes again. Each says where that stands, and on which ActiveMQ it was seen.

func ackCases() []brokerCase {
	return []brokerCase{
		{"DisconnectGivesBackBeforeItsReceipt", nil, disconnectGivesBack},
		{"ClientModeAcksAllBefore", nil, clientModeAcksAllBefore},
		{"AutoModeAcksBeforeTheWork", nil, autoModeAcksBeforeTheWork},
		{"AckInATransactionIsKept", nil, ackInATransactionIsKept},
		{"AckInATransactionLeavesTheWindow", nil, ackInATransactionLeavesTheWindow},
		{"LateAckIsRefused", nil, lateAckIsRefused},
		{"UnsubscribeRedeliversWhatIsRunning", nil, unsubscribeRedelivers},
		{"NackDeadLettersWithoutAReason", nil, nackDeadLetters},
		{"ErrorNamesTheReceipt", nil, errorNamesTheReceipt},
		{"DeliveriesAreNotCounted", nil, deliveriesAreNotCounted},
		{"SilentClientIsCutOff", nil, silentClientIsCutOff},
	}
}

// The receipt of DISCONNECT says that what is not acked is with the others again: STOMP
// 1.2, DISCONNECT, promises it of what was sent before. An engine that drains hands
// its messages over with it, and the other cases count on it. ActiveMQ 5.18.3.
func disconnectGivesBack(r *brokerRig) {
	const rounds = 5
	r.bare().send(plainQueue, "1")
	for range rounds {
		c := r.bare()
		c.subscribe(plainQueue, "client-individual", 1)
		c.message()
		c.do(frame.DISCONNECT)
		c = r.bare()
		c.send(plainQueue, "2", engine.HeaderPriority, "0") // comes first if 1 is not there yet
		c.subscribe(plainQueue, "client-individual", 1)
		if m := c.message(); string(m.Body) != "1" {
			r.Fatalf("%s came before what was given back", m.Body)
		}
		c.do(frame.DISCONNECT)
	}
}

// STOMP 1.2, SUBSCRIBE ack Header: client acks are cumulative; so the engine, which
// settles in any order, cannot use them. ActiveMQ 5.18.3.
func clientModeAcksAllBefore(r *brokerRig) {
	c := r.bare()
	for _, body := range []string{"1", "2", "3", "4"} {
		c.send(plainQueue, body)
	}
	c.subscribe(plainQueue, "client", 10)
	ms := c.messages(4)
	c.do(frame.ACK, frame.Id, ms[2].Header.Get(frame.Ack))
	c.do(frame.DISCONNECT)
	if left := bodies(r.drained(plainQueue)); left != "4" {
		r.Errorf("after the ACK of 3, of 1 to 4, %q is left; want 4", left)
	}
}

// STOMP 1.2, SUBSCRIBE ack Header: with auto the broker takes a message for consumed
// as soon as it is sent; a client that dies loses it. ActiveMQ 5.18.3.
func autoModeAcksBeforeTheWork(r *brokerRig) {
	c := r.bare()
	c.send(plainQueue, "1")
	c.subscribe(plainQueue, "auto", 10)
	c.message()
	c.do(frame.DISCONNECT)
	if left := r.drained(plainQueue); len(left) > 0 {
		r.Errorf("%q came again", bodies(left))
	}
}

// ActiveMQ keeps what was acked in a transaction of a client-individual subscription
// after its COMMIT, until the subscription ends, and looks through all of it at each
// further ACK: 1,501 entries after 1,500 messages, and each settle slower than the
// one before. It shows when another transaction is aborted, which brings back
// all that is kept: then the broker knows the ack id again, and refuses it with the
// id of the message, in place of null. So no ACK of ours is in a transaction.
// ActiveMQ 5.18.3 (StompSubscription.onStompCommit), slow on 5.17.2.
func ackInATransactionIsKept(r *brokerRig) {
	c := r.bare()
	c.send(plainQueue, "1")
	c.send(plainQueue, "2")
	c.subscribe(plainQueue, "client-individual", 10)
	ms := c.messages(2)
	for i, end := range []string{frame.COMMIT, frame.ABORT} {
		c.do(frame.BEGIN, frame.Transaction, end)
		c.do(frame.ACK, frame.Id, ms[i].Header.Get(frame.Ack), frame.Transaction, end)
		c.do(end, frame.Transaction, end)
	}
	answer := c.refused(frame.ACK, frame.Id, ms[0].Header.Get(frame.Ack))
	kept := strings.Contains(answer.Header.Get(frame.Message), ms[0].Header.Get(frame.MessageId))
	if kept == r.h.Features.ForgetsTransacted {
		r.Errorf("that the broker keeps what was acked and committed is %v, by its answer %q", kept, answer.Header.Get(frame.Message))
	}
	c.do(frame.ACK, frame.Id, ms[1].Header.Get(frame.Ack)) // aborted, so it is in hand
	c.do(frame.DISCONNECT)
	if left := r.drained(plainQueue); len(left) > 0 {
		r.Errorf("%q is left", bodies(left))
	}
}

// An ACK in a transaction frees its place in the window before COMMIT, or a window
// smaller than the transaction could not go on. ActiveMQ 5.18.3 (usePrefetchExtension).
func ackInATransactionLeavesTheWindow(r *brokerRig) {
	c := r.bare()
	c.send(plainQueue, "1")
	c.send(plainQueue, "2")
	c.subscribe(plainQueue, "client-individual", 1)
	m := c.message()
	c.do(frame.BEGIN, frame.Transaction, "t")
	c.do(frame.ACK, frame.Id, m.Header.Get(frame.Ack), frame.Transaction, "t")
	c.message()
	c.do(frame.DISCONNECT) // which aborts
	if left := bodies(r.drained(plainQueue)); left != "12" {
		r.Errorf("after the abort %q is left, want 12", left)
	}
}

// STOMP 1.2, ACK, says nothing of an ACK that is for nothing: ActiveMQ 5.18.3 answers
// it with an ERROR, though an ERROR must be followed by the end of the connection
// (STOMP 1.2, ERROR), and goes on. Without a receipt nobody can tell what it is for,
// so the engine's session ends with it; that is why late acks must not be sent, and
// why deliveries have epochs.
func lateAckIsRefused(r *brokerRig) {
	c := r.bare()
	c.send(plainQueue, "1")
	c.send(plainQueue, "2")
	c.subscribe(plainQueue, "client-individual", 1)
	ack := c.message().Header.Get(frame.Ack)
	c.do(frame.ACK, frame.Id, ack)
	for _, id := range []string{ack, "nonsense", "1"} {
		c.refused(frame.ACK, frame.Id, id)
	}
	c.refused(frame.ACK)
	old := c.message()
	c.write(frame.New(frame.ACK, frame.Id, ack))
	f := c.read()
	for f != nil && f.Header.Get(frame.ReceiptId) != "" && f.Command == frame.ERROR {
		f = c.read() // repeated
	}
	if f == nil || f.Command != frame.ERROR {
		r.Errorf("got %v, want an ERROR without receipt-id", f)
	}
	c.send(plainQueue, "3")
	c.do(frame.DISCONNECT)
	next := r.bare()
	next.subscribe(plainQueue, "client-individual", 1)
	m := next.message()
	if m.Header.Get(frame.MessageId) != old.Header.Get(frame.MessageId) || m.Header.Get(frame.Ack) == old.Header.Get(frame.Ack) {
		r.Fatalf("message %v came again as %v, want another ack id", old.Header, m.Header)
	}
	next.refused(frame.ACK, frame.Id, old.Header.Get(frame.Ack)) // of the old connection
	next.do(frame.ACK, frame.Id, m.Header.Get(frame.Ack))
	next.do(frame.DISCONNECT)
	if left := bodies(r.drained(plainQueue)); left != "3" {
		r.Errorf("%q is left, want 3", left)
	}
}

// STOMP 1.2, UNSUBSCRIBE, leaves open what becomes of messages that are not acked:
// they go to others at once, under the same message-id, and their acks are void. So
// the engine never unsubscribes to drain. ActiveMQ 5.18.3.
func unsubscribeRedelivers(r *brokerRig) {
	c := r.bare()
	c.send(plainQueue, "running")
	c.subscribe(plainQueue, "client-individual", 1)
	running := c.message()
	other := r.bare()
	other.subscribe(plainQueue, "client-individual", 1)
	c.do(frame.UNSUBSCRIBE, frame.Id, plainQueue)
	again := other.message()
	if again.Header.Get(frame.MessageId) != running.Header.Get(frame.MessageId) || again.Header.Get(engine.HeaderRedelivered) != "true" {
		r.Errorf("message %v came again as %v", running.Header, again.Header)
	}
	answer := c.ask(frame.ACK, frame.Id, running.Header.Get(frame.Ack))
	if refused := answer.Command == frame.ERROR; refused != r.h.Features.RefusesEndedAcks {
		r.Errorf("the ACK of a subscription that has ended was answered with %v", answer)
	}
	other.do(frame.DISCONNECT)
	if left := bodies(r.drained(plainQueue)); left != "running" {
		r.Errorf("%q is left, want the running one", left)
	}
}

// NACK is a dead letter at once, at the first delivery, and nobody learns why: STOMP
// has no reason to give, and the broker adds none. So the engine sends its own dead
// letters. ActiveMQ 5.17.2 and 5.18.3.
func nackDeadLetters(r *brokerRig) {
	queue := r.laneQueue(4)
	c := r.bare()
	c.send(engine.WorkQueue, "refused", engine.HeaderPriority, "4", engine.HeaderID, "n-1")
	c.subscribe(queue, "client-individual", 10)
	m := c.message()
	c.do(frame.NACK, frame.Id, m.Header.Get(frame.Ack))
	c.do(frame.DISCONNECT)
	dead := r.drained(r.h.Features.DeadLetters(queue))
	if bodies(dead) != "refused" {
		r.Fatalf("the dead letters are %q", bodies(dead))
	}
	h := dead[0].Header
	if h.Get(frame.MessageId) != m.Header.Get(frame.MessageId) || h.Get(engine.HeaderID) != "n-1" || h.Get("original-destination") != "/queue/"+queue {
		r.Errorf("message %v became the dead letter %v", m.Header, h)
	}
	for _, name := range []string{engine.HeaderDeadReason, "dlqDeliveryFailureCause"} {
		if reason, ok := h.Contains(name); ok {
			r.Errorf("the dead letter has %s:%s", name, reason)
		}
	}
}

// STOMP 1.2, ERROR: it should have the receipt header of the frame at fault. It has,
// so a refused request is told from a session at its end. ActiveMQ 5.18.3 keeps the
// connection.
func errorNamesTheReceipt(r *brokerRig) {
	c := r.bare()
	c.refused(frame.SUBSCRIBE, frame.Destination, "/queue/"+plainQueue)
	c.refused(frame.SEND, frame.Destination, "/queue/"+plainQueue, frame.Transaction, "none")
	c.refused(frame.UNSUBSCRIBE, frame.Id, "none")
	c.send(plainQueue, "goes on")
	c.do(frame.DISCONNECT)
	if left := bodies(r.drained(plainQueue)); left != "goes on" {
		r.Errorf("%q is left", left)
	}
}

// Over STOMP nothing tells how often a message was delivered, so claims have to count
// the deaths of its consumers: the third delivery is as the second, but for its ack.
// ActiveMQ 5.18.3.
func deliveriesAreNotCounted(r *brokerRig) {
	r.bare().send(plainQueue, "1")
	var second map[string]string
	for n := 1; n <= 3; n++ {
		c := r.bare()
		c.subscribe(plainQueue, "client-individual", 1)
		headers := map[string]string{}
		m := c.message()
		for i := range m.Header.Len() {
			name, value := m.Header.GetAt(i)
			headers[name] = value
		}
		c.do(frame.DISCONNECT)
		if redelivered := headers[engine.HeaderRedelivered] == "true"; redelivered != (n > 1) {
			r.Errorf("delivery %d: redelivered %v", n, redelivered)
		}
		delete(headers, frame.Ack)
		if n == 3 && !maps.Equal(headers, second) {
			r.Errorf("the third delivery differs from the second: %v, %v", headers, second)
		}
		second = headers
	}
	if left := bodies(r.drained(plainQueue)); left != "1" {
		r.Errorf("%q is left", left)
	}
}

// STOMP 1.2, Heart-beating: a client that gives no sign of life is cut off, and what
// it had in hand goes to others; so a host that is gone, whose connections nobody
// closes, does not keep its messages. ActiveMQ 5.18.3, after 1.5 times the interval.
func silentClientIsCutOff(r *brokerRig) {
	c := r.bare(frame.HeartBeat, "500,0")
	c.send(plainQueue, "1")
	c.subscribe(plainQueue, "client-individual", 1)
	m := c.message()
	for f := c.read(); f != nil; f = c.read() {
		continue // an ERROR, maybe
	}
	other := r.bare()
	other.subscribe(plainQueue, "client-individual", 1)
	if again := other.message(); again.Header.Get(frame.MessageId) != m.Header.Get(frame.MessageId) {
		r.Errorf("message %v came again as %v", m.Header, again.Header)
	}
}
