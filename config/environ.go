package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/v2"
)

// variables begins the name of each environment variable that is a key.
const variables = "USHER__"

// environ checks the environment and gives a koanf source of what it sets. It
// reads at once: where a value came from must be noted in the order of the layers.
func (l *layer) environ(environ []string, root *shape) (koanf.Provider, error) {
	taken := map[string]string{}
	values, err := env.Provider(separator, env.Opt{
		Prefix:      variables,
		EnvironFunc: func() []string { return slices.Sorted(slices.Values(environ)) },
		TransformFunc: func(name, text string) (string, any) {
			p, s := root.variable(strings.Split(strings.TrimPrefix(name, variables), "__"))
			at := setting{layer: l, origin: Origin{Variable: name}, path: p, shape: s, file: "environment " + name, unset: "unset it"}
			if onlyInFiles(p) {
				at.onlyInFiles()
				return "", nil
			}
			if s == nil {
				at.unknown(root)
				return "", nil
			}
			if other, twice := taken[p.id()]; twice {
				at.problem(Problem{Message: fmt.Sprintf("%s is set by %s already", p, other), Hint: "unset one of them"})
				return "", nil
			}
			taken[p.id()] = name
			v, ok := at.read(text)
			if !ok {
				return "", nil
			}
			return p.id(), v
		},
	}).Read()
	if err != nil {
		return nil, fmt.Errorf("config: environment: %w", err)
	}
	return confmap.Provider(values, ""), nil
}

// variable finds the key that levels in capitals stand for. If there is none,
// the shape is nil and the path what was understood, with the level that was not.
func (s *shape) variable(levels []string) (path, *shape) {
	var p path
	for _, level := range levels {
		name := strings.ToLower(level)
		var next *shape
		for _, sub := range s.sub {
			if plain(sub.name) == plain(level) {
				next, name = sub, sub.name
			}
		}
		if next == nil {
			next = s.any
		}
		p = p.to(name)
		if next == nil {
			return p, nil
		}
		s = next
	}
	return p, s
}

// variableOf is the environment variable of a key; empty: it has none.
func variableOf(p path) string {
	if onlyInFiles(p) {
		return ""
	}
	levels := make([]string, len(p))
	for i, l := range p {
		var b strings.Builder
		for _, r := range l {
			if r >= 'A' && r <= 'Z' {
				b.WriteByte('_')
			}
			b.WriteRune(r)
		}
		levels[i] = strings.ToUpper(b.String())
	}
	return variables + strings.Join(levels, "__")
}

func onlyInFiles(p path) bool { return p[0] == "types" || p[0] == "plugins" }

// flags checks what flags set and gives a koanf source of it.
func (l *layer) flags(flags map[string]any, root *shape) koanf.Provider {
	values := map[string]any{}
	for name, value := range flags {
		p := path(strings.Split(name, "."))
		at := setting{layer: l, origin: Origin{Flag: name}, path: p, shape: root.at(p), file: "flag " + name, unset: "leave it out"}
		if onlyInFiles(p) {
			at.onlyInFiles()
			continue
		}
		if at.shape == nil {
			at.unknown(root)
			continue
		}
		if v, ok := at.read(flagText(value)); ok {
			values[p.id()] = v
		}
	}
	return confmap.Provider(values, separator)
}

// flagText is what one would have typed for a flag's value.
func flagText(v any) string {
	switch v := v.(type) {
	case time.Duration:
		return v.String()
	case []string:
		return strings.Join(v, ",")
	}
	return fmt.Sprint(v)
}

// setting is one key set outside of files.
type setting struct {
	*layer
	origin Origin
	path   path
	shape  *shape
	file   string // what stands for the file in its problems
	unset  string // how to take it back
}

func (s setting) problem(p Problem) {
	if p.Path == "" {
		p.Path = s.path.String()
	}
	p.File = s.file
	s.report(p)
}

// unknown reports that there is no such key.
func (s setting) unknown(root *shape) {
	up, n := root, 0
	for ; n < len(s.path)-1; n++ {
		next := up.below(s.path[n])
		if next == nil || next.kind.form != section {
			break
		}
		up = next
	}
	at, name := s.path[:n], s.path[n]
	if leaf := up.below(name); leaf != nil {
		s.problem(Problem{Message: at.to(name).String() + " has no keys below it", Hint: s.unset + ", and set " + at.to(name).String() + " itself"})
		return
	}
	u := unknownKey(root, up, at, name)
	if u.meant != nil && s.origin.Variable != "" {
		meant := variableOf(u.meant)
		if root.at(u.meant).kind.form == section {
			meant += "__…"
		}
		u.Message = fmt.Sprintf("unknown key %s (did you mean %s?)", quote(u.Path), meant)
	}
	s.problem(u.Problem)
}

func (s setting) onlyInFiles() {
	s.problem(Problem{Message: s.path[0] + " are set in files only", Hint: s.unset + ", and write it into the configuration file"})
}

// read checks the text of a value.
func (s setting) read(text string) (any, bool) {
	k := s.shape.kind
	if k.form == section {
		s.problem(Problem{Message: s.path.String() + " is a section, not a value", Hint: s.unset + ", and set one of its keys: " + strings.Join(s.shape.names(), ", ")})
		return nil, false
	}
	own := mark{origin: s.origin, problem: s.problem}
	for n := 1; n < len(s.path); n++ {
		if _, marked := s.marks[s.path[:n].id()]; !marked {
			s.marks[s.path[:n].id()] = own
		}
	}
	s.marks[s.path.id()] = own
	if text == "" {
		s.broken[s.path.id()] = true
		s.problem(Problem{Message: s.path.String() + " is empty; it must be " + k.words, Hint: s.unset + ", or give it a value"})
		return nil, false
	}
	if k.form == list {
		return s.list(text, k)
	}
	v, err := k.parseFunc(text)
	if err != nil {
		s.broken[s.path.id()] = true
		s.problem(wrongValue(s.path, text, k, err))
		return nil, false
	}
	return v, true
}

// list reads items with commas between them.
func (s setting) list(text string, k kind) (any, bool) {
	var items []string
	for item := range strings.SplitSeq(text, ",") {
		item = strings.TrimSpace(item)
		v, err := k.values.parseFunc(item)
		if err != nil {
			s.broken[s.path.id()] = true
			s.problem(wrongValue(s.path, item, *k.values, err))
			continue
		}
		items = append(items, fmt.Sprint(v))
	}
	return items, !s.broken[s.path.id()]
}
