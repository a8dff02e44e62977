package plugin

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"usher/handlers"
)

func nothing(context.Context, *handlers.Message) error { return nil }

func TestDescribeFillsInDefaults(t *testing.T) {
	var mux handlers.Mux
	mux.Handle("b", nothing)
	mux.Handle("a", nothing)
	d, err := Config{Handler: &mux}.describe()
	if err != nil {
		t.Fatal(err)
	}
	if d.GetName() != "plugin.test" || d.GetVersion() == "" || d.GetSdk() != "go/1" ||
		d.GetConcurrency() != DefaultConcurrency || !slices.Equal(d.GetTypes(), []string{"a", "b"}) {
		t.Errorf("got %v", d)
	}
}

func TestDescribeTakesTheConfig(t *testing.T) {
	d, err := Config{
		Handler: handlers.HandlerFunc(nothing), Types: []string{"x"}, Name: "shop", Version: "1.2", Concurrency: 3,
	}.describe()
	if err != nil {
		t.Fatal(err)
	}
	if d.GetName() != "shop" || d.GetVersion() != "1.2" || d.GetConcurrency() != 3 || !slices.Equal(d.GetTypes(), []string{"x"}) {
		t.Errorf("got %v", d)
	}
}

func TestConfigThatCannotWork(t *testing.T) {
	fine := handlers.HandlerFunc(nothing)
	tests := []struct {
		name string
		cfg  Config
		want string
	}{
		{"no handler", Config{Types: []string{"a"}}, "Config.Handler is nil"},
		{"an empty mux", Config{Handler: &handlers.Mux{}}, "register one with mux.Handle"},
		{"no types", Config{Handler: fine}, "name them in Config.Types"},
		{"an empty type", Config{Handler: fine, Types: []string{""}}, `"" cannot be a message type`},
		{"a type that is not text", Config{Handler: fine, Types: []string{"a\xff"}}, `"a\xff" cannot be a message type`},
		{"negative concurrency", Config{Handler: fine, Types: []string{"a"}, Concurrency: -1}, "Config.Concurrency is -1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.cfg.Name = "shop"
			if _, err := test.cfg.describe(); err == nil || !strings.HasPrefix(err.Error(), "plugin shop: ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestWatchParentSeesTheParentEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		parent := func() int {
			if time.Since(began) < time.Minute {
				return 17
			}
			return 1
		}
		var gone time.Duration
		watchParent(17, parent, func() { gone = time.Since(began) })
		if gone != time.Minute {
			t.Errorf("seen after %v", gone)
		}
	})
}
