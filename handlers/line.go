package handlers

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// OneLine makes s fit to be one line of a log, a header or a screen: runs of
// control characters and blanks become one space, what is over limit bytes is
// cut, and broken UTF-8 is replaced.
func OneLine(s string, limit int) string {
	var b strings.Builder
	blank := ""
	for _, r := range s {
		if unicode.IsControl(r) || unicode.IsSpace(r) || r == '\u2028' || r == '\u2029' {
			if b.Len() > 0 {
				blank = " "
			}
			continue
		}
		if b.Len()+len(blank)+utf8.RuneLen(r) > limit {
			return cut(b.String(), limit)
		}
		b.WriteString(blank)
		b.WriteRune(r)
		blank = ""
	}
	return b.String()
}

// cut shortens s, which is valid UTF-8 of at most limit bytes, so that the
// mark of the cut fits as well.
func cut(s string, limit int) string {
	const mark = "…"
	if limit < len(mark) {
		return s
	}
	for len(s) > limit-len(mark) {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s + mark
}
