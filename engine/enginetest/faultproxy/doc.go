// Package faultproxy stands between STOMP clients and a broker, on the loopback,
// and breaks their connections where a test says: after a named frame, before it,
// or in the middle of it. Only tests import it.
//
// It reads the frames that pass in either direction and hands on their bytes as
// they came, so that neither side can tell that it is there. A [Fault] names a
// frame and what happens at it; each strikes once:
//
//	proxy := faultproxy.Start(t, broker.Address(), nil)
//	cut := proxy.Arm(faultproxy.Fault{Command: frame.RECEIPT, Nth: 3, Action: faultproxy.CutBefore})
//	… a client that sends to proxy.Address() …
//	<-cut.Struck() // the broker has the third message, and the client does not know
//
// What is not bound to a frame, [Proxy.Cut], [Proxy.Refuse] and [Proxy.Hold], is
// done at once; [Proxy.Lag] makes the line a long one.
package faultproxy
