package main

import (
	"bytes"
	"path"
	"regexp"
	"slices"
	"strings"
)

// rule forbids a pattern in some files.
type rule struct {
	pattern *regexp.Regexp
	in      func(name string) bool
	what    string
}

// The patterns are written with one-letter classes where they would find
// themselves, or be found by a plain search for the word.
var rules = []rule{
	{
		regexp.MustCompile(`(?:proxy|sum)[.]g[o]lang|registry[.]n[p]mjs|p[y]thonhosted|p[y]pi[.]org|repo1?[.]m[a]ven|deb[.]d[e]bian|(?:static|index)[.]cr[a]tes`),
		anyFile,
		"names a package registry's host: leave the choice to the client's own settings",
	},
	{
		regexp.MustCompile(`(?:^|[^\w.-])/(?:[r]oot|[w]ork|[f]arm|[h]ome/\w+)/`),
		anyFile,
		"names a path of one machine: use a relative path, or one from the environment",
	},
	{
		regexp.MustCompile(`\b[tb]\.S[k]ip(?:f|Now)?\(`),
		testFile,
		"skips a test: what cannot be reached must fail",
	},
	{
		regexp.MustCompile(`\btime\.S[l]eep\(`),
		testFile,
		"sleeps in a test: wait for the event with a deadline; in a synctest bubble, receive from time.After",
	},
	{
		regexp.MustCompile(`\b(?:T[O]DO|F[I]XME|X[X]X)\b|(?i:\bnot i[m]plemented\b)`),
		sourceFile,
		"left open: do it, or write an issue",
	},
}

// suite matches the packages that tests call to be tested.
var suite = regexp.MustCompile(`(?:engine|handler|plugin)test/`)

func anyFile(string) bool { return true }

// testFile says whether the file belongs to tests: a _test.go file or part of
// a conformance suite.
func testFile(name string) bool {
	return strings.HasSuffix(name, "_test.go") ||
		strings.HasSuffix(name, ".go") && (suite.MatchString(name))
}

// sourceFile says whether the file is code or configuration that people write,
// as opposed to prose, data and what a generator writes.
func sourceFile(name string) bool {
	if strings.HasSuffix(name, ".pb.go") {
		return false
	}
	code := []string{".go", ".py", ".js", ".ts", ".sh", ".proto", ".yaml", ".yml", ".sql", ".html", ".css", ".xml"}
	return slices.Contains(code, path.Ext(name)) || slices.Contains([]string{"Makefile", "Dockerfile", "run"}, path.Base(name))
}

// checkWords returns the lines that hold what a rule forbids.
func checkWords(name string, text []byte) []finding {
	var found []finding
	for _, r := range rules {
		if !r.in(name) {
			continue
		}
		number := 0
		for line := range bytes.Lines(text) {
			number++
			if r.pattern.Match(line) {
				found = append(found, finding{name, number, r.what})
			}
		}
	}
	return found
}
