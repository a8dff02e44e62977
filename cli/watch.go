package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/coder/websocket"
	"github.com/spf13/cobra"

	"usher/engine"
)

func watchCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "watch ID...",
		Short: "Follow messages live until they are finished",
		Long: `Follow messages live until each is done, dead or cancelled. With --json, one
status a line. Exit 1 if one of them is dead-lettered or cancelled.`,
		Example: "  usher watch order-7",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, ids []string) error {
			w, err := newWatcher(c.Context(), ids...)
			if err != nil {
				return err
			}
			defer w.close()
			return w.untilFinal(c.Context(), c, len(ids))
		},
	}
}

// watcher is a WebSocket that tells of messages.
type watcher struct{ conn *websocket.Conn }

// frame is a status, or an error.
type frame struct {
	engine.Status

	Error   string `json:"error"`
	Message string `json:"message"`
}

// newWatcher subscribes to messages, which may not be there yet.
func newWatcher(ctx context.Context, ids ...string) (*watcher, error) {
	tokenOf, err := ownTokens()
	if err != nil {
		return nil, err
	}
	a := newAPI()
	target := "ws" + strings.TrimPrefix(a.base, "http") + "/ws"
	header := http.Header{}
	if token := os.Getenv("USHER_TOKEN"); token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	conn, resp, err := websocket.Dial(ctx, target, &websocket.DialOptions{HTTPHeader: header}) //nolint:bodyclose // Dial: "You never need to close resp.Body yourself."
	if err != nil {
		if resp != nil && resp.StatusCode >= 400 {
			return nil, refused(resp)
		}
		return nil, fail(exitUnreachable, "no usher answers at %s (is `usher dev` or `usher run` up? USHER_URL says where): %w", a.base, err)
	}
	conn.SetReadLimit(64 << 10)
	w := &watcher{conn}
	for _, id := range ids {
		token, err := tokenOf(id)
		if err != nil {
			w.close()
			return nil, fail(exitInvalid, "%w", err)
		}
		text, err := json.Marshal(map[string]string{"action": "subscribe", "id": id, "token": token})
		if err == nil {
			err = conn.Write(ctx, websocket.MessageText, text)
		}
		if err != nil {
			w.close()
			return nil, fail(exitUnreachable, "watch %s: %w", id, err)
		}
	}
	return w, nil
}

func (w *watcher) close() { _ = w.conn.Close(websocket.StatusNormalClosure, "") }

// untilFinal prints statuses until n messages are finished. Exit 1 if one of
// them is not done.
func (w *watcher) untilFinal(ctx context.Context, c *cobra.Command, n int) error {
	final := map[string]engine.State{}
	for len(final) < n {
		_, data, err := w.conn.Read(ctx)
		if err != nil {
			if ctx.Err() != nil { // the time is over, or somebody pressed Ctrl-C
				return fail(exitFailed, "%d of %d are not finished yet; they go on, and `usher watch` follows them", n-len(final), n)
			}
			return fail(exitUnreachable, "the connection was lost: %w", err)
		}
		var f frame
		if err := json.Unmarshal(data, &f); err != nil {
			return fail(exitFailed, "the server sent a frame that is no status: %w", err)
		}
		if f.Error == "bad_token" || f.Error == "token_expired" {
			return fail(exitFailed, "usher asks for tokens: set USHER_TOKEN, or USHER_WATCH_KEYS and the stage (USHER__NOTIFY__STAGE) that it has itself")
		}
		if f.Error != "" {
			return fail(exitFailed, "%s: %s", f.Error, f.Message)
		}
		if err := printStatus(c, f.Status, data); err != nil {
			return err
		}
		if f.State.Final() {
			final[f.ID] = f.State
		}
	}
	for id, state := range final {
		if state != engine.Done {
			return fail(exitFailed, "%s is %s; `usher msg show %s` and `usher dlq show %s` say more", id, state, id, id)
		}
	}
	return nil
}

func printStatus(c *cobra.Command, s engine.Status, raw []byte) error {
	if wantsJSON(c) {
		_, err := fmt.Fprintf(c.OutOrStdout(), "%s\n", raw)
		return err
	}
	line := fmt.Sprintf("%s %s %s", s.At.Local().Format("15:04:05.000"), s.ID, s.State)
	if s.Attempt > 0 {
		line += fmt.Sprintf(", attempt %d", s.Attempt)
		if s.Of > 0 {
			line += fmt.Sprintf(" of %d", s.Of)
		}
	}
	if s.NextAt != nil {
		line += ", next at " + s.NextAt.Local().Format("15:04:05.000")
	}
	if s.Progress != nil {
		line += fmt.Sprintf(", %.0f %% %s", *s.Progress*100, s.Note)
	}
	_, err := fmt.Fprintln(c.OutOrStdout(), line)
	return err
}
