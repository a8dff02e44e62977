package config

import (
	"fmt"
	"regexp"
	"strings"
)

// Explain says all there is to know of one key, or of a section. Where the user
// chooses a name, any name or * may stand: "types.order.rush.timeout" or
// "types.*.timeout". The error says that there is no such key, and which may be
// meant.
func Explain(name string) (string, error) {
	root := tree()
	var found *shape
	var all []string
	root.each(func(s *shape) {
		all = append(all, s.display())
		if s.covers(name) && (found == nil || len(s.path) > len(found.path)) {
			found = s
		}
	})
	if found == nil {
		return "", unknownName(name, nearest(name, all), root)
	}
	// A misspelt key of a type looks like a longer name of a type.
	if levels := strings.Split(name, "."); found.name == "*" && len(levels) > 2 {
		last := levels[len(levels)-1]
		if near := nearest(last, found.names()); near != "" {
			return "", unknownName(name, strings.TrimSuffix(name, last)+near, root)
		}
	}
	return found.explain(), nil
}

func unknownName(name, near string, root *shape) error {
	if last := strings.LastIndex(name, ".") + 1; near == "" {
		if p := root.find(nil, name[last:]); p != nil {
			near = p.String()
		}
	}
	if near != "" {
		return fmt.Errorf("there is no key %q (did you mean %q?)", name, near)
	}
	return fmt.Errorf("there is no key %q; the sections are %s", name, strings.Join(root.names(), ", "))
}

// each calls f with everything below s.
func (s *shape) each(f func(*shape)) {
	for _, sub := range s.sub {
		f(sub)
		sub.each(f)
	}
	if s.any != nil {
		f(s.any)
		s.any.each(f)
	}
}

// display is the path as people read it: types.<name>.timeout.
func (s *shape) display() string {
	return strings.ReplaceAll(strings.ReplaceAll(s.path, " ", "."), "*", "<name>")
}

// covers says whether a dotted name is that of the key.
func (s *shape) covers(name string) bool {
	expression := strings.ReplaceAll(strings.ReplaceAll(regexp.QuoteMeta(s.path), " ", `\.`), `\*`, `.+`)
	if s.kind.form == table {
		expression += `(\..+)?`
	}
	return regexp.MustCompile("^" + expression + "$").MatchString(name)
}

func (s *shape) explain() string {
	var b strings.Builder
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "  %-12s %s\n", name, value)
		}
	}
	fmt.Fprintf(&b, "%s\n  %s\n\n", s.display(), s.doc)
	if s.kind.form == section {
		if s.any != nil {
			row("names", s.any.kind.names.words)
			s = s.any
		}
		for _, sub := range s.sub {
			row(sub.name, sub.doc)
		}
		return b.String()
	}
	row("value", s.kind.words)
	row("default", s.defaultText())
	if s.kind.like != s.def {
		row("example", s.kind.like)
	}
	p := path(strings.Split(s.path, " "))
	if onlyInFiles(p) {
		row("environment", "none: it is set in files only")
	} else {
		row("environment", variableOf(p))
	}
	return b.String()
}

// defaultText says what holds without the key.
func (s *shape) defaultText() string {
	switch {
	case s.required:
		return "none: it is required"
	case s.def == "":
		return "none"
	}
	return s.def
}
