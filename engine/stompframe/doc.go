// Package stompframe reads and writes STOMP frames, versions 1.0 to 1.2, with
// hard limits on what the other side may make us hold.
//
// The frames themselves are go-stomp's ([frame.Frame]). Its own reader has no
// limit on headers and allocates what a content-length header claims, and its
// writer makes a system call for each frame; this package replaces both. Where
// the versions differ, [Reader.SetVersion] and [Writer.SetVersion] choose: 1.0
// has no escapes, 1.1 has \n \c \\, 1.2 adds \r (STOMP 1.2, Value Encoding).
// CONNECT, STOMP and CONNECTED are never escaped.
package stompframe

import "github.com/go-stomp/stomp/v3/frame"

// Version is a version of the STOMP protocol, as it is written on the wire.
type Version string

// The versions that are spoken.
const (
	V10 Version = "1.0"
	V11 Version = "1.1"
	V12 Version = "1.2"
)

// Limits is what one frame may hold. A field that is not above zero stands for
// its default, but for Discard.
type Limits struct {
	// HeaderBytes is the most bytes of command and header lines together; 64 KiB by default.
	HeaderBytes int
	// Headers is the most header lines; 256 by default.
	Headers int
	// BodyBytes is the most bytes of a body; 4 MiB by default.
	BodyBytes int
	// Discard is how long a body that is over BodyBytes may be to be read past
	// without keeping it: see [Reader.Read]. 0, the default, is never: such a
	// frame is refused as soon as it is seen.
	Discard int
	// Lenient keeps a header line with an undefined escape as it came, and drops
	// one without a name or a colon, where otherwise the stream ends. It is for
	// clients: ActiveMQ does not escape the names of headers, so a single
	// message with an odd one would end every session that it is delivered to.
	Lenient bool
}

// The defaults of Limits.
const (
	DefaultHeaderBytes = 64 << 10
	DefaultHeaders     = 256
	DefaultBodyBytes   = 4 << 20
)

func (l Limits) withDefaults() Limits {
	if l.HeaderBytes <= 0 {
		l.HeaderBytes = DefaultHeaderBytes
	}
	if l.Headers <= 0 {
		l.Headers = DefaultHeaders
	}
	if l.BodyBytes <= 0 {
		l.BodyBytes = DefaultBodyBytes
	}
	return l
}

// commandOf returns the constant of a command, so that no frame allocates its
// own; "" if STOMP has no such command.
func commandOf[T string | []byte](text T) string {
	switch string(text) {
	case frame.MESSAGE:
		return frame.MESSAGE
	case frame.SEND:
		return frame.SEND
	case frame.ACK:
		return frame.ACK
	case frame.RECEIPT:
		return frame.RECEIPT
	case frame.NACK:
		return frame.NACK
	case frame.ERROR:
		return frame.ERROR
	case frame.SUBSCRIBE:
		return frame.SUBSCRIBE
	case frame.UNSUBSCRIBE:
		return frame.UNSUBSCRIBE
	case frame.BEGIN:
		return frame.BEGIN
	case frame.COMMIT:
		return frame.COMMIT
	case frame.ABORT:
		return frame.ABORT
	case frame.CONNECT:
		return frame.CONNECT
	case frame.STOMP:
		return frame.STOMP
	case frame.CONNECTED:
		return frame.CONNECTED
	case frame.DISCONNECT:
		return frame.DISCONNECT
	}
	return ""
}

// handshake says whether frames of the command are exempt from escaping (STOMP
// 1.2, Value Encoding: for compatibility with 1.0).
func handshake(command string) bool {
	return command == frame.CONNECT || command == frame.CONNECTED || command == frame.STOMP
}
