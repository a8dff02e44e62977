package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// layer is one long-running part. Those that come later stand on those before.
type layer struct {
	name string
	run  func(context.Context) error
}

// runLayers starts all layers and works until ctx ends or one of them does.
// Then it stops them in reverse, each one after those that stand on it have
// ended: the engine drains while plugins and broker still serve it.
func runLayers(ctx context.Context, layers ...layer) error {
	type running struct {
		stop  context.CancelFunc
		ended chan error
	}
	first := make(chan struct{}, len(layers))
	parts := make([]running, len(layers))
	for i, l := range layers {
		own, stop := context.WithCancel(context.WithoutCancel(ctx))
		parts[i] = running{stop, make(chan error, 1)}
		go func() {
			err := l.run(own)
			if err != nil {
				err = fmt.Errorf("%s: %w", l.name, err)
			} else if own.Err() == nil {
				err = fmt.Errorf("%s ended by itself", l.name)
			}
			parts[i].ended <- err
			first <- struct{}{}
		}()
	}
	select {
	case <-ctx.Done():
	case <-first:
	}
	var errs []error
	for _, part := range slices.Backward(parts) {
		part.stop()
		errs = append(errs, <-part.ended)
	}
	return errors.Join(errs...)
}
