package broker

import (
	"github.com/go-stomp/stomp/v3/frame"
)

// transaction is what a client gathers between BEGIN and COMMIT. Its
// connection's reader owns it; the deliveries in it are the core's.
type transaction struct {
	conn  *conn
	send  []*message
	acked []*delivery
	bytes int
}

// transactionOf finds the transaction that a frame names; nil if it names none.
func (c *conn) transactionOf(f *frame.Frame) (*transaction, error) {
	id, ok := f.Header.Contains(frame.Transaction)
	if !ok {
		return nil, nil
	}
	tx, ok := c.transactions[id]
	if !ok {
		return nil, refuse("Invalid transaction id: %s", clip(id))
	}
	return tx, nil
}

// grow counts what the transactions of a connection hold in memory.
func (t *transaction) grow(bytes int) error {
	bytes += requestBytes
	t.bytes += bytes
	if t.conn.transacted += bytes; t.conn.transacted > maxTransactionBytes {
		return refuseAndClose("the open transactions of this connection are over %d bytes", maxTransactionBytes)
	}
	return nil
}

// addAcks puts an ACK into the transaction. Its place in the window is free from
// now on, or a window smaller than the transaction could not go on (ActiveMQ's
// usePrefetchExtension). The core's lock is held.
func (t *transaction) addAcks(d *delivery) error {
	for _, d := range d.upTo() {
		if err := t.grow(0); err != nil {
			return err
		}
		d.tx = t
		d.sub.used--
		t.acked = append(t.acked, d)
	}
	return nil
}

func (c *conn) handleBegin(f *frame.Frame) error {
	id := f.Header.Get(frame.Transaction)
	if id == "" {
		return refuse("BEGIN needs a transaction header")
	}
	if _, ok := c.transactions[id]; ok {
		return refuse("The transaction was already started: %s", clip(id))
	}
	if len(c.transactions) >= maxTransactions {
		return refuse("this connection has %d transactions open", maxTransactions)
	}
	c.transactions[id] = &transaction{conn: c}
	c.receipt(f)
	return nil
}

// handleCommit makes all that is in the transaction durable in one commit.
func (c *conn) handleCommit(f *frame.Frame) error {
	tx, err := c.endTransaction(f)
	if err != nil {
		return err
	}
	r := &request{conn: c, receipt: f.Header.Get(frame.Receipt), bytes: tx.bytes, send: tx.send, together: true}
	b := c.b
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range tx.acked {
		if d.gone.Load() {
			continue // it went back with its subscription
		}
		d.release()
		d.m.queue.dequeued++
		r.settled = append(r.settled, d.m)
	}
	b.submit(r)
	return nil
}

// handleAbort forgets the transaction. What it had acked stays with the client,
// to be acked again: as on ActiveMQ it is not redelivered.
func (c *conn) handleAbort(f *frame.Frame) error {
	tx, err := c.endTransaction(f)
	if err != nil {
		return err
	}
	c.b.mu.Lock()
	for _, d := range tx.acked {
		if !d.gone.Load() {
			d.tx = nil
			d.sub.used++
		}
	}
	c.b.mu.Unlock()
	c.receipt(f)
	return nil
}

func (c *conn) endTransaction(f *frame.Frame) (*transaction, error) {
	tx, err := c.transactionOf(f)
	if err != nil {
		return nil, err
	}
	if tx == nil {
		return nil, refuse("%s needs a transaction header", f.Command)
	}
	delete(c.transactions, f.Header.Get(frame.Transaction))
	c.transacted -= tx.bytes
	return tx, nil
}
