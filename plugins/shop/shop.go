package shop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"time"

	"usher/handlers"
	"usher/handlers/plugin"
)

// EffectsVariable is the environment variable that names the file of effects;
// see the package comment.
const EffectsVariable = "SHOP_EFFECTS"

// Serve serves the shop to the usher that started the process, as
// [plugin.Serve] does.
func Serve() {
	var book *effects
	if path := os.Getenv(EffectsVariable); path != "" {
		var err error
		if book, err = openEffects(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1) //nolint:forbidigo // it is the main of a process, as plugin.Serve is
		}
	}
	plugin.ServeConfig(plugin.Config{Handler: newMux(book), Name: "shop"})
}

// Mux returns the shop's handlers, which keep no file of effects.
func Mux() *handlers.Mux { return newMux(nil) }

func newMux(book *effects) *handlers.Mux {
	s := &shop{effects: book}
	var mux handlers.Mux
	mux.Handle("order.rush", s.does(s.quickly))
	mux.Handle("order.placed", s.does(s.placeOrder))
	mux.Handle("receipt.email", s.does(s.quickly))
	mux.Handle("report.daily", s.does(s.report))
	mux.Handle("stock.sync", s.does(s.syncStock))
	mux.Handle("card.charge", s.chargeCard)
	mux.Handle("address.check", s.checkAddress)
	mux.Handle("legacy.import", s.importLegacy)
	mux.Handle("crash.test", s.does(s.crash))
	return &mux
}

// shop has the handlers.
type shop struct {
	effects *effects // nil: not kept
}

// does makes an effect of work that succeeds. A real shop would make the effect
// and remember the idempotency key in one transaction; here every effect is
// written, so that repeated attempts can be counted.
func (s *shop) does(work handlers.HandlerFunc) handlers.HandlerFunc {
	return func(ctx context.Context, m *handlers.Message) error {
		if err := work(ctx, m); err != nil {
			return err
		}
		return s.effects.add(m, time.Now())
	}
}

func (s *shop) quickly(ctx context.Context, _ *handlers.Message) error {
	return pause(ctx, 5*time.Millisecond)
}

func (s *shop) placeOrder(ctx context.Context, m *handlers.Message) error {
	half := (20*time.Millisecond + time.Duration(lot(m.ID, 21))*time.Millisecond) / 2
	m.Progress(0.1, "picking")
	if err := pause(ctx, half); err != nil {
		return err
	}
	m.Progress(0.6, "packing")
	if err := pause(ctx, half); err != nil {
		return err
	}
	body, err := json.Marshal(map[string]string{"order": m.ID})
	if err != nil {
		return err
	}
	// The key makes it the same receipt, however often the order is run.
	return m.EmitFollowOn(handlers.FollowOn{Type: "receipt.email", Body: body, Key: "receipt"})
}

func (s *shop) report(ctx context.Context, m *handlers.Message) error {
	const parts = 4
	for part := range parts {
		m.Progress(float64(part)/parts, fmt.Sprintf("part %d of %d", part+1, parts))
		if err := pause(ctx, 25*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func (s *shop) syncStock(ctx context.Context, m *handlers.Message) error {
	if m.Attempt <= 2 && lot(m.ID, 3) != 0 {
		return fmt.Errorf("the warehouse did not answer attempt %d", m.Attempt)
	}
	return pause(ctx, 5*time.Millisecond)
}

func (s *shop) chargeCard(context.Context, *handlers.Message) error {
	return errors.New("the card issuer does not answer")
}

func (s *shop) checkAddress(context.Context, *handlers.Message) error {
	return handlers.Permanent(errors.New("the street is not in the city's register"), "no_such_street")
}

func (s *shop) importLegacy(context.Context, *handlers.Message) error {
	panic("no importer for format 3") // what a forgotten case does in real life
}

func (s *shop) crash(_ context.Context, m *handlers.Message) error {
	var order struct {
		Exit int `json:"exit"`
	}
	if len(m.Body) > 0 {
		if err := json.Unmarshal(m.Body, &order); err != nil {
			return handlers.Permanent(fmt.Errorf("the body is not JSON: %w", err), "bad_body")
		}
	}
	if order.Exit != 0 {
		fmt.Fprintf(os.Stderr, "crash.test: message %s ends this process with status %d\n", m.ID, order.Exit)
		os.Exit(order.Exit) //nolint:forbidigo // that is what it is for
	}
	return nil
}

// pause waits for d, or returns why ctx ended.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// lot draws from 0 to n-1, the same for the same id.
func lot(id string, n uint32) uint32 {
	return crc32.ChecksumIEEE([]byte(id)) % n
}
