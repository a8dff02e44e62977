package stompframe

import (
	"errors"
	"fmt"
)

// ErrTooLarge says that a frame is over a limit.
var ErrTooLarge = errors.New("frame too large")

// ErrMalformed says that what was read, or is to be written, is not STOMP.
var ErrMalformed = errors.New("malformed frame")

// Code is the machine-readable cause of an Error.
type Code string

// The codes of protocol faults.
const (
	CodeTooLarge  Code = "too_large"
	CodeMalformed Code = "malformed"
)

// Error is a fault against the protocol or the limits. errors.Is finds
// ErrTooLarge or ErrMalformed in it, by its Code.
type Error struct {
	Code Code
	// Msg says in words what is wrong. It quotes nothing of a body and no
	// value of a header.
	Msg string
	// Size is the length in bytes of a body that was read past and not kept;
	// else 0.
	Size int64
}

// Error gives the words.
func (e *Error) Error() string { return "stomp frame: " + e.Msg }

// Is lets errors.Is find the sentinel of the code.
func (e *Error) Is(target error) bool {
	switch e.Code {
	case CodeTooLarge:
		return target == ErrTooLarge
	case CodeMalformed:
		return target == ErrMalformed
	}
	return false
}

func tooLarge(format string, args ...any) error {
	return &Error{Code: CodeTooLarge, Msg: fmt.Sprintf(format, args...)}
}

func malformed(format string, args ...any) error {
	return &Error{Code: CodeMalformed, Msg: fmt.Sprintf(format, args...)}
}
