package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"unicode"
)

// FingerprintOf names a kind of failure: the same for messages of one type that
// died for one reason, with details that differ only in numbers and ids. It is 12
// hex digits.
func FingerprintOf(typ, reason, detail string) string {
	sum := sha256.Sum256([]byte(typ + "\x00" + reason + "\x00" + Normalize(detail)))
	return hex.EncodeToString(sum[:6])
}

const (
	// maxNormal is how much of a detail makes its fingerprint: what is behind is
	// often a stack or a list.
	maxNormal = 200
	// hexWord is how long a word of hex letters is that counts as a number.
	hexWord = 8
)

// Normalize puts # in the place of everything in a detail that looks like a
// number, an id, a time, an address or a digest: each word with a digit in it, and
// long words of hex digits. What stands between two of them and is only
// punctuation goes with them.
func Normalize(detail string) string {
	var words []string
	for word := range strings.FieldsSeq(detail) {
		words = append(words, normalWord(word))
	}
	normal := strings.Join(words, " ")
	if len(normal) > maxNormal {
		normal = strings.ToValidUTF8(normal[:maxNormal], "")
	}
	return normal
}

// normalWord normalizes what has no blanks in it.
func normalWord(word string) string {
	var out strings.Builder
	between, after := "", false // punctuation, which may stand between two numbers
	for part := range wordParts(word) {
		switch {
		case !isWordRune([]rune(part)[0]):
			between += part
		case varies(part):
			if !after {
				out.WriteString(between + "#")
			}
			between, after = "", true
		default:
			out.WriteString(between + part)
			between, after = "", false
		}
	}
	return out.String() + between
}

// wordParts goes through the runs of letters and digits, with what stands between.
func wordParts(text string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		begin, word := 0, false
		for i, r := range text {
			if is := isWordRune(r); is != word {
				if i > begin && !yield(text[begin:i]) {
					return
				}
				begin, word = i, is
			}
		}
		if begin < len(text) {
			yield(text[begin:])
		}
	}
}

func isWordRune(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_'
}

// varies says whether a word is a number or an id.
func varies(word string) bool {
	hexDigits := len(word) >= hexWord
	for _, r := range word {
		if unicode.IsDigit(r) {
			return true
		}
		hexDigits = hexDigits && strings.ContainsRune("abcdefABCDEF-", r)
	}
	return hexDigits
}

// withoutID takes a message's own id out of a detail, if it is long enough to be
// no word.
func withoutID(detail, id string) string {
	if len(id) < hexWord/2 {
		return detail
	}
	return strings.ReplaceAll(detail, id, "#")
}
