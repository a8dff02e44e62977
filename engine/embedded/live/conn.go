package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"

	"usher/engine"
)

// conn is one client. Three goroutines serve it: one reads, one writes, one
// pings and renews; the first to end ends all.
type conn struct {
	hub *Hub
	ws  *websocket.Conn
	id  string

	signal  chan struct{} // there is something in pending; capacity 1
	replies chan failure  // from the reader to the writer, who takes one at a time

	mu      sync.Mutex
	subs    map[string]*subscription // by message id, guarded by mu
	pending []string                 // ids whose latest status is to be written, guarded by mu
}

// subscription is what one client knows of one message.
type subscription struct {
	latest engine.Status // the newest one; the zero Status: none yet
	open   bool          // the snapshot is in, so statuses may be written
	queued bool          // it is in pending
}

// serve returns when the client is gone and all its goroutines have ended.
func (c *conn) serve(life context.Context) {
	ctx, end := context.WithCancel(life)
	defer end()
	var parts sync.WaitGroup
	parts.Go(func() { defer end(); c.write(ctx) })
	parts.Go(func() { defer end(); c.keep(ctx) })
	c.read(ctx)
	end()
	_ = c.ws.CloseNow() // what was to be said has been said
	parts.Wait()
	c.unwatchAll()
}

// read does what the client asks for, until it leaves.
func (c *conn) read(ctx context.Context) {
	for bad := 0; bad < maxBadFrames; {
		typ, data, err := c.ws.Read(ctx)
		if err != nil {
			return
		}
		r, err := parse(typ, data)
		if err != nil {
			bad++
			c.reply(ctx, newFailure(codeBadRequest, "", err.Error()))
			continue
		}
		switch r.Action {
		case actionSubscribe:
			c.subscribe(ctx, r.ID)
		case actionUnsubscribe:
			c.unsubscribe(ctx, r.ID)
		}
	}
	_ = c.ws.Close(websocket.StatusPolicyViolation, "too many bad frames")
}

// reply has the writer send a frame; a client that does not take it is not
// read from meanwhile.
func (c *conn) reply(ctx context.Context, f failure) {
	select {
	case c.replies <- f:
	case <-ctx.Done():
	}
}

// subscribe enters the client as a watcher and gives it the state of the
// message. What the engine tells in between waits for that.
func (c *conn) subscribe(ctx context.Context, id string) {
	isNew, ok := c.enter(id)
	if !ok {
		c.reply(ctx, newFailure(codeTooMany, id, fmt.Sprintf("a connection watches at most %d messages; unsubscribe from some", c.hub.cfg.MaxSubscriptions)))
		return
	}
	w, rec, err := c.watch(ctx, id)
	if err != nil {
		if isNew {
			c.forget(id)
		}
		if ctx.Err() == nil {
			c.hub.cfg.Log.Warn().Err(err).Str("id", id).Msg("a watcher could not be entered")
			c.reply(ctx, newFailure(codeUnavailable, id, "the records cannot be reached now; subscribe again later"))
		}
		return
	}
	c.confirm(id, rec.Snapshot(time.Now()))
	c.hub.cfg.NudgeFunc(id, w)
}

// watch enters or renews the client in the message's record.
func (c *conn) watch(ctx context.Context, id string) (engine.Watcher, engine.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, tableTimeout)
	defer cancel()
	w := engine.Watcher{Connection: c.id, Until: time.Now().Add(watchFor).UTC()}
	rec, err := c.hub.cfg.Table.Watch(ctx, id, w)
	return w, rec, err
}

func (c *conn) unsubscribe(ctx context.Context, id string) {
	if !c.forget(id) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, tableTimeout)
	defer cancel()
	c.unwatch(ctx, id)
}

// unwatch takes the client out of a record. Where that fails the entry ends by
// itself.
func (c *conn) unwatch(ctx context.Context, id string) {
	if err := c.hub.cfg.Table.Unwatch(ctx, id, c.id); err != nil {
		c.hub.cfg.Log.Debug().Err(err).Str("id", id).Msg("a watcher stays in the record until its time is over")
	}
}

func (c *conn) unwatchAll() {
	ctx, cancel := context.WithTimeout(context.Background(), tableTimeout)
	defer cancel()
	for _, id := range c.watched() {
		if ctx.Err() != nil {
			return
		}
		c.unwatch(ctx, id)
	}
}

// keep pings the client and renews its entries, until ctx ends or the client
// does not answer.
func (c *conn) keep(ctx context.Context) {
	ping := time.NewTicker(c.hub.cfg.Ping)
	defer ping.Stop()
	renew := time.NewTicker(renewEvery)
	defer renew.Stop()
	for {
		select {
		case <-ping.C:
			if err := c.ping(ctx); err != nil {
				return
			}
		case <-renew.C:
			c.renew(ctx)
		case <-ctx.Done():
			return
		}
	}
}

func (c *conn) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.hub.cfg.WriteTimeout)
	defer cancel()
	return c.ws.Ping(ctx)
}

// renew keeps the client in the records of what it watches. It learns there,
// too, what it was not told.
func (c *conn) renew(ctx context.Context) {
	for _, id := range c.watched() {
		_, rec, err := c.watch(ctx, id)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			c.hub.cfg.Log.Warn().Err(err).Str("id", id).Msg("a watcher could not be renewed; it is tried again")
			continue
		}
		c.offer(rec.Snapshot(time.Now()))
	}
}

// write sends what there is to send, until ctx ends or the client is too slow.
func (c *conn) write(ctx context.Context) {
	for {
		var err error
		select {
		case f := <-c.replies:
			err = c.send(ctx, f)
		case <-c.signal:
			err = c.sendPending(ctx)
		case <-c.hub.closing.Done():
			if c.sendPending(ctx) == nil {
				_ = c.ws.Close(websocket.StatusGoingAway, "the server stops")
			}
			return
		case <-ctx.Done():
			return
		}
		if err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				c.hub.cfg.Log.Debug().Str("connection", c.id).Msg("a watcher was too slow and is disconnected")
			}
			return
		}
	}
}

func (c *conn) sendPending(ctx context.Context) error {
	for {
		s, ok := c.take()
		if !ok {
			return nil
		}
		if err := c.send(ctx, s); err != nil {
			return err
		}
	}
}

func (c *conn) send(ctx context.Context, frame any) error {
	data, err := json.Marshal(frame)
	if err != nil {
		return fmt.Errorf("live: encode a frame: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.hub.cfg.WriteTimeout)
	defer cancel()
	return c.ws.Write(ctx, websocket.MessageText, data)
}

// offer notes a status to be written, if the client watches the message and
// has had no later one.
func (c *conn) offer(s engine.Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if sub := c.subs[s.ID]; sub != nil && sub.advance(s) && sub.open {
		c.enqueue(s.ID, sub)
	}
}

// confirm notes the snapshot, after which statuses flow. Asking twice is
// answered twice.
func (c *conn) confirm(id string, snapshot engine.Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if sub := c.subs[id]; sub != nil {
		sub.advance(snapshot)
		sub.open = true
		c.enqueue(id, sub)
	}
}

// advance replaces the latest status by a later one.
func (s *subscription) advance(next engine.Status) bool {
	if s.latest.ID != "" && !s.latest.Seq.Less(next.Seq) {
		return false
	}
	s.latest = next
	return true
}

// enqueue has the writer send the latest status. The lock is held here.
func (c *conn) enqueue(id string, sub *subscription) {
	if !sub.queued {
		sub.queued = true
		c.pending = append(c.pending, id)
	}
	select {
	case c.signal <- struct{}{}:
	default: // the writer knows
	}
}

// take gives the next status to write. One after which nothing can come ends
// its subscription: the entry in the record is never read again.
func (c *conn) take() (engine.Status, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) == 0 {
		return engine.Status{}, false
	}
	id := c.pending[0]
	c.pending = c.pending[1:]
	sub := c.subs[id]
	sub.queued = false
	if s := sub.latest.State; s == engine.Done || s == engine.Cancelled {
		delete(c.subs, id)
	}
	return sub.latest, true
}

// enter makes room for a subscription; not ok if there is none.
func (c *conn) enter(id string) (isNew, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.subs[id] != nil:
		return false, true
	case len(c.subs) >= c.hub.cfg.MaxSubscriptions:
		return false, false
	}
	c.subs[id] = &subscription{}
	return true, true
}

// forget ends a subscription and says whether there was one.
func (c *conn) forget(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	sub := c.subs[id]
	if sub == nil {
		return false
	}
	delete(c.subs, id)
	if sub.queued {
		c.pending = slices.DeleteFunc(c.pending, func(other string) bool { return other == id })
	}
	return true
}

// watched lists the ids subscribed to.
func (c *conn) watched() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.subs))
}
