package main

import (
	"bytes"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// promises are the tests that pages name, and those that there are.
type promises struct {
	named []finding       // each with the name as what
	there map[string]bool // by name
}

var (
	testName = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]*)`")
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]*)\(`)
)

// read notes what a file names, or has.
func (p *promises) read(name string, text []byte) {
	if p.there == nil {
		p.there = map[string]bool{}
	}
	switch {
	case strings.HasSuffix(name, "_test.go"):
		for _, found := range testFunc.FindAllSubmatch(text, -1) {
			p.there[string(found[1])] = true
		}
	case path.Ext(name) == ".md":
		for i, line := range bytes.Split(text, []byte("\n")) {
			for _, found := range testName.FindAllSubmatch(line, -1) {
				p.named = append(p.named, finding{name, i + 1, string(found[1])})
			}
		}
	}
}

// broken are the names of tests that are not there.
func (p *promises) broken() []finding {
	var all []finding
	for _, n := range p.named {
		if !p.there[n.what] {
			all = append(all, finding{n.file, n.line, "there is no test " + n.what + nearest(n.what, slices.Sorted(maps.Keys(p.there)))})
		}
	}
	return all
}

// nearest suggests a test that begins alike.
func nearest(name string, all []string) string {
	for n := len(name) - 1; n > 12; n-- {
		for _, other := range all {
			if strings.HasPrefix(other, name[:n]) {
				return "; there is " + other
			}
		}
	}
	return ""
}
