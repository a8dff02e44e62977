package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"usher/engine"
	"usher/handlers"
	"usher/handlers/plugin"
)

// assassin is the environment variable that makes this program a plugin.
const assassin = "USHER_TEST_ASSASSIN"

// assassinHears names a file for the traceparent of the last message that it had.
const assassinHears = "USHER_TEST_HEARS"

// serveAssassin serves all types that the tests' configuration has.
func serveAssassin() {
	plugin.ServeConfig(plugin.Config{Handler: handlers.HandlerFunc(killsItsEngine), Name: "assassin", Types: []string{
		"order.rush", "order.placed", "receipt.email", "report.daily", "stock.sync", "card.charge", "address.check", "legacy.import",
	}})
}

// killsItsEngine ends the engine that gave it a message of type order.rush.
func killsItsEngine(ctx context.Context, m *handlers.Message) error {
	if file := os.Getenv(assassinHears); file != "" {
		if err := os.WriteFile(file, []byte(m.Headers["traceparent"]), 0o600); err != nil {
			return err
		}
	}
	switch m.Type {
	case "report.daily": // takes its time
		<-ctx.Done()
		return context.Cause(ctx)
	case "order.rush":
	default:
		return nil
	}
	if err := syscall.Kill(os.Getppid(), syscall.SIGKILL); err != nil {
		return err
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// heard is where its plugin writes traceparents.
func (u *usher) heard() string { return filepath.Join(u.dir, "heard") }

// hasAssassin makes it the plugin of all types.
func (u *usher) hasAssassin() {
	u.t.Helper()
	u.rewriteFile(replaced("[usher, plugin, serve, shop], env: {", fmt.Sprintf("[%q], env: {%s: yes, %s: %q, ", os.Args[0], assassin, assassinHears, u.heard())))
}

func TestAMessageThatEndsEveryEngineIsPoison(t *testing.T) {
	u := newUsher(t)
	u.hasAssassin()
	u.launch()
	u.eventually(20*time.Second, "there", func() bool { return u.get("/livez", nil) == 200 })
	for i := range 5 {
		u.wantCLI(0, "", "send", "order.placed", "--id", fmt.Sprint("innocent-", i))
	}
	u.wantCLI(0, "", "send", "order.rush", "--id", "deadly", "--priority", "9")
	deaths := 0
	for deadline := time.After(time.Minute); u.message("deadly").State != engine.Dead; {
		select {
		case err := <-u.exited:
			if err == nil {
				t.Fatal("it ended by itself")
			}
			deaths++
			u.launch()
		case <-time.After(50 * time.Millisecond):
		case <-deadline:
			t.Fatalf("after %d deaths it is not dead: %+v", deaths, u.message("deadly"))
		}
	}
	if m := u.message("deadly"); m.Reason != engine.ReasonPoison || deaths < 3 || deaths > 6 {
		t.Errorf("after %d deaths of engines its reason is %q; want poison, after about five", deaths, m.Reason)
	}
	for i := range 5 {
		id := fmt.Sprint("innocent-", i)
		u.eventually(10*time.Second, "done with "+id, func() bool { return u.message(id).State == engine.Done })
	}
	u.stop()
}
