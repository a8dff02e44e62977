// Package plugin is what the author of a handler plugin imports. A plugin is a
// program of its own that usher starts, watches and stops:
//
//	func main() {
//		var mux handlers.Mux
//		mux.Handle("order.rush", func(ctx context.Context, m *handlers.Message) error {
//			return ship(ctx, m.Body)
//		})
//		plugin.Serve(&mux)
//	}
//
// A handler is tested as any Go function is, and across the wire with package
// plugintest. What it writes to standard error, by package log for example,
// appears in usher's log; so does what it prints once Serve has begun. Before
// that, standard output belongs to the handshake and must stay empty.
//
// The process ends when usher says so, or when usher is gone; it does not end by
// SIGINT or SIGTERM, because usher lets the messages in hand finish first.
package plugin
