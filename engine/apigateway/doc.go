// Package apigateway tells people who watch over an Amazon API Gateway WebSocket API,
// without anything of ours between it and them.
//
// API Gateway holds the connections. It calls [Callbacks] over HTTP when a client
// connects, leaves or sends something, and takes what clients are to be told with
// PostToConnection, which [Pusher] does from whichever engine has the message.
//
// A connection is its own problem: one that is slow gets the latest status of each
// message it watches, one that is gone is forgotten, and none delays another or the
// engine. What cannot be told is lost: the record knows the state, and who connects
// again and subscribes is given it.
package apigateway
