package cli

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"usher/config"
	"usher/engine/watchtoken"
)

// minting is what `usher token` was asked for.
type minting struct {
	ttl   time.Duration
	key   string
	files []string
}

func tokenCommand() *cobra.Command {
	var m minting
	c := &cobra.Command{
		Use:   "token ID",
		Short: "Make a token with which somebody can watch one message",
		Long: `Make a token with which somebody can watch one message until the time is over, in a
browser or with another client. It needs nothing but the keys in USHER_WATCH_KEYS, and
the stage of the configuration (notify: {stage: …}). docs/status.md has the same in
other languages, for producers.`,
		Example: "  usher token order-7\n  usher token order-7 --ttl 1h --key shop --json",
		Args:    cobra.ExactArgs(1),
		RunE:    func(c *cobra.Command, args []string) error { return m.run(c, args[0]) },
	}
	f := c.Flags()
	f.DurationVar(&m.ttl, "ttl", watchtoken.DefaultTTL, "how long it is good, at most "+watchtoken.MaxTTL.String())
	f.StringVar(&m.key, "key", "", "the key id to make it with (default: the first)")
	f.StringArrayVar(&m.files, "config", nil, "configuration file (default ./usher.yaml if there is one)")
	return c
}

// minted is the token as JSON.
type minted struct {
	Token   string    `json:"token"`
	ID      string    `json:"id"`
	Key     string    `json:"key"`
	Stage   string    `json:"stage"`
	Expires time.Time `json:"expires"`
}

func (m *minting) run(c *cobra.Command, id string) error {
	if m.ttl < time.Second || m.ttl > watchtoken.MaxTTL {
		return fail(exitUsage, "--ttl %v is outside 1s to %v", m.ttl, watchtoken.MaxTTL)
	}
	cfg, err := clientConfig(m.files)
	if err != nil {
		return err
	}
	keys, err := watchKeys(cfg)
	if err != nil {
		return err
	}
	if !keys.Any() {
		return fail(exitInvalid, "there is no key to make a token with: set %s to what usher has there, as in shop:<base64>", config.WatchKeysVariable)
	}
	out := minted{ID: id, Key: m.key, Stage: cfg.Notify.Stage, Expires: time.Now().Add(m.ttl).Truncate(time.Second).UTC()}
	if out.Key == "" {
		out.Key = keys.IDs()[0]
	}
	if out.Token, err = keys.Make(out.Key, out.Stage, id, out.Expires); err != nil {
		return fail(exitUsage, "%w", err)
	}
	if wantsJSON(c) {
		return printJSON(c, out)
	}
	return printLines(c, out.Token)
}

// clientConfig is the configuration of a command that needs a little of it:
// ./usher.yaml if there is one and no file is named.
func clientConfig(files []string) (*config.Config, error) {
	if _, err := os.Stat("usher.yaml"); err == nil && len(files) == 0 {
		files = []string{"usher.yaml"}
	}
	return config.Load(fromFiles(context.Background(), files...)) // an account is waited for 10 s at most
}

// watchKeys reads the keys of the configuration's secrets.
func watchKeys(cfg *config.Config) (watchtoken.Keys, error) {
	keys, err := watchtoken.ParseKeys(cfg.Secrets.WatchKeys)
	if err != nil {
		return keys, fail(exitInvalid, "%s: %w", config.WatchKeysVariable, err)
	}
	return keys, nil
}

// ownTokens makes tokens for what a command of ours watches, if the environment
// has keys. Without them usher may ask for none, or know the operator otherwise.
func ownTokens() (func(id string) (string, error), error) {
	if os.Getenv(config.WatchKeysVariable) == "" {
		return func(string) (string, error) { return "", nil }, nil
	}
	cfg, err := clientConfig(nil)
	if err != nil {
		return nil, err
	}
	keys, err := watchKeys(cfg)
	if err != nil {
		return nil, err
	}
	return func(id string) (string, error) {
		token, err := keys.Make(keys.IDs()[0], cfg.Notify.Stage, id, time.Now().Add(watchtoken.MaxTTL))
		if err != nil {
			return "", fmt.Errorf("make a token: %w", err)
		}
		return token, nil
	}, nil
}
