package handlers

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// Mux routes messages to handlers by their exact type. It is itself a Handler.
// The zero Mux is ready for use. It is safe for concurrent use.
type Mux struct {
	mu     sync.RWMutex
	routes map[string]Handler // guarded by mu
}

// Handle registers f for messages of the type typ. It panics if f is nil
// or the type is empty or taken: that is a mistake in the program, seen when it starts.
func (x *Mux) Handle(typ string, f func(ctx context.Context, m *Message) error) {
	if f == nil {
		panic(fmt.Sprintf("handlers: the handler of the type %q is nil", typ))
	}
	x.Register(typ, HandlerFunc(f))
}

// Register is Handle for a Handler.
func (x *Mux) Register(typ string, h Handler) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if typ == "" || h == nil {
		panic("handlers: Mux needs a type and a handler")
	}
	if _, taken := x.routes[typ]; taken {
		panic(fmt.Sprintf("handlers: the type %q has two handlers", typ))
	}
	if x.routes == nil {
		x.routes = map[string]Handler{}
	}
	x.routes[typ] = h
}

// Types lists the registered types in alphabetical order.
func (x *Mux) Types() []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	types := make([]string, 0, len(x.routes))
	for typ := range x.routes {
		types = append(types, typ)
	}
	slices.Sort(types)
	return types
}

// lookup returns the handler of a type, or nil.
func (x *Mux) lookup(typ string) Handler {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.routes[typ]
}

// CodeNoHandler is the code of the Permanent answer to a type that a Mux does
// not know.
const CodeNoHandler = "no_handler"

var _ Handler = (*Mux)(nil)

// HandleMessage runs the handler registered for the message's type. A type
// that is not registered is answered with Permanent and [CodeNoHandler].
func (x *Mux) HandleMessage(ctx context.Context, m *Message) error {
	handler := x.lookup(m.Type)
	if handler == nil {
		return Permanent(fmt.Errorf("no handler for the type %q; there are: %v", m.Type, x.Types()), CodeNoHandler)
	}
	return handler.HandleMessage(ctx, m)
}
