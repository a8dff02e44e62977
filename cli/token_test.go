package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"usher/engine"
	"usher/engine/watchtoken"
)

func watchKey(letter string) string {
	return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(letter, 32)))
}

func TestTokenMakesWhatIsAskedFor(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("USHER_WATCH_KEYS", "shop:"+watchKey("a")+",billing:"+watchKey("b"))
	keys, err := watchtoken.ParseKeys(os.Getenv("USHER_WATCH_KEYS"))
	if err != nil {
		t.Fatal(err)
	}
	check := func(token, stage string, ttl time.Duration) {
		t.Helper()
		until, err := keys.Check(token, stage, "order-7", time.Now())
		if left := time.Until(until); err != nil || left > ttl || left < ttl-10*time.Second {
			t.Errorf("%s is good for %v: %v", token, left, err)
		}
	}
	code, out, errs := here(t, "token", "order-7")
	if code != 0 || !strings.HasPrefix(out, "usher1.shop.local.") {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	check(strings.TrimSpace(out), "local", 15*time.Minute)
	if err := os.WriteFile("usher.yaml", []byte("notify: {stage: prod}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs = here(t, "token", "order-7", "--ttl", "2h", "--key", "billing", "--json")
	var m minted
	if err := json.Unmarshal([]byte(out), &m); err != nil || code != 0 || m.ID != "order-7" || m.Key != "billing" || m.Stage != "prod" || time.Until(m.Expires) > 2*time.Hour {
		t.Fatalf("exit %d: %s%s (%v)", code, out, errs, err)
	}
	check(m.Token, "prod", 2*time.Hour)
}

func TestTokenSaysWhatIsWrong(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("USHER_WATCH_KEYS", "")
	if code, _, errs := here(t, "token", "m"); code != exitInvalid || !strings.Contains(errs, "USHER_WATCH_KEYS") {
		t.Errorf("without keys: exit %d, %s", code, errs)
	}
	t.Setenv("USHER_WATCH_KEYS", "shop:hidden")
	for _, args := range [][]string{{"token", "m"}, {"watch", "m"}, {"dev", "--listen", "127.0.0.1:0", "--stomp", "127.0.0.1:0"}} {
		code, _, errs := here(t, args...)
		if code != exitInvalid || !strings.Contains(errs, "USHER_WATCH_KEYS: watch key 1 (shop)") || strings.Contains(errs, "hidden") {
			t.Errorf("usher %s with a bad key: exit %d, %s", args[0], code, errs)
		}
	}
	t.Setenv("USHER_WATCH_KEYS", "shop:"+watchKey("a"))
	for _, args := range [][]string{
		{"token"}, {"token", "m", "--ttl", "0s"}, {"token", "m", "--ttl", "25h"}, {"token", "m", "--key", "ship"}, {"token", ""}, {"token", "tab\t"},
	} {
		if code, _, errs := here(t, args...); code != exitUsage || errs == "" {
			t.Errorf("usher %q: exit %d, %s", args, code, errs)
		}
	}
}

// watchWith subscribes to a message of a running usher and gives the first frame.
func (u *usher) watchWith(id, token, origin string) (f frame, status int) {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), 10*time.Second)
	defer cancel()
	header := http.Header{}
	if origin != "" {
		header.Set("Origin", origin)
	}
	ws, response, err := websocket.Dial(ctx, "ws://"+u.http+"/ws", &websocket.DialOptions{HTTPHeader: header}) //nolint:bodyclose // Dial has read it
	if err != nil {
		return frame{}, response.StatusCode
	}
	defer func() { _ = ws.CloseNow() }()
	text, err := json.Marshal(map[string]string{"action": "subscribe", "id": id, "token": token})
	if err == nil {
		err = ws.Write(ctx, websocket.MessageText, text)
	}
	var data []byte
	if err == nil {
		_, data, err = ws.Read(ctx)
	}
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		u.t.Fatal(err)
	}
	return f, response.StatusCode
}

func TestARunningUsherAsksForTokens(t *testing.T) {
	keys := "shop:" + watchKey("a")
	t.Setenv("USHER_WATCH_KEYS", keys)
	u := newUsher(t)
	file := filepath.Join(u.dir, "usher.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(text, "notify: {stage: test, origins: [https://shop.example]}\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	u.start()
	u.wantCLI(0, "done", "send", "order.rush", "--id", "m", "--wait") // with a token of its own
	token := strings.TrimSpace(u.wantCLI(0, "usher1.shop.test.", "token", "m"))
	if f, _ := u.watchWith("m", token, "https://shop.example"); f.State != engine.Done || f.ID != "m" {
		t.Errorf("with a token: %+v", f)
	}
	if f, _ := u.watchWith("n", token, ""); f.Error != "bad_token" || f.State != "" {
		t.Errorf("with the token of another message: %+v", f)
	}
	if _, status := u.watchWith("m", token, "https://evil.example"); status != http.StatusForbidden {
		t.Errorf("from another origin: %d", status)
	}
	if err := os.Unsetenv("USHER_WATCH_KEYS"); err != nil { // t.Setenv puts it back
		t.Fatal(err)
	}
	u.wantCLI(exitFailed, "USHER_WATCH_KEYS", "watch", "m")
	page := u.body("/metrics")
	for _, want := range []string{`usher_watch_refused_total{cause="token_foreign_id"} 1`, `usher_watch_refused_total{cause="token_malformed"} 1`, `usher_watch_refused_total{cause="bad_origin"} 1`} {
		if !strings.Contains(page, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	u.stop()
	if strings.Contains(u.stderr.String(), watchKey("a")[:20]) {
		t.Error("the log shows a key")
	}
}

// body is what the running usher answers.
func (u *usher) body(path string) string {
	u.t.Helper()
	request, err := http.NewRequestWithContext(u.t.Context(), http.MethodGet, "http://"+u.http+path, http.NoBody)
	if err != nil {
		u.t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		u.t.Fatal(err)
	}
	defer response.Body.Close()
	var b strings.Builder
	if err := response.Write(&b); err != nil {
		u.t.Fatal(err)
	}
	return b.String()
}
