package webhook

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"usher/config"
	"usher/handlers"
)

const page = "../../docs/webhook.md"

// blocks are the examples of the page in one language.
func blocks(t *testing.T, language string) []string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, rest := range strings.Split(string(text), "```"+language+"\n")[1:] {
		block, _, _ := strings.Cut(rest, "```")
		list = append(list, block)
	}
	if len(list) == 0 {
		t.Fatalf("%s has no example in %s", page, language)
	}
	return list
}

// The receiver's lines are run as they stand there.
func TestTheReceiverOfThePageChecksSignatures(t *testing.T) {
	python, err := filepath.Abs("../../.cache/venv/bin/python")
	if err != nil {
		t.Fatal(err)
	}
	w := open(t, "WEBHOOK_URLS=a=https://hooks.example", "WEBHOOK_SECRET="+secret)
	signed := func(id, body string, at time.Time) map[string]string {
		h := http.Header{}
		w.sign(h, &handlers.Message{IdempotencyKey: id, Body: []byte(body)}, at)
		low := map[string]string{}
		for name, values := range h {
			low[strings.ToLower(name)] = values[0]
		}
		return low
	}
	type request struct {
		Headers map[string]string `json:"headers"`
		Body    string            `json:"body"`
		Secret  string            `json:"secret"`
	}
	now := time.Now()
	requests := []request{
		{signed("order.7", `{"order":7}`, now), `{"order":7}`, secret},
		{signed("order.7", `{"order":7}`, now), `{"order":8}`, secret},
		{signed("order.7", `{"order":7}`, now.Add(-10*time.Minute)), `{"order":7}`, secret},
		{signed("order.7", `{"order":7}`, now), `{"order":7}`, "whsec_" + strings.Repeat("A", 32)},
	}
	input, err := json.Marshal(requests)
	if err != nil {
		t.Fatal(err)
	}
	script := blocks(t, "python")[0] + `
import json, sys
print([verify(r["headers"], r["body"].encode(), r["secret"]) for r in json.load(sys.stdin)])
`
	cmd := exec.CommandContext(t.Context(), python, "-c", script)
	cmd.Stdin = bytes.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "[True, False, False, False]" {
		t.Errorf("%v: %s", err, out)
	}
	if lines := strings.Count(blocks(t, "python")[0], "\n"); lines > 11 {
		t.Errorf("the receiver takes %d lines", lines)
	}
}

// The configurations of the page load, and their environments are valid.
func TestTheConfigurationsOfThePageAreValid(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, block := range blocks(t, "yaml") {
		cfg, err := config.Load(config.Options{Default: []byte(block), DefaultName: page})
		if err != nil {
			t.Errorf("%s\n%v", block, err)
			continue
		}
		environ := []string{}
		for name, value := range cfg.Plugins["hooks"].Env {
			environ = append(environ, name+"="+strings.Replace(value, "/run/secrets/webhook", file, 1))
		}
		s, err := read(environ)
		if err != nil {
			t.Errorf("%s\n%v", block, err)
			continue
		}
		for typ := range cfg.Types {
			if s.urls[typ] == nil {
				t.Errorf("%s has no URL in\n%s", typ, block)
			}
		}
	}
}
