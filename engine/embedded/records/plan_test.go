package records

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"usher/engine"
)

// Each filter has an index with the order of the list in it, so that a page costs
// what is on it, however many letters there are.
func TestListingsOfLettersSortNothing(t *testing.T) {
	r, err := Open(Config{Path: filepath.Join(t.TempDir(), "records.db"), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	now := time.Now()
	for name, q := range map[string]engine.LetterQuery{
		"all": {}, "kept": {State: engine.LetterKept}, "id": {ID: "a"}, "type": {Type: "a"}, "reason": {Reason: "a"}, "fingerprint": {Fingerprint: "a"},
		"type, kept": {Type: "a", State: engine.LetterKept}, "since": {Since: now}, "a later page": {Type: "a", After: engine.LetterPlace{DeadAt: now, Key: "k"}},
	} {
		where, args := letterConditions(q, now)
		if all := planOf(t, r, selectLetters+where+" ORDER BY dead_at DESC, key DESC LIMIT 10", args); strings.Contains(all, "TEMP B-TREE") || !strings.Contains(all, "INDEX letters_") {
			t.Errorf("%s: %s", name, all)
		}
	}
}

// planOf is how SQLite would answer a query.
func planOf(t *testing.T, r *Records, query string, args []any) string {
	t.Helper()
	rows, err := r.read.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan []string
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, detail)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return strings.Join(plan, "; ")
}
