package records_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"usher/engine"
	"usher/engine/embedded/records"
)

// raw opens the file beside the table.
func raw(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10000)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func TestRecordsAreThereAfterReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records.db")
	r := openAt(t, path)
	want, err := r.Write(t.Context(), done("a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := openAt(t, path).Record(t.Context(), "a")
	if err != nil || got.Token != want.Token || got.State != engine.Done {
		t.Errorf("after reopening: %+v, %v; want %+v", got, err, want)
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	newer := filepath.Join(dir, "newer.db")
	if _, err := raw(t, newer).ExecContext(t.Context(), "PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(dir, "text.db")
	if err := os.WriteFile(text, []byte(strings.Repeat("this is no database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"":                                  "Config.Path is required",
		newer:                               "schema 99",
		text:                                "not a database",
		filepath.Join(dir, "none", "of.db"): "no such file or directory",
		dir:                                 "is a directory",
	} {
		r, err := records.Open(records.Config{Path: path})
		if err == nil {
			t.Errorf("Open(%q) worked", path)
			_ = r.Close()
			continue
		}
		if !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "records: ") {
			t.Errorf("Open(%q): %v; want it to begin with records: and to say %q", path, err, want)
		}
	}
}

// TestAnOlderFileIsBroughtUpToDate takes a file back to schema 4, and opens it.
func TestAnOlderFileIsBroughtUpToDate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records.db")
	r := openAt(t, path)
	want, err := r.Write(t.Context(), done("a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	for _, change := range []string{
		"ALTER TABLE records DROP COLUMN crashes", "ALTER TABLE records DROP COLUMN deaths",
		"ALTER TABLE records DROP COLUMN claim_alone", "PRAGMA user_version = 4",
	} {
		if _, err := raw(t, path).ExecContext(t.Context(), change); err != nil {
			t.Fatalf("%s: %v", change, err)
		}
	}
	r = openAt(t, path)
	if got, err := r.Record(t.Context(), "a"); err != nil || got.Token != want.Token || got.State != engine.Done {
		t.Errorf("what was there is %+v, %v; want %+v", got, err, want)
	}
	change := done("b")
	change.Crashes, change.Deaths = 1, 2
	if got, err := r.Write(t.Context(), change); err != nil || got.Crashes != 1 || got.Deaths != 2 {
		t.Errorf("written: %+v, %v", got, err)
	}
}

func TestOpenOfOddPaths(t *testing.T) {
	for _, name := range []string{"a b.db", "50%.db", "what?.db", "a#b.db", "mode=ro&x.db", "ü.db"} {
		path := filepath.Join(t.TempDir(), name)
		r := openAt(t, path)
		if _, err := r.Write(t.Context(), done("a")); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Errorf("%q is not where it should be: %v", name, err)
			continue
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%q has the mode %v; want 0600", name, info.Mode())
		}
	}
}

func TestManyOpenANewFileAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records.db")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			r, err := records.Open(records.Config{Path: path})
			if err != nil {
				t.Errorf("Open %d: %v", i, err)
				return
			}
			if _, err := r.Write(t.Context(), done(fmt.Sprint(i))); err != nil {
				t.Errorf("Write %d: %v", i, err)
			}
			if err := r.Close(); err != nil {
				t.Errorf("Close %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

// TestSweepDeletesWhatIsExpired leaves what is not, and needs several batches.
func TestSweepDeletesWhatIsExpired(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records.db")
	r, err := records.Open(records.Config{Path: path, SweepEvery: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var wg sync.WaitGroup
	for part := range 64 {
		wg.Go(func() {
			for i := part; i < 1500; i += 64 {
				change := done(fmt.Sprintf("m-%d", i))
				change.ExpiresAt = time.Now().Add(-time.Hour)
				if i%100 == 0 {
					change.ExpiresAt = time.Now().Add(time.Hour)
				}
				if _, err := r.Write(t.Context(), change); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	db := raw(t, path)
	waitFor(t, "15 rows are left", func() bool {
		var n int
		if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM records").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == 15
	})
}

// TestCallerWhoseContextEndsStopsWaiting has another process keep the file
// locked meanwhile.
func TestCallerWhoseContextEndsStopsWaiting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records.db")
	r := openAt(t, path)
	other, err := raw(t, path).BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	answers := make(chan error)
	for i := range 3 { // one with the writer, two in front of it
		go func() {
			_, err := r.Write(ctx, done(fmt.Sprint(i)))
			answers <- err
		}()
	}
	if _, err := r.LookUp(t.Context(), []string{"0"}); err != nil {
		t.Errorf("a reader had to wait for the writer: %v", err)
	}
	cancel()
	for range 3 {
		select {
		case err := <-answers:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Write: %v; want context.Canceled", err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("a caller still waits five seconds after his context ended")
		}
	}
	if err := other.Rollback(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Write(t.Context(), done("later")); err != nil {
		t.Errorf("Write after the lock was released: %v", err)
	}
}

// TestCloseAnswersEverybody closes the table under way: each call worked and is
// in the file, or was told that the table is closed.
func TestCloseAnswersEverybody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records.db")
	r := openAt(t, path)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var worked []string
	begun := make(chan struct{}, 64)
	for part := range 64 {
		wg.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("m-%d-%d", part, i)
				if _, err := r.Write(t.Context(), done(id)); err != nil {
					if !errors.Is(err, records.ErrClosed) {
						t.Errorf("Write of %s: %v; want ErrClosed", id, err)
					}
					return
				}
				mu.Lock()
				worked = append(worked, id)
				mu.Unlock()
				if i == 3 {
					begun <- struct{}{}
				}
			}
		})
	}
	<-begun
	for range 4 {
		wg.Go(func() {
			if err := r.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
	wg.Wait()
	again := openAt(t, path)
	for _, id := range worked {
		if _, err := again.Record(t.Context(), id); err != nil {
			t.Errorf("%s was answered and is not there: %v", id, err)
		}
	}
}

// TestFailedTransactionAnswersAll breaks the table under the writer, and mends it.
func TestFailedTransactionAnswersAll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records.db")
	r := openAt(t, path)
	db := raw(t, path)
	trigger := `CREATE TRIGGER broken BEFORE INSERT ON records WHEN NEW.id = 'bad' BEGIN SELECT RAISE(ABORT, 'out of order'); END`
	if _, err := db.ExecContext(t.Context(), trigger); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Write(t.Context(), done("bad")); err == nil || !strings.Contains(err.Error(), "out of order") {
		t.Errorf("Write: %v; want the cause", err)
	}
	if _, err := r.Record(t.Context(), "bad"); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("Record: %v; want ErrNotFound", err)
	}
	if _, err := db.ExecContext(t.Context(), "DROP TRIGGER broken"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Write(t.Context(), done("bad")); err != nil {
		t.Errorf("Write after it was mended: %v", err)
	}
}

// waitFor asks until the answer is yes, for at most ten seconds.
func waitFor(t *testing.T, what string, yes func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for !yes() {
		select {
		case <-again.C:
		case <-deadline:
			t.Fatalf("ten seconds on, still not so: %s", what)
		}
	}
}

// TestOddTextIsKept: what came from outside in a header never fails a
// transaction that others share.
func TestOddTextIsKept(t *testing.T) {
	r := openAt(t, filepath.Join(t.TempDir(), "records.db"))
	for i, text := range []string{"", "a\x00b", "\xff\xfe", "'", "null", "1", strings.Repeat("ü", 100_000)} {
		id := fmt.Sprint("odd-", i)
		change := done(id)
		change.Type, change.Digest, change.Reason, change.State = text, text+"d", text, engine.Retrying
		if _, err := r.Write(t.Context(), change); err != nil {
			t.Fatalf("%.20q: %v", text, err)
		}
		rec, err := r.Record(t.Context(), id)
		if err != nil || rec.Reason != text {
			t.Errorf("%.20q came back as %.20q, %v", text, rec.Reason, err)
		}
	}
}
