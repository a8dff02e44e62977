package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
	"go.yaml.in/yaml/v3"
)

// Options say where a configuration comes from.
type Options struct {
	// Files are YAML files; later ones win. Relative paths in a file are relative
	// to its folder.
	Files []string
	// RemoteFunc reads one of the Files that [IsRemote], at most one byte more than
	// limit of it. Relative paths in it are relative to the current folder. Nil: there
	// are none of those.
	RemoteFunc func(name string, limit int64) ([]byte, error)
	// Environ is the environment as os.Environ gives it.
	Environ []string
	// Flags are values by key, for example "server.listen": what one would write
	// in YAML, or an int, a time.Duration or a []string. Types and plugins cannot
	// be set by them.
	Flags map[string]any
	// Default is YAML that is read when there are no Files, and DefaultName its
	// name in errors. Relative paths in it are relative to the current folder.
	Default     []byte
	DefaultName string
}

// Load reads and checks a configuration. If anything is wrong the error is
// [Errors], with all that is wrong. It does not look at programs, files of
// plugins, or the network.
func Load(o Options) (*Config, error) {
	l := &loader{root: tree(), layer: newLayer(nil)}
	l.report = func(p Problem) { l.problems = append(l.problems, p) }
	providers := l.files(o)
	environment, err := l.environ(o.Environ, l.root)
	if err != nil {
		return nil, err
	}
	providers = append(providers, environment, l.flags(o.Flags, l.root))
	if l.broken[""] {
		return l.result(nil, o) // no more can be said: what is missing may stand in the file that is broken
	}
	cfg, err := l.merge(providers)
	if err != nil {
		return nil, err
	}
	cfg.Secrets = secrets(o.Environ)
	l.check(cfg, o)
	l.trace(cfg)
	return l.result(cfg, o)
}

// trace notes where each value came from.
func (l *loader) trace(cfg *Config) {
	cfg.origins = map[string]Origin{}
	cfg.node(func(p path, _ *yaml.Node) { cfg.origins[p.String()] = l.marks[p.id()].origin })
}

// loader puts the layers together. Its own layer has the marks and the broken
// values of all of them.
type loader struct {
	*layer
	root     *shape
	problems Errors
	builtIn  string         // the name of the text that is no file; empty: there is none
	named    map[string]any // all that the layers set, without defaults
}

// files reads all files, or the default text.
func (l *loader) files(o Options) []koanf.Provider {
	var sources []*source
	for _, name := range o.Files {
		if s, ok := open(o, name, l.report); ok {
			sources = append(sources, s)
		} else {
			l.broken[""] = true
		}
	}
	if len(o.Files) == 0 && len(o.Default) > 0 {
		l.builtIn = o.DefaultName
		sources = append(sources, newSource(o.DefaultName, o.Default, l.report))
	}
	var providers []koanf.Provider
	for _, s := range sources {
		file := newLayer(l.report)
		file.read(s, l.root)
		l.add(file)
		providers = append(providers, confmap.Provider(file.values, ""))
	}
	return providers
}

func (l *loader) add(other *layer) {
	maps.Copy(l.marks, other.marks)
	maps.Copy(l.broken, other.broken)
}

// merge lays the layers over the defaults. The defaults of a type or a plugin
// are known only when its name is, so the others are merged first.
func (l *loader) merge(layers []koanf.Provider) (*Config, error) {
	k := koanf.New(separator)
	for _, layer := range layers {
		if err := k.Load(layer, nil); err != nil {
			return nil, fmt.Errorf("config: merge: %w", err)
		}
	}
	l.named = k.Raw()
	all := koanf.New(separator)
	for _, values := range []map[string]any{defaults(l.root, l.named), l.named} {
		if err := all.Load(confmap.Provider(values, ""), nil); err != nil {
			return nil, fmt.Errorf("config: merge: %w", err)
		}
	}
	cfg := &Config{}
	if err := all.Unmarshal("", cfg); err != nil {
		return nil, fmt.Errorf("config: decode: %w", err)
	}
	return cfg, nil
}

// defaults are the defaults of s and of all that is named.
func defaults(s *shape, named map[string]any) map[string]any {
	values := map[string]any{}
	for _, sub := range s.sub {
		below, _ := named[sub.name].(map[string]any)
		switch {
		case sub.kind.form == section:
			values[sub.name] = defaults(sub, below)
		case sub.def != "":
			if v, err := sub.kind.parseFunc(sub.def); err == nil {
				values[sub.name] = v
			}
		}
	}
	if s.any != nil {
		for name, value := range named {
			below, _ := value.(map[string]any)
			values[name] = defaults(s.any, below)
		}
	}
	return values
}

func secrets(environ []string) Secrets {
	var s Secrets
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		switch name {
		case LoginVariable:
			s.BrokerLogin = value
		case PasscodeVariable:
			s.BrokerPasscode = value
		case TokenVariable:
			s.Token = value
		case WatchKeysVariable:
			s.WatchKeys = value
		case GatewayVariable:
			s.Gateway = value
		case WebhookVariable:
			s.Webhook = value
		}
	}
	return s
}

// result is the configuration with its warnings, or all errors.
func (l *loader) result(cfg *Config, o Options) (*Config, error) {
	files := append(slices.Clone(o.Files), o.DefaultName)
	l.problems.inOrder(files)
	var errs, warnings Errors
	seen := map[string]bool{}
	for _, p := range l.problems {
		id := fmt.Sprint(p.File, ":", p.Line, ":", p.Column, ":", p.Message)
		switch {
		case seen[id]:
		case p.Warning:
			warnings = append(warnings, p)
		default:
			errs = append(errs, p)
		}
		seen[id] = true
	}
	if len(errs) > 0 {
		return nil, errs
	}
	cfg.Warnings = warnings
	return cfg, nil
}
