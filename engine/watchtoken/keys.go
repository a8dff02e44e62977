package watchtoken

import (
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

const (
	minKeyBytes = 32 // as long as the signature
	maxKeyBytes = 64
	liveKeys    = 2 // of one producer: the one it uses, and the one before or after
)

// key is one secret of one producer.
type key struct {
	id     string
	secret []byte
}

// Keys are the secrets of all producers. The zero Keys has none. It is safe for
// concurrent use, and printed in any way it shows no secret.
type Keys struct{ list []key }

var name = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// ValidName says whether text can be a key id or a stage.
func ValidName(text string) bool { return name.MatchString(text) }

// ParseKeys reads keys as in "shop:<base64>,billing:<base64>": the key id, which
// names the producer, and 32 to 64 bytes. A producer has two at the most, while
// it changes from one to the other; the first signs. Empty text is no keys. The
// error names all that is wrong, and no secret.
func ParseKeys(text string) (Keys, error) {
	var keys Keys
	var errs []error
	fail := func(n int, format string, args ...any) {
		errs = append(errs, fmt.Errorf("watch key %d "+format, append([]any{n}, args...)...))
	}
	if strings.TrimSpace(text) == "" {
		return Keys{}, nil
	}
	for i, entry := range strings.Split(text, ",") {
		id, encoded, ok := strings.Cut(strings.TrimSpace(entry), ":")
		if !ok || !ValidName(id) {
			fail(i+1, "is not of the form id:base64, with an id of 1 to 64 of A-Z a-z 0-9 _ -")
			continue
		}
		secret, err := base64.StdEncoding.Strict().DecodeString(encoded)
		switch {
		case err != nil || len(secret) < minKeyBytes || len(secret) > maxKeyBytes:
			fail(i+1, "(%s) is not %d to %d bytes in base64; make one with: openssl rand -base64 32", id, minKeyBytes, maxKeyBytes)
		case len(keys.of(id)) == liveKeys:
			fail(i+1, "(%s) is the third of that id; %d can be live", id, liveKeys)
		case slices.ContainsFunc(keys.list, func(k key) bool { return string(k.secret) == string(secret) }):
			fail(i+1, "(%s) has the secret of another: each needs its own", id)
		default:
			keys.list = append(keys.list, key{id, secret})
		}
	}
	if len(errs) > 0 {
		return Keys{}, errors.Join(errs...)
	}
	return keys, nil
}

// Any says whether there are keys.
func (k Keys) Any() bool { return len(k.list) > 0 }

// IDs are the key ids, each once, in the order they were given.
func (k Keys) IDs() []string {
	var ids []string
	for _, one := range k.list {
		if !slices.Contains(ids, one.id) {
			ids = append(ids, one.id)
		}
	}
	return ids
}

// of lists the keys of one id.
func (k Keys) of(id string) []key {
	var list []key
	for _, one := range k.list {
		if one.id == id {
			list = append(list, one)
		}
	}
	return list
}

// String names the key ids.
func (k Keys) String() string { return fmt.Sprintf("watch keys of %v", k.IDs()) }

// GoString is String, so that %#v shows no secret either.
func (k Keys) GoString() string { return k.String() }
