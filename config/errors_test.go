package config

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the expected texts anew; read the difference")

// badCase is one configuration of testdata/bad.txt, with what is said of it:
//
//	=== name
//	$ VARIABLE=value        any number of them
//	! flag=value            likewise
//	the YAML
//	>>>
//	what Load says
type badCase struct {
	name, input, want string
	options           Options
}

func badCases(t *testing.T) []badCase {
	t.Helper()
	all, err := os.ReadFile("testdata/bad.txt")
	if err != nil {
		t.Fatal(err)
	}
	var cases []badCase
	for _, part := range strings.Split("\n"+string(all), "\n=== ")[1:] {
		name, rest, _ := strings.Cut(part, "\n")
		input, want, found := strings.Cut(rest, ">>>")
		if !found {
			t.Fatalf("%s has no >>>", name)
		}
		c := badCase{name: name, input: input, want: strings.Trim(want, "\n")}
		c.options.DefaultName, c.options.Flags = "usher.yaml", map[string]any{}
		yaml := input
		for {
			line, after, _ := strings.Cut(yaml, "\n")
			if v, ok := strings.CutPrefix(line, "$ "); ok {
				c.options.Environ = append(c.options.Environ, v)
			} else if v, ok := strings.CutPrefix(line, "! "); ok {
				key, value, _ := strings.Cut(v, "=")
				c.options.Flags[key] = value
			} else {
				break
			}
			yaml = after
		}
		c.options.Default = []byte(yaml)
		cases = append(cases, c)
	}
	return cases
}

func TestBadConfigurations(t *testing.T) {
	cases := badCases(t)
	if len(cases) < 40 {
		t.Fatalf("there are %d cases", len(cases))
	}
	var anew strings.Builder
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := Load(c.options)
			if err == nil {
				t.Fatalf("it loads: %+v", cfg)
			}
			if cfg != nil {
				t.Error("an error and a configuration")
			}
			if i > 0 {
				anew.WriteString("\n")
			}
			fmt.Fprintf(&anew, "=== %s\n%s>>>\n%s\n", c.name, c.input, err)
			if got := err.Error(); got != c.want && !*update {
				t.Errorf("got:\n%s\n\nwant:\n%s", got, c.want)
			}
		})
	}
	if *update && !t.Failed() {
		if err := os.WriteFile("testdata/bad.txt", []byte(anew.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Each problem that is in a file shows the line it names, with the mark below
// the column; and each says what to do.
func TestEachProblemPointsAtItsColumnAndHelps(t *testing.T) {
	for _, c := range badCases(t) {
		_, err := Load(c.options)
		problems, ok := err.(Errors)
		if !ok {
			t.Fatalf("%s: %v", c.name, err)
		}
		lines := splitLines(string(c.options.Default))
		for _, p := range problems {
			text := Errors{p}.Error()
			if strings.TrimSpace(p.Message) == "" || p.Hint == "" && !strings.Contains(p.Message, "it must be") {
				t.Errorf("%s: no help:\n%s", c.name, text)
			}
			if p.Line == 0 {
				if !strings.HasPrefix(text, "environment USHER__") && !strings.HasPrefix(text, "flag ") {
					t.Errorf("%s: no place:\n%s", c.name, text)
				}
				continue
			}
			mark := regexp.MustCompile(`(?m)^( *\d+ \| )(.*)\n( *\| *)\^$`).FindStringSubmatch(text)
			if mark == nil {
				t.Errorf("%s: no mark:\n%s", c.name, text)
				continue
			}
			if at := len(mark[3]) - len(mark[1]) + 1; at != p.Column || p.Line > len(lines) {
				t.Errorf("%s: the mark is in column %d, not %d:\n%s", c.name, at, p.Column, text)
			}
		}
	}
}

func TestFilesThatCannotBeReadAreAllNamed(t *testing.T) {
	dir := t.TempDir()
	bad := writeFile(t, dir, "bad.yaml", "engin: {}\n")
	long := writeFile(t, dir, "long.yaml", strings.Repeat("#\n", maxFileBytes))
	_, err := Load(Options{Files: []string{dir + "/none.yaml", dir, bad, long}, Environ: []string{"USHER__LOG__LEVEL=loud"}})
	want := strings.ReplaceAll(`DIR/none.yaml: error: cannot be read: no such file or directory
   = check the name of the file and who may read it

DIR: error: cannot be read: is a directory
   = check the name of the file and who may read it

DIR/bad.yaml:1:1: error: unknown key "engin" (did you mean "engine"?)
 1 | engin: {}
   | ^
   = the keys here are engine, starvation, types, plugins, broker, embedded, records, server, notify, monitor, metrics, log, traces, unknownType

DIR/long.yaml: error: is over 1MiB
   = a configuration is a few KiB: is this the right file?

environment USHER__LOG__LEVEL: error: log.level is "loud"; it must be one of trace, debug, info, warn, error
   = for example info

5 errors`, "DIR", dir)
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

// A file that is broken may hold what another one needs.
func TestNothingIsMissingWhenAFileIsBroken(t *testing.T) {
	dir := t.TempDir()
	a := writeFile(t, dir, "a.yaml", "types: {t: {plugin: p}}\n")
	b := writeFile(t, dir, "b.yaml", "plugins: {p: {command: [p]}\n")
	_, err := Load(Options{Files: []string{a, b}})
	if problems, ok := err.(Errors); !ok || len(problems) != 1 || problems[0].File != b {
		t.Errorf("got:\n%v", err)
	}
}

func TestUnreadableCharacters(t *testing.T) {
	for name, c := range map[string]struct{ content, want string }{
		"NUL":                 {"a: 1\nb\x00: 2", "usher.yaml:2:2: error: the character U+0000 is not allowed"},
		"escape sequence":     {"engine: \"\x1b[31m\"", "usher.yaml:1:10: error: the character U+001B is not allowed"},
		"not UTF-8":           {"é: \xff", "usher.yaml:1:4: error: the byte 0xff is not UTF-8"},
		"UTF-16":              {"\xff\xfea\x00", "usher.yaml:1:1: error: the file is in UTF-16"},
		"second BOM":          {"\ufeff\ufeff", "usher.yaml:1:1: error: the character U+FEFF is not allowed"},
		"BOM is no column":    {"\ufeffengin: {}", "usher.yaml:1:1: error: unknown key"},
		"columns are letters": {"engine: {\"é\": 1, slot: 2}", "usher.yaml:1:18: error: unknown key \"slot\""},
		"Windows line ends":   {"engine:\r\n  slots: 1\r\n  slot: 2\r\n", "usher.yaml:3:3: error: unknown key \"slot\""},
		"Macintosh line ends": {"engine:\r  slots: 1\r  slot: 2\r", "usher.yaml:3:3: error: unknown key \"slot\""},
		"other line ends":     {"engine:\u2028  slots: 1\u0085  slot: 2", "usher.yaml:3:3: error: unknown key \"slot\""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(fromText(c.content))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got:\n%v\nwant: %s", err, c.want)
			}
			if strings.ContainsAny(err.Error(), "\x00\x1b\r") {
				t.Errorf("control characters reach the terminal: %q", err)
			}
		})
	}
}

func TestErrorsShowNoSecrets(t *testing.T) {
	for name, o := range map[string]Options{
		"key":            fromText("broker:\n  passcode: hunter2\n  queu: x\n"),
		"quoted key":     fromText("broker: {\"password\": \"hunter2\", queu: x}\n"),
		"block":          fromText("token: |\n  hunter2\n\n  hunter2\nqueu: x\n"),
		"below":          fromText("secret:\n  value: hunter2\n"),
		"URL":            fromText("broker:\n  urls:\n    - stomp://joe:hunter2@h\n    - x\n"),
		"beside a typo":  fromText("broker:\n  queu: x\n  api_key: hunter2\n"),
		"broken YAML":    fromText("broker:\n  passcode: hunter2\n queue: x\n"),
		"variable":       {Environ: []string{"USHER__BROKER__PASSCODE=hunter2", "USHER__BROKER__URLS=stomp://joe:hunter2@h,http://joe:hunter2@h"}},
		"plugin's":       fromText("plugins:\n  p:\n    env: {STRIPE_SECRET: hunter2, bad-name: 1}\n"),
		"plugin's value": fromText("plugins:\n  p:\n    command: [p]\n    env: {API_TOKEN: [hunter2]}\n"),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(o)
			if err == nil {
				t.Fatal("it loads")
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("it shows the secret:\n%v", err)
			}
		})
	}
	// A type is no secret, whatever its name.
	_, err := Load(fromText("types:\n  token.refresh:\n    plugn: visible\n"))
	if !strings.Contains(err.Error(), "visible") {
		t.Errorf("a type is hidden:\n%v", err)
	}
}

func TestLongLinesAreCut(t *testing.T) {
	_, err := Load(fromText("log: {level: info, " + strings.Repeat(" ", 500) + "lvl: x," + strings.Repeat(" ", 500) + "}"))
	problems, ok := err.(Errors)
	if !ok || len(problems) != 1 || problems[0].Column != 520 {
		t.Fatalf("got:\n%v", err)
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines[1]) > 140 || !strings.HasPrefix(lines[1][strings.IndexByte(lines[2], '^'):], "lvl: x,") {
		t.Errorf("got:\n%v", err)
	}
}

func TestColours(t *testing.T) {
	_, err := Load(fromText("engin: {}"))
	problems, _ := err.(Errors)
	plain, coloured := problems.Format(false), problems.Format(true)
	if strings.Contains(plain, "\x1b") || !strings.Contains(coloured, "\x1b[1;31merror:\x1b[0m") {
		t.Errorf("%q\n%q", plain, coloured)
	}
	if stripped := regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(coloured, ""); stripped != plain {
		t.Errorf("colours change the text: %q", stripped)
	}
}

// What aliases, nesting and sheer length can do to a parser ends in time, with
// an error and not with all the memory.
func TestHostileFilesEndSoon(t *testing.T) {
	var laughs, merges strings.Builder
	laughs.WriteString("a: &a [x,x,x,x,x,x,x,x,x]\n")
	merges.WriteString("types:\n  t0: &t0 {plugin: p}\n")
	for i := range 25 {
		fmt.Fprintf(&laughs, "%c: &%c [%s]\n", 'b'+i, 'b'+i, strings.Repeat(fmt.Sprintf("*%c,", 'a'+i), 9))
		fmt.Fprintf(&merges, "  t%d: &t%d {<<: [%s]}\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*t%d,", i), 99))
	}
	fill := func(unit string) string { return strings.Repeat(unit, maxFileBytes/4/len(unit)) }
	searched := func(unit string) string { return strings.Repeat(unit, maxSearchBytes/len(unit)) }
	var types strings.Builder
	for i := 0; types.Len() < maxFileBytes-100; i++ {
		fmt.Fprintf(&types, "  t%d: {plugin: p%d}\n", i, i)
	}
	for name, content := range map[string]string{
		"billion laughs": laughs.String(), "merges": merges.String(), "cycle": "types: &a {t: {<<: [*a, *a, *a, *a, *a, *a, *a, *a]}}",
		"alias of itself": "plugins: &a {p: {command: &b [*b], env: *a, files: *a}}",
		"brackets":        fill("["), "braces": fill("{a: "), "dashes": fill("- "), "questions": fill("?\n"), "quotes": fill("\" "),
		"keys": strings.Repeat("a:\n", maxFileBytes/3), "empty lists": "types: [" + fill("[],"), "one line": "a: " + fill("token "), "secrets": fill("token: x\n"),
		"many types": "types:\n" + types.String(), "many aliases": "a: &a x\nb: [" + fill("*a,"), "unknown": "types:\n  t: {" + fill("a: b, "),
		"searched brackets": searched("["), "searched braces": searched("{a: "), "searched quotes": searched("'a' "), "searched lists": "a: [" + searched("[],")[4:],
		"searched quote": searched("a:\n")[:maxSearchBytes-9] + "b: \"\"\"", "searched aliases": searched("- \n")[:maxSearchBytes-9] + "- *a\n",
		"searched mappings": searched("[{},")[:maxSearchBytes-9],
	} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan error, 1)
			began := time.Now()
			go func() {
				_, err := Load(fromText(content[:min(len(content), maxFileBytes)]))
				if err != nil {
					_ = err.Error()
				}
				ended <- err
			}()
			select {
			case err := <-ended:
				if err == nil {
					t.Error("it loads")
				}
				t.Logf("%v", time.Since(began))
			case <-time.After(30 * time.Second):
				t.Fatal("it did not end")
			}
		})
	}
}
