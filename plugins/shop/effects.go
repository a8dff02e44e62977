package shop

import (
	"fmt"
	"net/url"
	"os"
	"time"

	"usher/handlers"
)

// effects is the file of what was done. A nil *effects keeps nothing. It is
// safe for concurrent use, also by several processes: each line is one write to
// a file opened for appending.
type effects struct{ file *os.File }

func openEffects(path string) (*effects, error) {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("shop: open the file of effects (%s): %w", EffectsVariable, err)
	}
	return &effects{file: file}, nil
}

// add returns when the effect is on disk.
func (e *effects) add(m *handlers.Message, at time.Time) error {
	if e == nil {
		return nil
	}
	line := fmt.Sprintf("%s %s %s %d %d\n", url.PathEscape(m.ID), url.PathEscape(m.IdempotencyKey), m.Type, m.Attempt, at.UnixNano())
	if _, err := e.file.WriteString(line); err != nil {
		return fmt.Errorf("shop: write an effect: %w", err)
	}
	if err := e.file.Sync(); err != nil {
		return fmt.Errorf("shop: sync an effect: %w", err)
	}
	return nil
}
