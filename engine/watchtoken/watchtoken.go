package watchtoken

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"usher/engine"
)

const (
	// DefaultTTL is how long a token is good unless its maker says otherwise.
	DefaultTTL = 15 * time.Minute
	// MaxTTL is the longest that a token may be good from now: one that ends
	// later was made by mistake, or to be good for ever.
	MaxTTL = 24 * time.Hour
	// MaxBytes is the length of the longest token that is looked at.
	MaxBytes = 1024
)

const version = "usher1"

// What can be wrong with a token. Of those after ErrChanged the signature is good.
var (
	ErrMalformed    = errors.New("this is no token")
	ErrUnknownKey   = errors.New("the token is of a key that is not known")
	ErrChanged      = errors.New("the token was changed, or signed with another secret")
	ErrForeignStage = errors.New("the token is for another stage")
	ErrForeignID    = errors.New("the token is for another message")
	ErrExpired      = errors.New("the token has expired")
	ErrTooLong      = fmt.Errorf("the token is good for more than %v", MaxTTL)
)

// Cause is one word for what is wrong with a token, for metrics and logs.
func Cause(err error) string {
	for _, c := range []struct {
		err  error
		word string
	}{
		{ErrMalformed, "malformed"}, {ErrUnknownKey, "unknown_key"}, {ErrChanged, "changed"}, {ErrForeignStage, "foreign_stage"},
		{ErrForeignID, "foreign_id"}, {ErrExpired, "expired"}, {ErrTooLong, "too_long"},
	} {
		if errors.Is(err, c.err) {
			return c.word
		}
	}
	return "other"
}

// Make makes a token for one message in the name of a key id, with its first
// key. The error says which argument cannot be.
func (k Keys) Make(keyID, stage, id string, expires time.Time) (string, error) {
	keys := k.of(keyID)
	switch {
	case len(keys) == 0:
		return "", fmt.Errorf("there is no watch key %q; there are: %v", keyID, k.IDs())
	case !ValidName(stage):
		return "", fmt.Errorf("%q cannot be a stage: it is 1 to 64 of A-Z a-z 0-9 _ -", stage)
	case !engine.ValidID(id):
		return "", fmt.Errorf("an id is 1 to %d printable ASCII bytes", engine.MaxIDBytes)
	}
	signed := strings.Join([]string{
		version, keyID, stage, base64.RawURLEncoding.EncodeToString([]byte(id)), strconv.FormatInt(expires.Unix(), 10),
	}, ".")
	return signed + "." + signature(keys[0].secret, signed), nil
}

func signature(secret []byte, signed string) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(signed))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// Check says until when a token is good for a message. The errors are those of
// this package; nothing of a token is believed before its signature is.
func (k Keys) Check(token, stage, id string, now time.Time) (time.Time, error) {
	parts := strings.Split(token, ".")
	if len(token) > MaxBytes || len(parts) != 6 || parts[0] != version {
		return time.Time{}, ErrMalformed
	}
	keys := k.of(parts[1])
	if len(keys) == 0 {
		return time.Time{}, ErrUnknownKey
	}
	signed, given := token[:strings.LastIndexByte(token, '.')], parts[5]
	good := false
	for _, one := range keys {
		good = hmac.Equal([]byte(signature(one.secret, signed)), []byte(given)) || good
	}
	if !good {
		return time.Time{}, ErrChanged
	}
	seconds, err := strconv.ParseInt(parts[4], 10, 64)
	expires := time.Unix(seconds, 0).UTC()
	switch {
	case err != nil:
		return time.Time{}, ErrMalformed
	case parts[2] != stage:
		return time.Time{}, ErrForeignStage
	case parts[3] != base64.RawURLEncoding.EncodeToString([]byte(id)):
		return time.Time{}, ErrForeignID
	case !now.Before(expires):
		return time.Time{}, ErrExpired
	case expires.Sub(now) > MaxTTL+time.Minute: // for clocks that differ
		return time.Time{}, ErrTooLong
	}
	return expires, nil
}
