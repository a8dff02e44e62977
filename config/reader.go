package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// What aliases may make of a file at most. Neither is near for a file that
// people write.
const (
	maxNodes = 50_000
	maxMerge = 8
)

// layer is what one source says, checked key by key.
type layer struct {
	values map[string]any  // nested; leaves have the type of their field
	marks  map[string]mark // by path.id: where all that is mentioned stands
	broken map[string]bool // by path.id: a value that a problem was reported for
	report func(Problem)
}

// mark is a place that a problem can be reported at.
type mark struct {
	origin  Origin
	problem func(Problem)
}

func newLayer(report func(Problem)) *layer {
	return &layer{values: map[string]any{}, marks: map[string]mark{}, broken: map[string]bool{}, report: report}
}

// reader checks the nodes of one file against the table of keys.
type reader struct {
	*layer
	source *source
	root   *shape
	nodes  int  // visited, through aliases as well
	full   bool // there were too many: the rest is not read
}

// read checks a whole file.
func (l *layer) read(s *source, root *shape) {
	n, ok := s.parse()
	if !ok {
		l.broken[""] = true
		return
	}
	if n == nil {
		return
	}
	r := &reader{layer: l, source: s, root: root}
	if n = r.resolve(n); n.Kind == yaml.MappingNode || isNull(n) {
		r.section(n, root, nil, l.values)
		return
	}
	l.broken[""] = true
	r.problem(n, nil, "a configuration is a mapping of sections, this is "+describe(n), "write it as in engine: {slots: 32}; the sections are "+strings.Join(root.names(), ", "))
}

// problem reports what is wrong with the value of p.
func (r *reader) problem(n *yaml.Node, p path, message, hint string) {
	r.broken[p.id()] = true
	r.tell(n, Problem{Path: p.String(), Message: message, Hint: hint})
}

// tell reports what is wrong at n.
func (r *reader) tell(n *yaml.Node, p Problem) {
	if !r.full {
		r.source.problem(n.Line, n.Column, p)
	}
}

// mark notes where a path is mentioned: problems with it are shown at n.
func (r *reader) mark(p path, n *yaml.Node) {
	r.marks[p.id()] = mark{
		origin: Origin{File: r.source.file, Line: n.Line, Column: n.Column},
		problem: func(problem Problem) {
			problem.Path = p.String()
			r.source.problem(n.Line, n.Column, problem)
		},
	}
}

// section reads a mapping that the table describes, into values.
func (r *reader) section(n *yaml.Node, s *shape, p path, into map[string]any) {
	for _, e := range r.entries(n, p, 0) {
		name := e.key.Value
		at := p.to(name)
		below := s.below(name)
		switch {
		case below == nil:
			r.unknown(e.key, s, p)
			continue
		case below == s.any && !r.name(e.key, at, below.kind.names):
			continue
		}
		r.mark(at, e.key)
		if below.kind.form != section {
			if v, ok := r.value(e.value, at, below.kind); ok {
				into[name] = v
			}
			continue
		}
		value := r.resolve(e.value)
		if value.Kind != yaml.MappingNode && !isNull(value) {
			r.problem(value, at, at.String()+" is "+describe(value)+"; it must be a mapping", sectionHint(value, below))
			continue
		}
		sub := map[string]any{}
		r.section(value, below, at, sub)
		into[name] = sub
	}
}

// sectionHint says what to write where n stands and a section should.
func sectionHint(n *yaml.Node, s *shape) string {
	switch {
	case s.any == nil && n.Kind == yaml.ScalarNode && strings.Contains(n.Value, ":"):
		return "put a space after the colon"
	case s.any == nil && n.Kind == yaml.ScalarNode && len(s.sub) == 1:
		return fmt.Sprintf("write {%s: %s}", s.sub[0].name, n.Value)
	case s.any != nil:
		return "write a name, a colon, and below it " + strings.Join(s.any.names(), ", ")
	}
	return "its keys are " + strings.Join(s.names(), ", ")
}

// unknown reports a key that is not in the table.
func (r *reader) unknown(n *yaml.Node, s *shape, p path) {
	problem := unknownKey(r.root, s, p, n.Value)
	if problem.meant != nil {
		r.broken[problem.meant.id()] = true
	}
	r.broken[p.to(n.Value).id()] = true
	r.tell(n, problem.Problem)
}

// unknownProblem is what is said of an unknown key, and the key of the same
// section that it was probably meant to be.
type unknownProblem struct {
	Problem
	meant path
}

func unknownKey(root, s *shape, p path, name string) unknownProblem {
	u := unknownProblem{Problem: Problem{Path: p.to(name).String(), Message: "unknown key " + quote(name), Hint: "the keys here are " + strings.Join(s.names(), ", ")}}
	meant, here := s.suggest(root, p, name)
	switch {
	case here:
		u.meant = meant
		u.Message += fmt.Sprintf(" (did you mean %q?)", meant[len(meant)-1])
	case looksSecret(name) || slices.Contains([]string{"login", "user", "username"}, plain(name)):
		u.Hint = fmt.Sprintf("secrets stand in no file; they are the environment variables %s, %s, %s, %s, %s and %s", LoginVariable, PasscodeVariable, TokenVariable, WatchKeysVariable, GatewayVariable, WebhookVariable)
	case meant != nil:
		u.Message += fmt.Sprintf(" (did you mean %s?)", meant)
	}
	return u
}

// name checks a name that the user chose.
func (r *reader) name(n *yaml.Node, p path, k *kind) bool {
	if _, err := k.parseFunc(n.Value); err != nil {
		r.problem(n, p, "the name "+quote(n.Value)+" cannot be used; it must be "+k.words, err.Error())
		return false
	}
	return true
}

// value reads what is no section.
func (r *reader) value(n *yaml.Node, p path, k kind) (any, bool) {
	n = r.resolve(n)
	switch k.form {
	case list:
		return r.list(n, p, k)
	case table:
		return r.table(n, p, k)
	case section, text, number, quantity, literal:
	}
	if n.Kind != yaml.ScalarNode || isNull(n) {
		r.problem(n, p, p.String()+" is "+describe(n)+"; it must be "+k.words, example(k))
		return nil, false
	}
	if hint, ok := k.takes(n); !ok {
		r.problem(n, p, fmt.Sprintf("%s is %s, %s; it must be %s", p, quote(n.Value), describe(n), k.words), hint)
		return nil, false
	}
	v, err := k.parseFunc(n.Value)
	if err != nil {
		problem := wrongValue(p, n.Value, k, err)
		r.problem(n, p, problem.Message, problem.Hint)
		return nil, false
	}
	return v, true
}

// takes says whether a scalar of this YAML type can be of the kind, and what to
// do if not.
func (k kind) takes(n *yaml.Node) (hint string, ok bool) {
	tag := n.ShortTag()
	switch k.form {
	case number:
		if tag == "!!str" && n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
			return "remove the quotes", false
		}
	case text:
		if tag != "!!str" {
			if _, err := k.parseFunc(n.Value); err != nil {
				return wrongValue(nil, n.Value, k, err).Hint, false
			}
			return fmt.Sprintf("put it in quotes: %q", n.Value), false
		}
	case section, quantity, literal, list, table:
	}
	return "", true
}

func wrongValue(p path, value string, k kind, err error) Problem {
	shown := " is " + quote(value)
	if strings.Contains(value, "@") {
		shown = " has a wrong value"
	}
	hint := err.Error()
	if hint == "" {
		hint = example(k)
	}
	return Problem{Path: p.String(), Message: p.String() + shown + "; it must be " + k.words, Hint: hint}
}

func example(k kind) string {
	if k.like == "" {
		return ""
	}
	return "for example " + k.like
}

func (r *reader) list(n *yaml.Node, p path, k kind) (any, bool) {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		r.problem(n, p, p.String()+" is "+describe(n)+"; it must be "+k.words, example(k))
		return nil, false
	}
	items, whole := make([]string, 0, len(n.Content)), true
	for i, c := range n.Content {
		v, ok := r.value(c, p.to(strconv.Itoa(i)), *k.values)
		if !ok {
			whole = false
			continue
		}
		items = append(items, fmt.Sprint(v))
	}
	if !whole {
		r.broken[p.id()] = true
	}
	return items, whole
}

func (r *reader) table(n *yaml.Node, p path, k kind) (any, bool) {
	values := map[string]any{}
	if isNull(n) {
		return values, true
	}
	if n.Kind != yaml.MappingNode {
		r.problem(n, p, p.String()+" is "+describe(n)+"; it must be "+k.words, example(k))
		return nil, false
	}
	for _, e := range r.entries(n, p, 0) {
		at := p.to(e.key.Value)
		if !r.name(e.key, at, k.names) {
			continue
		}
		r.mark(at, e.key)
		if v, ok := r.value(e.value, at, *k.values); ok {
			values[e.key.Value] = v
		}
	}
	return values, true
}

// entry is one key of a mapping with its value.
type entry struct{ key, value *yaml.Node }

// entries are the keys of a mapping, with those that << merges into it; keys of
// the mapping itself win. Keys that occur twice, and what is no key, are reported.
func (r *reader) entries(n *yaml.Node, p path, depth int) []entry {
	var own, merged []entry
	seen := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content) && !r.full; i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge" {
			merged = append(merged, r.merged(value, p, depth)...)
			continue
		}
		key = r.resolve(key)
		if key.Kind != yaml.ScalarNode {
			r.problem(n.Content[i], p, "a key cannot be "+describe(key), "write it as in name: value")
			continue
		}
		if first := seen[key.Value]; first != nil {
			r.tell(key, Problem{
				Path: p.to(key.Value).String(), Message: "the key " + quote(key.Value) + " occurs twice",
				Hint: fmt.Sprintf("it is set in line %d already: remove one of them", first.Line),
			})
			continue
		}
		seen[key.Value] = key
		own = append(own, entry{key, value})
	}
	for _, e := range merged {
		if seen[e.key.Value] == nil {
			seen[e.key.Value] = e.key
			own = append(own, e)
		}
	}
	return own
}

// merged are the entries that the value of << stands for.
func (r *reader) merged(n *yaml.Node, p path, depth int) []entry {
	target := r.resolve(n)
	switch {
	case depth == maxMerge:
		r.problem(n, p, fmt.Sprintf("<< is nested more than %d deep", maxMerge), "write the values out")
	case target.Kind == yaml.MappingNode:
		return r.entries(target, p, depth+1)
	case target.Kind == yaml.SequenceNode && n.Kind != yaml.AliasNode:
		var all []entry
		for _, c := range target.Content {
			if !r.full {
				all = append(all, r.merged(c, p, depth+1)...)
			}
		}
		return all
	default:
		r.problem(n, p, "<< needs an alias of a mapping, this is "+describe(target), "write it as in <<: *base")
	}
	return nil
}

// resolve follows an alias. It counts, and ends the reading when aliases have
// made too much of the file.
func (r *reader) resolve(n *yaml.Node) *yaml.Node {
	if n.Style&yaml.TaggedStyle != 0 {
		r.tell(n, Problem{Message: "the tag " + quote(n.Tag) + " is not used here", Hint: "remove it"})
	}
	if r.nodes++; r.nodes > maxNodes {
		r.problem(n, nil, fmt.Sprintf("the file has more than %d values", maxNodes), "do aliases multiply here? Write fewer of them")
		r.full = true
	}
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// describe says what a node is.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		if len(n.Content) == 0 {
			return "an empty list"
		}
		return "a list"
	case yaml.ScalarNode, yaml.AliasNode, yaml.DocumentNode:
	}
	switch n.ShortTag() {
	case "!!null":
		return "empty"
	case "!!bool":
		return "a boolean"
	case "!!int", "!!float":
		return "a number"
	case "!!timestamp":
		return "a date"
	}
	return "text"
}
