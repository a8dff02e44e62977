// Package session is one STOMP connection, from CONNECT to its end: heart-beats
// on their own clock, a reader that never waits for anybody, a writer that sends
// together what comes together, and requests whose receipts are pipelined.
//
// It knows no queues, no lanes and no reconnecting; package stomp does.
package session
