// Package handlertest tests message handlers: in process, or behind whatever
// else is a handlers.Handler, such as a plugin across gRPC. It needs the
// standard library only.
//
// Run makes one attempt and gives all that came of it:
//
//	res := handlertest.Run(t, h, handlertest.Message("order.rush", []byte(`{"items": 2}`)))
//	if res.Outcome.Kind != handlers.Done { t.Error(res.Outcome.Err) }
//
// Check holds a handler to what every handler promises, with the messages that
// the author gives it and with others of their types whose bodies are not what
// he expects:
//
//	handlertest.Check(t, h, handlertest.Message("order.rush", []byte(`{"items": 2}`)))
//
// The promises are those of the message contract. A handler returns soon after
// its context has ended, whatever it is doing; it does not panic; it gives an
// answer, any answer, to a body that is empty, broken or long; and it may run
// at the same time as another attempt, even at the same message, because
// delivery is at least once. Run the tests with -race: what is said about
// running at the same time is mostly found by the race detector.
package handlertest
