package records

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/cenkalti/backoff/v5"
	"modernc.org/sqlite" // and the driver "sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// migrations are what makes a file of version n one of version n+1. What is
// there is never changed, only added to.
var migrations = [...]string{
	`CREATE TABLE records (
		id              TEXT PRIMARY KEY,
		type            TEXT NOT NULL,
		digest          TEXT NOT NULL,
		priority        INTEGER NOT NULL,
		state           TEXT NOT NULL,
		hop             INTEGER NOT NULL,
		due             INTEGER NOT NULL, -- times: Unix milliseconds, 0 is not set
		due_by          TEXT NOT NULL,
		gated_at        INTEGER NOT NULL,
		attempts        INTEGER NOT NULL,
		redeliveries    INTEGER NOT NULL,
		claim_token     TEXT NOT NULL,
		claim_broker_id TEXT NOT NULL,
		claim_until     INTEGER NOT NULL,
		claims          INTEGER NOT NULL,
		token           TEXT NOT NULL,
		reason          TEXT NOT NULL,
		watchers        TEXT NOT NULL,    -- JSON, '' is none
		updated_at      INTEGER NOT NULL,
		expires_at      INTEGER NOT NULL
	) STRICT, WITHOUT ROWID;
	CREATE INDEX records_waiting ON records (due, id) WHERE state IN ('delayed', 'retrying');
	CREATE INDEX records_expiring ON records (expires_at) WHERE expires_at > 0;`,
	`ALTER TABLE records ADD COLUMN bucket TEXT NOT NULL DEFAULT ''; -- '' is not parked
	CREATE INDEX records_due ON records (bucket, due, id) WHERE bucket <> '';
	CREATE INDEX records_waiting_type ON records (type, due, id) WHERE state IN ('delayed', 'retrying');
	CREATE INDEX records_waiting_level ON records (priority, due, id) WHERE state IN ('delayed', 'retrying');
	CREATE TABLE bodies (
		number  INTEGER PRIMARY KEY,
		id      TEXT NOT NULL,
		hop     INTEGER NOT NULL,
		kept_at INTEGER NOT NULL,
		headers TEXT NOT NULL, -- JSON
		body    BLOB NOT NULL,
		UNIQUE (id, hop)
	) STRICT;
	CREATE TABLE leases (
		number  INTEGER PRIMARY KEY CHECK (number = 1), -- one row
		version INTEGER NOT NULL,
		leases  TEXT NOT NULL -- JSON
	) STRICT;`,
	`CREATE TABLE letters (
		key             TEXT PRIMARY KEY,
		id              TEXT NOT NULL,
		type            TEXT NOT NULL,
		level           INTEGER NOT NULL,
		hop             INTEGER NOT NULL,
		reason          TEXT NOT NULL,
		detail          TEXT NOT NULL,
		fingerprint     TEXT NOT NULL,
		attempts        INTEGER NOT NULL,
		redeliveries    INTEGER NOT NULL,
		handler         TEXT NOT NULL,
		first_failed_at INTEGER NOT NULL,
		queue           TEXT NOT NULL,
		origin          TEXT NOT NULL,
		dead_at         INTEGER NOT NULL,
		size            INTEGER NOT NULL,
		stays           INTEGER NOT NULL,
		redrives        INTEGER NOT NULL,
		state           TEXT NOT NULL,
		changed_at      INTEGER NOT NULL,
		expires_at      INTEGER NOT NULL
	) STRICT, WITHOUT ROWID;
	CREATE INDEX letters_time ON letters (dead_at, key);
	CREATE INDEX letters_state ON letters (state, dead_at, key);
	CREATE INDEX letters_id ON letters (id, dead_at, key);
	CREATE INDEX letters_type ON letters (type, dead_at, key);
	CREATE INDEX letters_reason ON letters (reason, dead_at, key);
	CREATE INDEX letters_fingerprint ON letters (fingerprint, dead_at, key);
	CREATE INDEX letters_kept ON letters (reason, dead_at) WHERE state = 'kept';
	CREATE INDEX letters_expiring ON letters (expires_at) WHERE expires_at > 0;
	CREATE TABLE contents ( -- of letters
		number  INTEGER PRIMARY KEY,
		key     TEXT NOT NULL UNIQUE,
		headers TEXT NOT NULL, -- JSON
		body    BLOB NOT NULL
	) STRICT;`,
	`CREATE TABLE holds (
		number  INTEGER PRIMARY KEY CHECK (number = 1), -- one row
		version INTEGER NOT NULL,
		holds   TEXT NOT NULL -- JSON
	) STRICT;`,
	`ALTER TABLE records ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0;
	ALTER TABLE records ADD COLUMN deaths INTEGER NOT NULL DEFAULT 0;
	ALTER TABLE records ADD COLUMN claim_alone INTEGER NOT NULL DEFAULT 0;`,
}

const columns = `id, type, digest, priority, state, hop, due, due_by, gated_at, attempts, redeliveries,
	claim_token, claim_broker_id, claim_until, claims, token, reason, watchers, updated_at, expires_at, bucket,
	crashes, deaths, claim_alone`

const columnCount = 24

const selectAny = `SELECT ` + columns + ` FROM records`

// selectListed takes a list of ids as JSON, so that it is one statement however
// many there are.
const selectListed = selectAny + ` WHERE id IN (SELECT value FROM json_each(?))`

// readers is how many look-ups the file answers at once.
const readers = 4

// openFile opens the writer's connection and the readers', and brings the
// schema up to date. The first call makes a file that only its owner may read.
func openFile(path string) (write, read *sql.DB, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, err
	}
	if err := f.Close(); err != nil {
		return nil, nil, err
	}
	write, err = openDB(path, 1, "journal_mode(WAL)", "synchronous(FULL)", "fullfsync(1)",
		"wal_autocheckpoint(4000)", "journal_size_limit(67108864)", "cache_size(-8000)")
	if err != nil {
		return nil, nil, err
	}
	if err := patiently(func() error { return migrate(write) }); err != nil {
		return nil, nil, errors.Join(err, write.Close())
	}
	if read, err = openDB(path, readers, "query_only(true)"); err != nil {
		return nil, nil, errors.Join(err, write.Close())
	}
	return write, read, nil
}

// openDB opens up to n connections, which stay open. A process that finds the
// file locked by another waits for it up to ten seconds.
func openDB(path string, n int, pragmas ...string) (*sql.DB, error) {
	query := url.Values{
		"_txlock": {"immediate"},
		"_pragma": append([]string{"busy_timeout(10000)"}, pragmas...),
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: query.Encode()}).String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	return db, nil
}

// patiently tries for ten seconds while the file is locked: SQLite does not wait
// where one process goes over to a write-ahead log and another has just done so.
func patiently(f func() error) error {
	_, err := backoff.Retry(context.Background(), func() (struct{}, error) {
		err := f()
		var code *sqlite.Error
		if err != nil && (!errors.As(err, &code) || code.Code()&0xff != sqlite3.SQLITE_BUSY) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(backoff.NewConstantBackOff(20*time.Millisecond)), backoff.WithMaxElapsedTime(10*time.Second))
	return err
}

// migrate does what is missing, in one transaction: of two processes that open
// a new file, the second finds it made.
func migrate(db *sql.DB) error {
	ctx := context.Background()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	var version int
	if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if version > len(migrations) {
		return fmt.Errorf("the file has schema %d and this program knows schemas up to %d; open it with a newer program", version, len(migrations))
	}
	if version == len(migrations) {
		return nil
	}
	for _, m := range migrations[version:] {
		if _, err := tx.ExecContext(ctx, m); err != nil {
			return fmt.Errorf("make schema %d of %d: %w", version+1, len(migrations), err)
		}
		version++
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version)); err != nil {
		return err
	}
	return tx.Commit()
}
