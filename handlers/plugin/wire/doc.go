// Package wire is the protocol between usher and its plugin processes: the
// generated code of handler.proto, the conversion between its messages and those
// of package handlers, and what both sides need of go-plugin.
//
// Authors of plugins do not need it: package plugin hides it. The host uses
// [Client], the From functions to send and the To functions to read.
//
// Protocol buffers refuse strings that are not UTF-8, and one such string would
// end the stream with every message on it. So the From functions replace what is
// not UTF-8 by U+FFFD, except where it would matter: bodies and the keys of
// follow-ons travel as bytes.
package wire
