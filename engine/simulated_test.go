package engine_test

import (
	"context"

	"usher/engine"
)

// What an engine of the simulation sees of the broker and the stores.

func (l *life) Receive(ctx context.Context) (engine.Batch, error) {
	batch, err := l.receive(ctx)
	if l.dead.Err() != nil {
		<-ctx.Done()
		return engine.Batch{}, ctx.Err()
	}
	return batch, err
}

// receive ends when the process dies, so that a session has one who receives.
func (l *life) receive(ctx context.Context) (engine.Batch, error) {
	l.receiving.Lock()
	defer l.receiving.Unlock()
	if l.dead.Err() != nil {
		return engine.Batch{}, errDead
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(l.dead, stop)()
	return l.broker.Receive(ctx)
}

// received waits until what it was about to receive it has received.
func (l *life) received() {
	l.receiving.Lock()
	defer l.receiving.Unlock()
}

func (l *life) Ack(d engine.Delivery) error {
	place := "ack " + d.Headers[engine.HeaderID]
	if !l.calm.Load() && l.draw(place) < diesAt && l.mayDie() {
		l.die()
	}
	if l.dead.Err() != nil {
		return errDead
	}
	return l.broker.Ack(d)
}

func (l *life) Publish(ctx context.Context, out engine.Outgoing) error {
	return l.step(ctx, "publish", out.Headers[engine.HeaderID], func() error { return l.broker.Publish(ctx, out) })
}

func (l *life) Depths(ctx context.Context) (engine.Depths, error) {
	if err := l.alive(ctx); err != nil {
		return engine.Depths{}, err
	}
	return l.broker.Depths(ctx)
}

func (l *life) LookUp(ctx context.Context, ids []string) (found engine.Found, err error) {
	err = l.step(ctx, "look up", ids[0], func() (err error) {
		found, err = l.memory.LookUp(ctx, ids)
		return err
	})
	return found, err
}

func (l *life) Gate(ctx context.Context, g engine.Gate) (rec engine.Record, err error) {
	err = l.step(ctx, "gate", g.ID, func() (err error) {
		rec, err = l.memory.Gate(ctx, g)
		return err
	})
	return rec, err
}

func (l *life) Claim(ctx context.Context, c engine.Claim) (rec engine.Record, err error) {
	err = l.step(ctx, "claim", c.ID, func() (err error) {
		rec, err = l.memory.Claim(ctx, c)
		return err
	})
	return rec, err
}

func (l *life) Write(ctx context.Context, c engine.Change) (rec engine.Record, err error) {
	err = l.step(ctx, "write", c.ID, func() (err error) {
		rec, err = l.memory.Write(ctx, c)
		return err
	})
	return rec, err
}

func (l *life) Keep(ctx context.Context, id string, hop int, p engine.Parked) error {
	return l.step(ctx, "keep", id, func() error { return l.memory.Keep(ctx, id, hop, p) })
}

func (l *life) Kept(ctx context.Context, id string, hop int) (p engine.Parked, err error) {
	err = l.step(ctx, "kept", id, func() (err error) {
		p, err = l.memory.Kept(ctx, id, hop)
		return err
	})
	return p, err
}

func (l *life) Drop(ctx context.Context, id string, hop int) error {
	return l.step(ctx, "drop", id, func() error { return l.memory.Drop(ctx, id, hop) })
}

func (l *life) Unpark(ctx context.Context, u engine.Unpark) (rec engine.Record, err error) {
	err = l.step(ctx, "unpark", u.ID, func() (err error) {
		rec, err = l.memory.Unpark(ctx, u)
		return err
	})
	return rec, err
}

func (l *life) DueIn(ctx context.Context, bucket string, limit int) ([]engine.Record, error) {
	if err := l.alive(ctx); err != nil {
		return nil, err
	}
	return l.memory.DueIn(ctx, bucket, limit)
}

func (l *life) Leases(ctx context.Context) (engine.Leases, error) {
	if err := l.alive(ctx); err != nil {
		return engine.Leases{}, err
	}
	return l.memory.Leases(ctx)
}

func (l *life) SetLeases(ctx context.Context, leases engine.Leases) error {
	if err := l.alive(ctx); err != nil {
		return err
	}
	return l.memory.SetLeases(ctx, leases)
}

func (l *life) Holds(ctx context.Context) (engine.Holds, error) {
	if err := l.alive(ctx); err != nil {
		return engine.Holds{}, err
	}
	return l.memory.Holds(ctx)
}

func (l *life) SetHolds(ctx context.Context, h engine.Holds) error {
	if err := l.alive(ctx); err != nil {
		return err
	}
	return l.memory.SetHolds(ctx, h)
}
