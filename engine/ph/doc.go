// Package pluginhost starts plugin processes, keeps them running, and hands
// them messages: it is the engine's Handler.
//
// Each plugin has one process at a time, in a process group of its own, that
// dies with this one. Messages go over one stream (package wire) with credit,
// so what has left the engine runs at once. A process that hangs is killed, one
// that ends is started again with growing waits, and what it had in hand is
// reported as engine.ErrPluginLost: nobody's attempt.
package pluginhost
