package config

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Problem is one thing that is wrong in a configuration.
type Problem struct {
	// File is the file's name as it was given to Load. For a problem that is in
	// no file it is "environment NAME" or "flag KEY", and Line and Column are 0.
	File string `json:"file"`
	// Line and Column count from 1, columns in characters. Line 0: the whole file.
	Line   int `json:"line,omitempty"`
	Column int `json:"column,omitempty"`
	// Path is the key, for example "types.order.rush.timeout"; empty if the
	// problem is with no key.
	Path string `json:"path,omitempty"`
	// Message says what is wrong, Hint what to do.
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	// Warning says that the configuration loads all the same.
	Warning bool `json:"warning,omitempty"`

	excerpt []string // the line before, the line, the line after
	first   int      // the number of the first of them
}

// Errors are all the problems of one Load, by file and line.
type Errors []Problem

// Error is Format without colour.
func (e Errors) Error() string { return strings.TrimSuffix(e.Format(false), "\n") }

// Format lays the problems out as compilers do: place and message, the lines
// around it with a mark under the column, and what to do. color adds terminal
// colours.
func (e Errors) Format(color bool) string {
	var b strings.Builder
	errs := 0
	for i, p := range e {
		if i > 0 {
			b.WriteByte('\n')
		}
		p.format(&b, painter(color))
		if !p.Warning {
			errs++
		}
	}
	if errs > 1 {
		fmt.Fprintf(&b, "\n%d errors\n", errs)
	}
	return b.String()
}

func (p Problem) format(b *strings.Builder, paint painter) {
	place := p.File
	if p.Line > 0 {
		place = fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
	}
	severity := paint.red("error:")
	if p.Warning {
		severity = paint.yellow("warning:")
	}
	fmt.Fprintf(b, "%s %s %s\n", paint.bold(printable(place)+":"), severity, p.Message)
	width := len(strconv.Itoa(p.first + len(p.excerpt)))
	for i, line := range p.excerpt {
		text, shift := window(line, p.Column)
		fmt.Fprintf(b, "%s\n", strings.TrimRight(fmt.Sprintf(" %*d | %s", width, p.first+i, text), " "))
		if p.first+i == p.Line {
			fmt.Fprintf(b, " %*s | %s%s\n", width, "", strings.Repeat(" ", max(p.Column-1-shift, 0)), paint.red("^"))
		}
	}
	if p.Hint != "" {
		fmt.Fprintf(b, " %*s = %s\n", width, "", p.Hint)
	}
}

// window cuts a long line down to what is around the column, and says by how
// many characters what is left has moved.
func window(line string, column int) (text string, shift int) {
	const width = 120
	runes := []rune(line)
	shift = max(0, min(column-width/2, len(runes)-width))
	return string(runes[shift:min(len(runes), shift+width)]), shift
}

type painter bool

func (p painter) bold(s string) string   { return p.wrap("1", s) }
func (p painter) red(s string) string    { return p.wrap("1;31", s) }
func (p painter) yellow(s string) string { return p.wrap("1;33", s) }

func (p painter) wrap(code, s string) string {
	if !p {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// printable shows tabs as arrows, and no other control character.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return '→'
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r):
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// quote shows a value in a message.
func quote(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return fmt.Sprintf("%q…", string(r[:most]))
	}
	return fmt.Sprintf("%q", s)
}

// secretWords are what the names of secrets contain. A name with a dot is that
// of a message type.
const secretWords = `(?i:passw|passcode|passphrase|token|secret|credential|api_?key|private_?key)`

var (
	secretName = regexp.MustCompile(secretWords)
	secretLine = regexp.MustCompile(`^((?:.*?[\s{,"'\[])??[\w-]*` + secretWords + `[\w-]*["']?\s*[:=])(.*)$`)
	userinfo   = regexp.MustCompile(`://[^/\s@"']*@`)
)

// masked are the lines as they may be shown: without the values of keys that
// look like secrets, and without what stands before the @ of a URL.
func masked(lines []string) []string {
	out := make([]string, len(lines))
	hidden := -1 // the indentation of the secret whose value goes on, or -1
	for i, line := range lines {
		indent := len(line) - len(strings.TrimLeft(line, " \t"))
		m := secretLine.FindStringSubmatch(line)
		switch {
		case hidden >= 0 && (indent > hidden || strings.TrimSpace(line) == ""):
			line = line[:indent] + "***"
		case m != nil:
			hidden, line = indent, m[1]
			if m[2] != "" {
				line += " ***"
			}
		default:
			hidden = -1
			line = userinfo.ReplaceAllString(line, "://***@")
		}
		out[i] = printable(line)
	}
	return out
}

// looksSecret says whether a name is that of a secret.
func looksSecret(name string) bool {
	return secretName.MatchString(name) && !strings.Contains(name, ".")
}

// inOrder sorts by file in the order of files, then by line and column.
func (e Errors) inOrder(files []string) {
	slices.SortStableFunc(e, func(a, b Problem) int {
		place := func(p Problem) int {
			if i := slices.Index(files, p.File); i >= 0 {
				return i
			}
			return len(files)
		}
		return cmp.Or(cmp.Compare(place(a), place(b)), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.File, b.File))
	})
}
