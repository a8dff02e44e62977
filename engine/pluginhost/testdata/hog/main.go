// Command hog is a plugin that takes as much memory as its messages say, in MiB. It is a
// program of its own because the race detector has more memory than any limit.
package main

import (
	"context"
	"os"
	"strconv"

	"usher/handlers"
	"usher/handlers/plugin"
)

func main() {
	var mux handlers.Mux
	mux.Handle("take", func(_ context.Context, m *handlers.Message) error {
		n, err := strconv.Atoi(string(m.Body))
		if err != nil {
			return handlers.Permanent(err, "no_number")
		}
		all := make([]byte, n<<20)
		for i := 0; i < len(all); i += os.Getpagesize() {
			all[i] = 1
		}
		score, err := os.ReadFile("/proc/self/oom_score_adj")
		if err != nil {
			return err
		}
		return m.Emit("taken", score)
	})
	plugin.ServeConfig(plugin.Config{Handler: &mux, Name: "hog", Version: "1", Concurrency: 1})
}
