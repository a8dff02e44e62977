package broker

import (
	"context"
	"errors"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine/stompframe"
)

// writeLoop writes what is in the outbox until that has ended or writing fails.
// The interval of heart-beats comes with the handshake.
func (c *conn) writeLoop(beats <-chan time.Duration) error {
	w := stompframe.NewWriter(c.nc)
	var every time.Duration
	ticker := time.NewTicker(time.Hour)
	defer ticker.Stop()
	ticker.Stop()
	wrote := false // since the last tick
	for {
		items, starved, ended := c.out.take()
		if starved {
			c.b.resume(c)
		}
		if len(items) > 0 {
			if err := c.write(w, items); err != nil {
				return err
			}
			wrote = true
			continue
		}
		if ended {
			return nil
		}
		select {
		case <-c.out.wake:
		case every = <-beats:
			if every > 0 {
				ticker.Reset(every / 3) // so that two ticks are within it
			}
		case <-ticker.C:
			if !wrote {
				if err := errors.Join(w.HeartBeat(), w.Flush()); err != nil {
					return err
				}
			}
			wrote = false
		}
	}
}

// resume hands out what was held back while the connection had no room: a
// client that cares subscribes to what is most urgent first.
func (b *Broker) resume(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range c.inOrder {
		b.touch(s.queue)
	}
	b.dispatchTouched()
}

// write sends items out. Deliveries that need no ACK are settled first, as on
// ActiveMQ: whoever has seen one can be sure that it does not come again.
func (c *conn) write(w *stompframe.Writer, items []outItem) error {
	frames, settled, err := c.framesOf(items)
	if err != nil {
		return err
	}
	if len(settled) > 0 {
		c.b.sent(settled)
	}
	for _, f := range frames {
		if err := w.Write(f); errors.Is(err, stompframe.ErrMalformed) {
			c.b.cfg.Log.Error().Err(err).Str("session", c.session).Msg("a frame that cannot be written was left out")
		} else if err != nil {
			return err
		}
		if f.Command == frame.CONNECTED {
			w.SetVersion(c.version)
		}
	}
	return w.Flush()
}

// framesOf makes the frames of items, and tells which deliveries need no ACK.
func (c *conn) framesOf(items []outItem) (frames []*frame.Frame, settled []*delivery, err error) {
	loaded, err := c.loadData(items)
	if err != nil {
		return nil, nil, err
	}
	frames = make([]*frame.Frame, 0, len(items))
	for _, item := range items {
		f := item.frame
		if d := item.d; d != nil {
			data := d.m.data
			if data == nil {
				data = loaded[d.m.seq]
			}
			if d.gone.Load() || data == nil {
				continue // it went back meanwhile
			}
			if f, err = c.b.messageFrame(d, data); err != nil {
				return nil, nil, err
			}
			if d.sub.mode == ackAuto {
				settled = append(settled, d)
			}
		}
		frames = append(frames, f)
	}
	return frames, settled, nil
}

// loadData reads back what is not in memory of the deliveries in items.
func (c *conn) loadData(items []outItem) (map[int64][]byte, error) {
	var seqs []int64
	for _, item := range items {
		if item.d != nil && item.d.m.data == nil {
			seqs = append(seqs, item.d.m.seq)
		}
	}
	if len(seqs) == 0 {
		return nil, nil
	}
	return c.b.store.load(context.Background(), seqs)
}
