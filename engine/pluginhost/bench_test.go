package pluginhost_test

import (
	"sync"
	"testing"

	"usher/handlers"
)

// What 32 messages in hand come to, over a unix socket with TLS.
func BenchmarkHandleMessage(b *testing.B) {
	const inHand = 32
	h := launch(b, settings{types: []string{"nothing"}, env: map[string]string{"CONCURRENCY": "32"}})
	body := make([]byte, 1<<10)
	headers := map[string]string{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
	b.ReportAllocs()
	b.ResetTimer()
	var work sync.WaitGroup
	for i := range inHand {
		work.Go(func() {
			for range (b.N + i) / inHand {
				m := &handlers.Message{ID: "1", Type: "nothing", Attempt: 1, IdempotencyKey: "1", Headers: headers, ContentType: "application/json", Body: body}
				if err := h.HandleMessage(b.Context(), m); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	work.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}
