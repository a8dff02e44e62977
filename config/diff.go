package config

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Change is one value that two configurations have not in common. A type or a
// plugin that only one of them has is one Change.
type Change struct {
	Key      string `json:"key"`           // for example "types.order.rush.timeout"
	Old      string `json:"old,omitempty"` // as one would write it; "": not set
	New      string `json:"new,omitempty"`
	Reloaded bool   `json:"reloaded"` // it takes effect while usher runs; else after a restart
}

// String is "engine.slots: 32 -> 64".
func (c Change) String() string {
	words := func(value string) string {
		if value == "" {
			return "(not set)"
		}
		return value
	}
	s := c.Key + ": " + words(c.Old) + " -> " + words(c.New)
	if !c.Reloaded {
		s += " (after a restart)"
	}
	return s
}

// Diff tells what has changed, in the order of the keys. Values of variables whose
// names look like a secret's are not told, but that they have changed is.
func Diff(from, to *Config) []Change {
	old, now := from.values(to), to.values(from)
	all := maps.Clone(old)
	maps.Copy(all, now)
	var changes []Change
	for _, id := range slices.Sorted(maps.Keys(all)) {
		a, b := old[id], now[id]
		unknown := a.text == b.text && (a.secret == hidden || b.secret == hidden) // one of them was shown, and read back
		if a != b && !unknown {
			changes = append(changes, Change{Key: path(strings.Split(id, separator)).String(), Old: a.text, New: b.text, Reloaded: all[id].reload})
		}
	}
	return changes
}

// value is one value of a configuration.
type value struct {
	text   string
	secret string // what text does not tell
	reload bool
}

// values are all values by the ids of their paths. A type or a plugin that the
// other configuration does not have is one.
func (c *Config) values(other *Config) map[string]value {
	root := tree()
	all := map[string]value{}
	c.node(func(p path, n *yaml.Node) {
		if len(p) > 2 && !other.has(p[0], p[1]) {
			all[p[:2].id()] = value{text: "there", reload: true}
			return
		}
		v := value{text: flow(n), reload: root.reloads(p)}
		if n.Value == hidden && len(p) == 4 { // plugins, name, env, variable
			v.secret = c.Plugins[p[1]].Env[p[3]]
		}
		all[p.id()] = v
	})
	return all
}

// has says whether there is an entry of a name, in a section whose names users choose.
func (c *Config) has(section, name string) bool {
	there := true
	switch section {
	case "types":
		_, there = c.Types[name]
	case "plugins":
		_, there = c.Plugins[name]
	}
	return there
}

// reloads says whether the value at a path can be changed while usher runs.
func (s *shape) reloads(p path) bool {
	for _, name := range p {
		next := s.below(name)
		if next == nil {
			break // an entry of a mapping
		}
		s = next
	}
	return s.reload
}

// flow is a value on one line.
func flow(n *yaml.Node) string {
	one := *n
	one.LineComment, one.HeadComment = "", ""
	if one.Kind != yaml.ScalarNode {
		one.Style = yaml.FlowStyle
	}
	text, err := yaml.Marshal(&one)
	if err != nil {
		return fmt.Sprintf("(%v)", err)
	}
	return string(bytes.TrimSpace(text))
}
