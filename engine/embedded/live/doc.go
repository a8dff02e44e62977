// Package live tells browsers on one machine where their messages are: the
// WebSocket endpoint beside the embedded broker and records.
//
// A client sends {"action":"subscribe","id":"…"} and gets the state of that
// message at once and each later one as it comes, as [engine.Status] frames.
// What it cannot take in time is merged: it gets the latest status of each
// message, never a backlog, and the statuses of one message never go back.
//
// [Hub] is the engine's Notifier and an http.Handler. Who watches is kept in
// the record of the message, so a status reaches every watcher no matter which
// engine tells it; the hub renews the entry while the connection is open.
package live
