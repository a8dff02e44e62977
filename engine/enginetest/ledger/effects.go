package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// Effect is one line of a file of effects.
type Effect struct {
	ID, Key, Type string
	Attempt       int
	At            time.Time
}

// ReadEffects reads a file of effects; one that is not there has none. A last line
// that is not complete was being written when its process was killed, and is no effect.
func ReadEffects(path string) ([]Effect, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var effects []Effect
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		e, err := parseEffect(strings.Fields(line))
		if err != nil {
			return nil, fmt.Errorf("%s: the line %q is no effect: %w", path, line, err)
		}
		effects = append(effects, e)
	}
	return effects, nil
}

func parseEffect(fields []string) (Effect, error) {
	if len(fields) != 5 {
		return Effect{}, fmt.Errorf("it has %d fields, not 5", len(fields))
	}
	id, err1 := url.PathUnescape(fields[0])
	key, err2 := url.PathUnescape(fields[1])
	attempt, err3 := strconv.Atoi(fields[3])
	at, err4 := strconv.ParseInt(fields[4], 10, 64)
	return Effect{ID: id, Key: key, Type: fields[2], Attempt: attempt, At: time.Unix(0, at)}, errors.Join(err1, err2, err3, err4)
}
