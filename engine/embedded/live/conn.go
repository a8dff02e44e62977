package live

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/coder/websocket"

	"usher/engine"
	"usher/engine/watchframe"
	"usher/engine/watchtoken"
)

// conn is one client. Three goroutines serve it: one reads, one writes, one
// pings and renews; the first to end ends all.
type conn struct {
	hub     *Hub
	ws      *websocket.Conn
	id      string
	trusted bool // no token is asked for

	signal  chan struct{}           // there is something in pending; capacity 1
	entered chan struct{}           // there is a token that may end before all others; capacity 1
	replies chan watchframe.Failure // to the writer, who takes one at a time

	subscriptions
}

func newConn(h *Hub, ws *websocket.Conn, trusted bool) *conn {
	return &conn{
		hub: h, ws: ws, id: rand.Text(), trusted: trusted,
		signal: make(chan struct{}, 1), entered: make(chan struct{}, 1), replies: make(chan watchframe.Failure),
		subscriptions: subscriptions{subs: map[string]*subscription{}},
	}
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
			c.reply(ctx, watchframe.Fail(watchframe.BadRequest, "", err.Error()))
			continue
		}
		switch r.Action {
		case watchframe.Unsubscribe:
			c.unsubscribe(ctx, r.ID)
		case watchframe.Subscribe:
			until, err := c.admit(r)
			if err == nil {
				c.subscribe(ctx, r, until)
				continue
			}
			if !errors.Is(err, watchtoken.ErrExpired) { // which happens to honest clients
				bad++
			}
			c.refused(ctx, r.ID, err)
		}
	}
	_ = c.ws.Close(websocket.StatusPolicyViolation, "too many bad frames")
}

// parse reads a client's frame; its error is for the client to read.
func parse(typ websocket.MessageType, data []byte) (watchframe.Request, error) {
	if typ != websocket.MessageText {
		return watchframe.Request{}, errors.New(`send text frames, as in {"action":"subscribe","id":"order-7"}`)
	}
	return watchframe.Parse(data)
}

// reply has the writer send a frame; a client that does not take it is not
// read from meanwhile.
func (c *conn) reply(ctx context.Context, f watchframe.Failure) {
	select {
	case c.replies <- f:
	case <-ctx.Done():
	}
}

// admit says until when the client may watch the message; the zero time is for
// as long as it likes.
func (c *conn) admit(r watchframe.Request) (time.Time, error) {
	if c.trusted {
		return time.Time{}, nil
	}
	return c.hub.cfg.Keys.Check(r.Token, c.hub.cfg.Stage, r.ID, time.Now())
}

// refused tells the client that its token is not good, and not why: that is for
// the operators.
func (c *conn) refused(ctx context.Context, id string, err error) {
	c.hub.cfg.RefusedFunc("token_" + watchtoken.Cause(err))
	c.hub.cfg.Log.Debug().Err(err).Str("id", id).Str("connection", c.id).Msg("a watcher was refused")
	c.reply(ctx, watchframe.FailToken(id))
}

// subscribe enters the client as a watcher and gives it the state of the
// message. What the engine tells in between waits for that.
func (c *conn) subscribe(ctx context.Context, r watchframe.Request, until time.Time) {
	id := r.ID
	isNew, ok := c.enter(id, until, c.hub.cfg.MaxSubscriptions)
	if !ok {
		c.hub.cfg.RefusedFunc(watchframe.TooMany)
		c.reply(ctx, watchframe.Fail(watchframe.TooMany, id, fmt.Sprintf("a connection watches at most %d messages; unsubscribe from some", c.hub.cfg.MaxSubscriptions)))
		return
	}
	raise(c.entered)
	w, rec, err := c.watch(ctx, id)
	if err != nil {
		if isNew {
			c.forget(id)
		}
		if ctx.Err() == nil {
			c.hub.cfg.Log.Warn().Err(err).Str("id", id).Msg("a watcher could not be entered")
			c.reply(ctx, watchframe.FailUnavailable(id))
		}
		return
	}
	if c.confirm(id, rec.Snapshot(time.Now()), r.Since) {
		raise(c.signal)
	}
	c.hub.cfg.NudgeFunc(id, w)
}

// raise sets a signal that has one receiver; one that is set stays so.
func raise(signal chan<- struct{}) {
	select {
	case signal <- struct{}{}:
	default:
	}
}

// offer passes a status on, if the client watches the message.
func (c *conn) offer(s engine.Status) {
	if c.note(s) {
		raise(c.signal)
	}
}

// watch enters or renews the client in the message's record.
func (c *conn) watch(ctx context.Context, id string) (engine.Watcher, engine.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, tableTimeout)
	defer cancel()
	w := engine.Watcher{Connection: c.id, Until: time.Now().Add(watchFor).UTC()}
	if until := c.until(id); !until.IsZero() && until.Before(w.Until) {
		w.Until = until
	}
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

// keep pings the client, renews its entries, and ends those whose tokens have
// ended, until ctx ends, the client does not answer, or it has had no good token
// in the time it has for that.
func (c *conn) keep(ctx context.Context) {
	ping := time.NewTicker(c.hub.cfg.Ping)
	defer ping.Stop()
	renew := time.NewTicker(renewEvery)
	defer renew.Stop()
	end := time.NewTimer(renewEvery)
	defer end.Stop()
	patience := time.NewTimer(askWithin)
	defer patience.Stop()
	for {
		select {
		case <-ping.C:
			if err := c.ping(ctx); err != nil {
				return
			}
		case <-renew.C:
			c.renew(ctx)
		case <-patience.C:
			if !c.trusted && !c.hasAsked() {
				c.hub.cfg.RefusedFunc("token_missing")
				_ = c.ws.Close(websocket.StatusPolicyViolation, "no good token came")
				return
			}
		case <-c.entered:
			end.Reset(c.untilNext(time.Now()))
		case <-end.C:
			c.endThose(ctx)
			end.Reset(c.untilNext(time.Now()))
		case <-ctx.Done():
			return
		}
	}
}

// endThose ends what is watched with tokens that have ended, and says so. The
// entries in the records end by themselves.
func (c *conn) endThose(ctx context.Context) {
	for _, id := range c.forgetEnded(time.Now()) {
		c.hub.cfg.RefusedFunc(watchframe.TokenEnded)
		c.reply(ctx, watchframe.Fail(watchframe.TokenEnded, id, "the token has ended: subscribe with a new one, and with the seq of the last status"))
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
