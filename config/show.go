package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// hidden stands for a value that is not shown.
const hidden = "***"

// Marshal writes a configuration as the YAML that has the same effect, defaults
// included. Secrets are not in it; an environment variable of a plugin whose name
// looks like a secret's is shown as ***.
func Marshal(c *Config) ([]byte, error) { return write(c.node(nil)) }

// Annotate is Marshal with a comment at each value that says where it came from,
// and at the top which secrets are set.
func Annotate(c *Config) ([]byte, error) {
	n := c.node(func(p path, n *yaml.Node) {
		n.LineComment = "# " + c.origins[p.String()].String()
	})
	n.HeadComment = "# " + c.Secrets.String() + "\n"
	return write(n)
}

func write(n *yaml.Node) ([]byte, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(n); err != nil {
		return nil, fmt.Errorf("config: encode: %w", err)
	}
	return b.Bytes(), nil
}

// MarshalJSON is Marshal as JSON: the same keys, durations and sizes as text.
func (c *Config) MarshalJSON() ([]byte, error) {
	var v any
	if err := c.node(nil).Decode(&v); err != nil {
		return nil, fmt.Errorf("config: encode: %w", err)
	}
	return json.Marshal(v)
}

// node is the tree of the configuration. visit, if not nil, is called with the
// node of each value.
func (c *Config) node(visit func(path, *yaml.Node)) *yaml.Node {
	if visit == nil {
		visit = func(path, *yaml.Node) {}
	}
	shown := *c
	root := tree()
	root.sub = slices.DeleteFunc(root.sub, func(s *shape) bool {
		return s.name == "broker" && len(shown.Broker.URLs) == 0 || s.name == "embedded" && len(shown.Broker.URLs) > 0
	})
	n := encode(reflect.ValueOf(shown), root, nil, visit)
	if n == nil {
		n = &yaml.Node{Kind: yaml.MappingNode}
	}
	return n
}

// encode is the node of a value that the shape describes; nil if it is not set.
func encode(v reflect.Value, s *shape, p path, visit func(path, *yaml.Node)) *yaml.Node {
	var n *yaml.Node
	switch s.kind.form {
	case section:
		return encodeSection(v, s, p, visit)
	case table:
		return encodeTable(v, s, p, visit)
	case list:
		if v.Len() == 0 {
			return nil
		}
		n = &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for i := range v.Len() {
			n.Content = append(n.Content, encodeItem(v.Index(i), *s.kind.values))
		}
	case number:
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				return nil
			}
			v = v.Elem()
		}
		n = scalarNode(s.kind.showFunc(v.Int()), "!!int")
	case quantity:
		if v.Int() == 0 && s.def == "" {
			return nil
		}
		n = scalarNode(s.kind.showFunc(v.Int()), "!!str")
	case text, literal:
		if v.String() == "" {
			return nil
		}
		n = scalarNode(v.String(), "!!str")
		if len(v.String()) == 1 && s.kind.form == literal {
			n.Tag = "!!int" // a level, not the text "9"
		}
	}
	visit(p, n)
	return n
}

// encodeItem is the node of one item of a list.
func encodeItem(v reflect.Value, k kind) *yaml.Node {
	if k.form == quantity {
		return scalarNode(k.showFunc(v.Int()), "!!str")
	}
	return scalarNode(v.String(), "!!str")
}

// scalarNode puts text of several lines into quotes: as a block, text that
// begins with a line end would be written so that it cannot be read again.
func scalarNode(value, tag string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value}
	if strings.ContainsAny(value, "\r\n\u0085\u2028\u2029") {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// encodeSection encodes a struct, or a map of them.
func encodeSection(v reflect.Value, s *shape, p path, visit func(path, *yaml.Node)) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	add := func(name string, sub *yaml.Node) {
		if sub != nil {
			n.Content = append(n.Content, scalarNode(name, "!!str"), sub)
		}
	}
	if s.any != nil {
		named := asMap(v)
		for _, name := range slices.Sorted(maps.Keys(named)) {
			add(name, encode(named[name], s.any, p.to(name), visit))
		}
	}
	for _, sub := range s.sub {
		add(sub.name, encode(field(v, sub.name), sub, p.to(sub.name), visit))
	}
	if len(n.Content) == 0 {
		return nil
	}
	return n
}

func encodeTable(v reflect.Value, s *shape, p path, visit func(path, *yaml.Node)) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	values := asMap(v)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value := values[name].String()
		if s.name == "env" && looksSecret(name) {
			value = hidden
		}
		item := scalarNode(value, "!!str")
		visit(p.to(name), item)
		n.Content = append(n.Content, scalarNode(name, "!!str"), item)
	}
	if len(n.Content) == 0 {
		return nil
	}
	return n
}

func asMap(v reflect.Value) map[string]reflect.Value {
	m := make(map[string]reflect.Value, v.Len())
	for it := v.MapRange(); it.Next(); {
		m[it.Key().String()] = it.Value()
	}
	return m
}

// field is the field of a struct that has the key's name; each key has one.
func field(v reflect.Value, name string) reflect.Value {
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("koanf") == name {
			return v.Field(i)
		}
	}
	return reflect.Value{}
}
