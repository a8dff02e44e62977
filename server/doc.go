// Package server is the HTTP side of usher: health, metrics, and the API that
// operators and the command line use. The WebSocket endpoint is passed in.
//
// It serves loopback without further ado, and then only requests for a loopback
// Host, so that no web page can reach it under a name of its own (DNS
// rebinding). Any other address needs a token, which every request but /livez
// and /readyz has to carry. What goes wrong is answered as RFC 9457
// "application/problem+json". docs/http.md is the reference of the routes.
package server
