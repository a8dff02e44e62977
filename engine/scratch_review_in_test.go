package engine

import (
	"errors"
	"math"
	"testing"
	"time"

	"usher/handlers"
)

func TestScratchIn(t *testing.T) {
	typ := Type{MaxAge: 24 * time.Hour, Attempts: 3}
	t.Logf("%+v", classify(attempted{err: handlers.Defer(math.MaxInt64), age: time.Second}, typ))
	t.Logf("%+v", classify(attempted{err: ErrPluginLost, crashes: 2, stopping: true}, typ))
	t.Logf("%+v", classify(attempted{err: errors.New("a\nb"), ended: 0}, typ).fault)
}
