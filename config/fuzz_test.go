package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// Whatever a file or a variable holds: Load ends, tells places that exist, and
// what it accepts it can show and accept again.
func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"../deploy/samples/*.yaml", "testdata/bad.txt"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			for part := range strings.SplitSeq(string(content), "\n=== ") {
				_, part, _ = strings.Cut(part, "\n")
				part, _, _ = strings.Cut(part, ">>>")
				f.Add(part, "USHER__ENGINE__SLOTS=3", "engine.window", "5")
			}
		}
	}
	f.Add("types:\n  t: &a {<<: [*a, *a]}\n", "USHER__BROKER__URLS=stomp://a", "", "")
	f.Fuzz(func(t *testing.T, content, variable, flag, value string) {
		if len(content) > maxSearchBytes {
			return
		}
		cfg, err := Load(Options{
			Default: []byte(content), DefaultName: "usher.yaml", Environ: []string{variable}, Flags: map[string]any{flag: value},
		})
		if err != nil {
			problems, ok := errors.AsType[Errors](err)
			if !ok || len(problems) == 0 {
				t.Fatalf("%T: %v", err, err)
			}
			for _, p := range problems {
				checkProblem(t, p, content)
			}
			return
		}
		shown, err := Marshal(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(shown), hidden) {
			return // a plugin's secret is not shown, so it is not what it was
		}
		again, err := Load(Options{Default: shown, DefaultName: "shown.yaml"})
		if err != nil {
			t.Fatalf("%s\n%v", shown, err)
		}
		if twice, err := Marshal(again); err != nil || string(twice) != string(shown) {
			t.Fatalf("%v\n%s\nis shown again as\n%s", err, shown, twice)
		}
	})
}

func checkProblem(t *testing.T, p Problem, content string) {
	t.Helper()
	text := Errors{p}.Format(false)
	for _, r := range text {
		if r != '\n' && (r < ' ' || r == 0x7f || r == '\u202e') {
			t.Fatalf("a control character: %q", text)
		}
	}
	if !utf8.ValidString(text) || p.Message == "" || p.File == "" {
		t.Fatalf("%+v: %q", p, text)
	}
	if lines := splitLines(strings.TrimPrefix(content, "\ufeff")); p.File == "usher.yaml" && (p.Line < 1 || p.Line > len(lines)+1 || p.Column < 1) {
		t.Fatalf("%d:%d is no place in %q", p.Line, p.Column, content)
	}
}
