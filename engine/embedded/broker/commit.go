package broker

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// request is one thing to make durable. What is in it happens together or not
// at all.
type request struct {
	conn    *conn  // whose it is; nil: the broker's own
	receipt string // to give when it is durable; "": none
	bytes   int
	send    []*message // to come into their queues
	settled []*message // to be deleted; they are out of their queues already
	moves   []move
	// together says that settled must come back if it fails: it is a
	// transaction. A delete that stands alone is tried again with the next commit.
	together bool
	done     chan<- error // told when it is over; nil: nobody. Has room for it.
}

// move is a message that changes its queue or its place: it leaves from, which
// is in no queue now, and arrives as to.
type move struct{ from, to *message }

const (
	requestBytes     = 256     // what one counts for, beside the data in it
	transactionBytes = 8 << 20 // of requests that one SQLite transaction takes
	failurePause     = time.Second
)

// committer gathers requests for the one goroutine that writes.
type committer struct {
	mu      sync.Mutex
	waiting []*request
	wake    chan struct{} // one signal, however many are waiting
	// retry is what was to be deleted when a commit failed; the goroutine's.
	retry []*message
}

// submit hands a request to the committer. It does not block; what a connection
// may have with the committer is bounded by its outbox.
func (b *Broker) submit(r *request) {
	r.bytes += requestBytes
	if r.conn != nil {
		r.conn.out.handed(r.bytes)
	}
	b.committer.mu.Lock()
	b.committer.waiting = append(b.committer.waiting, r)
	b.committer.mu.Unlock()
	signal(b.committer.wake)
}

// gather returns what fits in one transaction.
func (c *committer) gather() []*request {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, bytes := 0, 0
	for n < len(c.waiting) && (n == 0 || bytes+c.waiting[n].bytes <= transactionBytes) {
		bytes += c.waiting[n].bytes
		n++
	}
	batch := c.waiting[:n:n]
	c.waiting = c.waiting[n:]
	if len(c.waiting) == 0 {
		c.waiting = nil
	}
	return batch
}

// commitLoop makes requests durable, one SQLite transaction after the other,
// until the broker is closed; then what is left.
func (b *Broker) commitLoop() {
	for {
		batch := b.committer.gather()
		if len(batch) == 0 {
			select {
			case <-b.committer.wake:
				continue
			case <-b.closing:
			}
			if batch = b.committer.gather(); len(batch) == 0 {
				return
			}
		}
		if b.commit(batch) {
			continue
		}
		select {
		case <-time.After(failurePause):
		case <-b.closing:
		}
	}
}

// commit makes a batch durable and then visible, and only then gives the receipts.
// It says whether that could be done.
func (b *Broker) commit(batch []*request) bool {
	err := b.write(batch)
	if err != nil {
		b.cfg.Log.Error().Err(err).Int("requests", len(batch)).
			Msg("what was sent could not be stored and is refused; check the disk of the state folder")
	}
	b.mu.Lock()
	for _, r := range batch {
		if err != nil {
			b.undo(r)
		} else {
			b.apply(r)
		}
	}
	b.dispatchTouched()
	b.mu.Unlock()
	for _, r := range batch {
		if r.conn != nil {
			r.conn.committed(r, err)
		}
		if r.done != nil {
			r.done <- err
		}
	}
	return err == nil
}

// write stores a batch in one transaction.
func (b *Broker) write(batch []*request) error {
	var send []*message
	var moves []move
	var seqs []int64
	for _, m := range b.committer.retry {
		seqs = append(seqs, m.seq)
	}
	for _, r := range batch {
		for _, m := range r.send {
			m.seq = b.nextSeq()
			m.id = m.seq
			if m.queue.kind == kindQueue {
				send = append(send, m)
			}
		}
		for _, v := range r.moves {
			v.to.seq = b.nextSeq()
			moves = append(moves, v)
		}
		for _, m := range r.settled {
			if m.queue.kind == kindQueue {
				seqs = append(seqs, m.seq)
			}
		}
	}
	if len(send)+len(moves)+len(seqs) == 0 {
		return nil
	}
	if err := b.store.write(send, moves, seqs); err != nil {
		for _, r := range batch {
			if !r.together {
				b.committer.retry = append(b.committer.retry, r.settled...)
			}
		}
		return err
	}
	b.committer.retry = nil
	return nil
}

// apply makes visible what is durable now. The core's lock is held.
func (b *Broker) apply(r *request) {
	for _, m := range r.send {
		b.admit(m)
	}
	for _, v := range r.moves {
		b.forgetData(v.from)
		b.admit(v.to)
	}
	for _, m := range r.settled {
		b.forgetData(m)
	}
}

// undo puts back what was taken out of its queue for a request that failed. The
// core's lock is held.
func (b *Broker) undo(r *request) {
	for _, v := range r.moves {
		b.giveBack(v.from)
	}
	for _, m := range r.settled {
		if r.together {
			b.giveBack(m)
		} else {
			b.forgetData(m)
		}
	}
}

// write does the work of one transaction: it returns when it is on the disk.
func (s *store) write(send []*message, moves []move, deletes []int64) (err error) {
	ctx := context.Background() // a commit is not abandoned half way
	if _, err = s.begin.ExecContext(ctx); err != nil {
		return wrap("begin a transaction", err)
	}
	defer func() {
		if err != nil {
			_, _ = s.rollback.ExecContext(ctx) // fails if SQLite has done it by itself
			for _, q := range s.created {
				q.stored = false
			}
			s.created = s.created[:0]
		}
	}()
	if err = s.insert(ctx, send); err != nil {
		return wrap("store messages", err)
	}
	for _, v := range moves {
		if err = s.moveOne(ctx, v); err != nil {
			return wrap("move a message", err)
		}
	}
	if err = s.remove(ctx, deletes); err != nil {
		return wrap("delete messages", err)
	}
	if _, err = s.commit.ExecContext(ctx); err != nil {
		return wrap("commit", err)
	}
	s.created = s.created[:0]
	s.tendWAL(ctx)
	return nil
}

// ensure stores the rows of queues that have none. A nil one is none.
func (s *store) ensure(ctx context.Context, queues ...*queue) error {
	for _, q := range queues {
		if q == nil || q.stored {
			continue
		}
		if _, err := s.queue.ExecContext(ctx, q.id, q.name); err != nil {
			return err
		}
		q.stored = true
		s.created = append(s.created, q)
	}
	return nil
}

func (s *store) insert(ctx context.Context, send []*message) error {
	for _, m := range send {
		if err := s.ensure(ctx, m.queue, m.origin); err != nil {
			return err
		}
	}
	for len(send) > 0 {
		n, stmt := 1, s.insertOne
		if len(send) >= insertRows {
			n, stmt = insertRows, s.insertMany
		}
		s.args = s.args[:0]
		for _, m := range send[:n] {
			var origin int64
			if m.origin != nil {
				origin = m.origin.id
			}
			s.args = append(s.args, m.seq, m.id, m.queue.id, origin, m.stamp, m.expires, m.due, int64(m.priority), int64(m.flags), m.data)
		}
		if _, err := stmt.ExecContext(ctx, s.args...); err != nil {
			return err
		}
		send = send[n:]
	}
	return nil
}

func (s *store) moveOne(ctx context.Context, v move) error {
	if err := s.ensure(ctx, v.to.queue, v.to.origin); err != nil {
		return err
	}
	var origin int64
	if v.to.origin != nil {
		origin = v.to.origin.id
	}
	result, err := s.move.ExecContext(ctx, v.to.seq, v.to.queue.id, origin, v.to.stamp, v.to.expires, v.to.due, int64(v.to.flags), v.from.seq)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n != 1 {
		return fmt.Errorf("message %d is not in the store: %w", v.from.seq, err)
	}
	return nil
}

// remove deletes by ranges where the seqs follow one another, else by lists.
func (s *store) remove(ctx context.Context, seqs []int64) error {
	slices.Sort(seqs)
	var list []int64
	for len(seqs) > 0 {
		n := 1
		for n < len(seqs) && seqs[n] == seqs[n-1]+1 {
			n++
		}
		if n < 4 {
			list = append(list, seqs[:n]...)
		} else if _, err := s.deleteRange.ExecContext(ctx, seqs[0], seqs[n-1]); err != nil {
			return err
		}
		seqs = seqs[n:]
	}
	for len(list) > 0 {
		n := min(len(list), listLength)
		s.args = s.args[:0]
		for i := range listLength {
			s.args = append(s.args, list[min(i, n-1)])
		}
		if _, err := s.deleteList.ExecContext(ctx, s.args...); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

// tendWAL lets the write-ahead log begin anew when readers kept it from doing
// so for long.
func (s *store) tendWAL(ctx context.Context) {
	if s.commits++; s.commits%1024 != 0 {
		return
	}
	info, err := os.Stat(s.path + "-wal")
	if err != nil || info.Size() < walTooLong {
		return
	}
	_, _ = s.conn.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)") // or at one of the next times
}
