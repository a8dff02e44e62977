package config_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"usher/config"
)

func loaded(t *testing.T, text string) *config.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "usher.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(config.Options{Files: []string{file}})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestDiffTellsWhatHasChangedAndWhatNeedsARestart(t *testing.T) {
	from := loaded(t, `
engine: {slots: 32}
types:
  order.rush: {plugin: orders, priority: 9}
  order.old: {plugin: orders}
plugins:
  orders: {command: [/bin/orders], dir: /srv, env: {API_TOKEN: one, REGION: eu}}
server: {listen: "127.0.0.1:8080"}
`)
	to := loaded(t, `
engine: {slots: 64}
types:
  order.rush: {plugin: orders, retry: {redeliveries: [30s, 5m]}}
  order: {plugin: orders, timeout: 5s}
plugins:
  orders: {command: [/bin/orders, --fast], dir: /srv, env: {API_TOKEN: two, REGION: us}}
server: {listen: "127.0.0.1:9090"}
log: {level: debug}
`)
	var got []string
	for _, c := range config.Diff(from, to) {
		got = append(got, c.String())
	}
	want := []string{
		"engine.slots: 32 -> 64",
		"log.level: info -> debug",
		"plugins.orders.command: [/bin/orders] -> [/bin/orders, --fast]",
		"plugins.orders.env.API_TOKEN: '***' -> '***'",
		"plugins.orders.env.REGION: eu -> us",
		"server.listen: 127.0.0.1:8080 -> 127.0.0.1:9090 (after a restart)",
		"types.order: (not set) -> there",
		"types.order.old: there -> (not set)",
		"types.order.rush.priority: 9 -> (not set)",
		"types.order.rush.retry.redeliveries: (not set) -> [30s, 5m]",
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the changes are\n%q, want\n%q", got, want)
	}
	if same := config.Diff(from, from); len(same) != 0 {
		t.Errorf("of a configuration and itself: %v", same)
	}
}
