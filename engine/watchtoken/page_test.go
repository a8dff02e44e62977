package watchtoken_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"usher/engine/watchtoken"
)

const page = "../../docs/status.md"

// block is the example of the page in one language that has this word in it.
func block(t *testing.T, language, word string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, rest := range strings.Split(string(text), "```"+language+"\n")[1:] {
		if block, _, _ := strings.Cut(rest, "```"); strings.Contains(block, word) {
			if lines := strings.Count(block, "\n"); lines > 10 {
				t.Errorf("%s takes %d lines", language, lines)
			}
			return block
		}
	}
	t.Fatalf("%s has no %s with %s", page, language, word)
	return ""
}

// The lines of the page are run as they stand there.
func TestTokensOfThePageAreGood(t *testing.T) {
	python, err := filepath.Abs("../../.cache/venv/bin/python")
	if err != nil {
		t.Fatal(err)
	}
	key := secretOf("k")
	keys := parse(t, "shop:"+key)
	for language, c := range map[string]struct{ program, flag, lines, call string }{
		"python": {python, "-c", block(t, "python", "watch_token"), "import sys\nprint(watch_token(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5])))\n"},
		"shell":  {"bash", "-euc", block(t, "sh", "watch_token"), "watch_token \"$@\"\n"},
	} {
		for _, id := range []string{"order-7", "m", "ab", `odd "id" ~?> with $HOME 'and' \n all`} {
			args := []string{c.flag, c.lines + c.call}
			if language == "shell" {
				args = append(args, "watch_token") // it is $0
			}
			out, err := exec.CommandContext(t.Context(), c.program, append(args, "shop", key, "prod", id, "60")...).Output()
			if err != nil {
				t.Fatalf("%s: %v %s (python is there after tools/prepare, as make test runs it)", language, err, out)
			}
			until, err := keys.Check(strings.TrimSuffix(string(out), "\n"), "prod", id, time.Now())
			if left := time.Until(until); err != nil || left < 30*time.Second || left > time.Minute {
				t.Errorf("%s, %q: %s, good for %v: %v", language, id, out, left, err)
			}
		}
	}
}

func TestTheTokenOfThePageIsTheOneThatIsMade(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, row, found := strings.Cut(string(text), "| `shop` | `")
	row, _, _ = strings.Cut(row, "\n")
	cells := strings.Split(strings.TrimSuffix(row, "` |"), "` | `")
	if !found || len(cells) != 5 {
		t.Fatalf("the row of the page is %q", row)
	}
	ends := time.Unix(1_900_000_000, 0)
	keys := parse(t, "shop:"+cells[0])
	if got := mint(t, keys, "shop", cells[1], cells[2], ends); cells[3] != "1900000000" || got != cells[4] {
		t.Errorf("made %s, the page has %s", got, cells[4])
	}
	if _, err := keys.Check(cells[4], "prod", "order-7", ends.Add(-watchtoken.DefaultTTL)); err != nil {
		t.Error(err)
	}
}
