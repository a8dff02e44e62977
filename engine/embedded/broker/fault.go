package broker

import (
	"errors"
	"fmt"

	"usher/engine/stompframe"
)

// fault is what a client is told in an ERROR frame.
type fault struct {
	text  string
	fatal bool // the connection is closed after it
}

func (f *fault) Error() string { return f.text }

// refuse makes a fault that leaves the connection open, as ActiveMQ does.
func refuse(format string, args ...any) error {
	return &fault{text: fmt.Sprintf(format, args...)}
}

// refuseAndClose makes a fault that ends the connection.
func refuseAndClose(format string, args ...any) error {
	return &fault{text: fmt.Sprintf(format, args...), fatal: true}
}

// faultOf is what to tell a client of an error; nil if there is nobody to tell:
// the connection has ended.
func faultOf(err error) *fault {
	if f, ok := errors.AsType[*fault](err); ok {
		return f
	}
	if protocol, ok := errors.AsType[*stompframe.Error](err); ok {
		return &fault{text: protocol.Msg, fatal: true}
	}
	return nil
}
