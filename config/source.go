package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sort"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxFileBytes is the size of the longest file that is read.
const maxFileBytes = 1 << 20

// source is the text of one file.
type source struct {
	file   string // its name as it was given
	text   []byte
	lines  []string // for excerpts: nothing secret, nothing unprintable
	report func(Problem)
}

// IsRemote says whether a name is not of a file but of an object in Amazon S3,
// s3://bucket/key, or of a parameter in AWS Systems Manager, ssm:/name.
func IsRemote(name string) bool {
	return strings.HasPrefix(name, "s3://") || strings.HasPrefix(name, "ssm:")
}

// Read gives what is in one of the Files, at most a byte more than may be in one.
func (o Options) Read(name string) ([]byte, error) {
	if IsRemote(name) {
		if o.RemoteFunc == nil {
			return nil, errors.New("only files are read here")
		}
		return o.RemoteFunc(name, maxFileBytes)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFileBytes+1))
}

// open reads a file, at most maxFileBytes of it.
func open(o Options, name string, report func(Problem)) (*source, bool) {
	text, err := o.Read(name)
	if err != nil {
		if p, ok := errors.AsType[*fs.PathError](err); ok {
			err = p.Err
		}
		report(Problem{File: name, Message: "cannot be read: " + err.Error(), Hint: "check the name of the file and who may read it"})
		return nil, false
	}
	return newSource(name, text, report), true
}

func newSource(name string, content []byte, report func(Problem)) *source {
	content = bytes.TrimPrefix(content, []byte("\ufeff"))
	s := &source{file: name, text: content, report: report}
	if len(content) <= maxFileBytes {
		s.lines = masked(splitLines(string(content)))
	}
	return s
}

// breaks are the line breaks of YAML 1.1, by which the parser counts lines.
var breaks = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n")

func splitLines(s string) []string {
	lines := strings.Split(breaks.Replace(s), "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}

// problem reports what is wrong at a place of the file.
func (s *source) problem(line, column int, p Problem) {
	p.File, p.Line, p.Column = s.file, line, column
	p.first = max(line-1, 1)
	if last := min(line+1, len(s.lines)); p.first <= last {
		p.excerpt = s.lines[p.first-1 : last]
	}
	s.report(p)
}

// parse makes the tree of the file's one document. It is nil if the file is
// empty; false says that a problem was reported.
func (s *source) parse() (*yaml.Node, bool) {
	if !s.readable() {
		return nil, false
	}
	decoder := yaml.NewDecoder(bytes.NewReader(s.text))
	var doc, next yaml.Node
	switch err := decoder.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, true
	case err != nil:
		s.syntax(err)
		return nil, false
	}
	switch err := decoder.Decode(&next); {
	case err == nil:
		s.problem(next.Line, next.Column, Problem{
			Message: "a second document begins here",
			Hint:    "a file is one document: remove the line ---, or make it a second file; later files win",
		})
		return nil, false
	case !errors.Is(err, io.EOF):
		s.syntax(err)
		return nil, false
	}
	return doc.Content[0], true
}

// readable checks what the parser would tell without a place.
func (s *source) readable() bool {
	report := func(offset int, message, hint string) bool {
		line, column := s.place(offset)
		s.problem(line, column, Problem{Message: message, Hint: hint})
		return false
	}
	if len(s.text) > maxFileBytes {
		s.report(Problem{File: s.file, Message: "is over 1MiB", Hint: "a configuration is a few KiB: is this the right file?"})
		return false
	}
	if bytes.HasPrefix(s.text, []byte("\xff\xfe")) || bytes.HasPrefix(s.text, []byte("\xfe\xff")) {
		return report(0, "the file is in UTF-16", "save it as UTF-8")
	}
	for i := 0; i < len(s.text); {
		r, n := utf8.DecodeRune(s.text[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			return report(i, fmt.Sprintf("the byte 0x%02x is not UTF-8", s.text[i]), "save the file as UTF-8")
		case r < ' ' && r != '\t' && r != '\n' && r != '\r', r == 0x7f, r > 0x7f && r < 0xa0 && r != 0x85,
			r >= 0xfffe && r <= 0xffff, r == '\ufeff':
			return report(i, fmt.Sprintf("the character U+%04X is not allowed", r), "remove it, or write it in double quotes with an escape, as in \"\\u001b\"")
		}
		i += n
	}
	return true
}

// place is the line and column of an offset.
func (s *source) place(offset int) (line, column int) {
	before := strings.Split(breaks.Replace(strings.ToValidUTF8(string(s.text[:offset]), "?")), "\n")
	return len(before), utf8.RuneCountInString(before[len(before)-1]) + 1
}

// The place of a syntax error is searched only in a file of at most
// maxSearchBytes, because it costs some 30 more parses; and the quote or bracket
// that was not closed among the last maxOpeners of them.
const (
	maxSearchBytes = 1 << 16
	maxOpeners     = 50
)

// syntax reports what the parser says. It tells at best a line, often where a
// mapping begins and not where it breaks. So the shortest beginning of the text
// is searched that has the same error: its end is the place.
func (s *source) syntax(err error) {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	var line int
	if _, scanErr := fmt.Sscanf(message, "line %d: ", &line); scanErr == nil {
		_, message, _ = strings.Cut(message, ": ")
	}
	said := yamlSays(message)
	line, column := min(max(line, 1), max(len(s.lines), 1)), 1
	if len(s.text) <= maxSearchBytes {
		at := s.breaksAt(err.Error())
		switch {
		case said.part == openQuote:
			at = s.opensAt(`"'`, openQuote, at)
		case said.part == openBracket:
			at = s.opensAt("[{", expected, at)
		case said.part == noAnchor:
			at = max(bytes.LastIndexByte(s.text[:at+1], '*'), 0)
		case s.text[at] == '\t':
			said = yamlSays(tab)
		}
		line, column = s.place(at)
	}
	s.problem(line, column, Problem{Message: said.message, Hint: said.hint})
}

// fault is what the parser says of the first end bytes.
func (s *source) fault(end int) string {
	var doc yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(s.text[:end]))
	err := decoder.Decode(&doc)
	if err == nil {
		err = decoder.Decode(&doc)
	}
	if err == nil {
		return ""
	}
	return err.Error()
}

// breaksAt is the offset of the last character of the shortest beginning of the
// text that has this fault.
func (s *source) breaksAt(fault string) int {
	starts := make([]int, 0, len(s.text))
	for i := range string(s.text) {
		starts = append(starts, i)
	}
	n := sort.Search(len(starts)-1, func(n int) bool { return s.fault(starts[n+1]) == fault })
	return starts[n]
}

// opensAt is the offset of the last of some characters with which a fault
// begins: the quote or bracket that is not closed. If it is not found, other.
func (s *source) opensAt(openers, fault string, other int) int {
	end := len(s.text)
	for range maxOpeners {
		if end = bytes.LastIndexAny(s.text[:end], openers); end < 0 {
			break
		}
		if strings.Contains(s.fault(end+1), fault) && !strings.Contains(s.fault(end), fault) {
			return end
		}
	}
	return other
}

// Parts of what the parser says.
const (
	openQuote   = "found unexpected end of stream"
	expected    = "did not find expected"
	openBracket = expected + " ',' or"
	noAnchor    = "unknown anchor"
	tab         = "found a tab character"
)

// saying is what the parser says, in words that help.
type saying struct{ part, message, hint string }

// yamlSays translates what the parser says.
func yamlSays(message string) saying {
	for _, s := range [...]saying{
		{"mapping values are not allowed", "a key cannot stand here", "is the line above indented otherwise? A text with \": \" in it needs quotes"},
		{"did not find expected key", "this does not line up with the lines above", "indent what belongs together alike, with spaces; nothing can follow a closing quote"},
		{"did not find expected '-'", "this does not line up with the items above", "each item of a list begins with \"- \", all at one indentation"},
		{"found character that cannot start any token", "no value can begin with this character", "indent with spaces, never with tabs; a text that begins with @, ` or % needs quotes"},
		{tab, "a tab cannot indent", "indent with spaces"},
		{openQuote, "this quote is never closed", "add the closing quote"},
		{openBracket, "what begins with this bracket is not closed, or a comma is missing in it", "add the missing bracket or comma; nothing can follow a closing quote"},
		{"could not find expected ':'", "this line is no \"key: value\"", "add the colon, and a space after it"},
		{"block sequence entries are not allowed", "a list item cannot stand here", "put the list on lines of its own below the key, or in [ ]"},
		{"directive", "directives (%) are not used here", "remove the line; a text that begins with % needs quotes"},
		{"incompatible YAML", "directives (%) are not used here", "remove the line"},
		{"exceeded max depth", "brackets or indentations are nested far too deep", "a configuration is five deep at most"},
		{noAnchor, "this alias (*) has no anchor (&) before it", "put the anchor first, or write the value out"},
		{"unknown escape character", "unknown escape in double quotes", "write \\\\ for a backslash, or use single quotes"},
	} {
		if strings.Contains(message, s.part) {
			return s
		}
	}
	return saying{message: "not YAML: " + quote(message)}
}
