package plugin_test

import (
	"context"
	"encoding/json"
	"fmt"

	"usher/handlers"
	"usher/handlers/plugin"
)

func ExampleServe() { //nolint:testableexamples // it serves until its host ends it
	mux := &handlers.Mux{}
	mux.Handle("order.rush", func(_ context.Context, m *handlers.Message) error {
		var order struct {
			Street string `json:"street"`
		}
		if err := json.Unmarshal(m.Body, &order); err != nil {
			return handlers.Permanent(fmt.Errorf("the body is not JSON: %w", err), "bad_body")
		}
		m.Progress(0.5, "packing")
		return m.Emit("receipt.email", m.Body) // sent when this message is done
	})
	plugin.Serve(mux)
}
