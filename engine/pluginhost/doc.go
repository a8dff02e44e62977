// Package pluginhost runs handler plugins: processes that answer the protocol of
// package usher/handlers/plugin/wire. A [Host] is an [engine.Handler]; its Run
// keeps one process of each plugin up.
//
// A process is started in a process group of its own, with an environment that
// was named for it and nothing of the host's, from a private folder that ends
// with it. It is ready when it has shaken hands (each side with a certificate
// made for this one start), has described itself, serves the types that are
// routed to it, and has granted credit on its Work stream. Messages go over that
// stream, each answered by one outcome.
//
// What does not end in time is cancelled, and when that does not help within
// Plugin.Grace the process group is killed: HandleMessage never returns while
// its message may still be running. A process that dies, hangs or breaks the
// protocol takes the messages it had in hand with it ([engine.ErrPluginLost]);
// the next one is started after a wait that grows with each failure.
//
// Package go-plugin does the handshake and no more. Its Client restarts nothing
// and hangs on a process that is stopped, so waiting, killing and collecting are
// done here; it parses what a plugin writes, so it is shown nothing but the
// handshake line.
package pluginhost
