package broker

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// Names of files in the state folder.
const (
	fileStore = "broker.db"
	fileLock  = "broker.lock"
)

const (
	insertRows     = 50 // messages in one INSERT
	listLength     = 50 // seqs in one DELETE or SELECT
	readers        = 4  // connections that read bodies back
	walPages       = 4000
	walTooLong     = 128 << 20 // bytes at which readers are waited for to begin it anew
	freePagesToCut = 64 << 20  // bytes of free pages worth a VACUUM at the start
)

const schema = `
CREATE TABLE IF NOT EXISTS broker (id TEXT NOT NULL, run INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS queue (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS message (
	seq INTEGER PRIMARY KEY,
	id INTEGER NOT NULL,
	queue INTEGER NOT NULL,
	origin INTEGER NOT NULL,   -- a queue; 0: the same
	stamp INTEGER NOT NULL,
	expires INTEGER NOT NULL,
	due INTEGER NOT NULL,
	priority INTEGER NOT NULL,
	flags INTEGER NOT NULL,
	data BLOB NOT NULL         -- headers and body
);
PRAGMA user_version = 1;`

const schemaVersion = 1

// messageColumns is how many columns message has.
const messageColumns = 10

// store is the SQLite file. One goroutine at a time calls what writes; load may
// be called concurrently.
type store struct {
	path   string
	lock   *os.File
	writer *sql.DB // of one connection
	reader *sql.DB
	conn   *sql.Conn // the writer's

	begin, commit, rollback              *sql.Stmt
	insertMany, insertOne                *sql.Stmt
	deleteRange, deleteList, move, queue *sql.Stmt
	read                                 *sql.Stmt

	args    []any    // reused
	created []*queue // by the transaction under way
	commits int
}

// openStore takes the state folder for this process and opens its file.
func openStore(ctx context.Context, dir string) (_ *store, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("broker: make the state folder: %w", err)
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("broker: find the state folder %s: %w", dir, err)
	}
	s := &store{path: filepath.Join(dir, fileStore)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.lock, err = takeLock(filepath.Join(dir, fileLock)); err != nil {
		return nil, err
	}
	if err = s.open(ctx); err != nil {
		return nil, fmt.Errorf("broker: open %s: %w", s.path, err)
	}
	return s, nil
}

// takeLock makes sure that no other process has the state folder. The lock ends
// with the process, however that ends.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("broker: open the lock file: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = fmt.Errorf("broker: another process has the state folder %s open: stop it, or give this one a folder of its own", filepath.Dir(path))
	} else if err != nil {
		err = fmt.Errorf("broker: lock %s: %w", path, err)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func (s *store) open(ctx context.Context) error {
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_RDWR, 0o600) // SQLite would let others read it
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	pragmas := []string{"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "fullfsync(1)",
		fmt.Sprintf("wal_autocheckpoint(%d)", walPages), fmt.Sprintf("journal_size_limit(%d)", walTooLong), "cache_size(-16000)"}
	if s.writer, err = openDB(s.path, 1, pragmas); err != nil {
		return err
	}
	if s.conn, err = s.writer.Conn(ctx); err != nil {
		return err
	}
	var version int
	if err := s.conn.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if version > schemaVersion {
		return fmt.Errorf("its format is %d and this program knows up to %d: use a newer program", version, schemaVersion)
	}
	if _, err := s.conn.ExecContext(ctx, schema); err != nil {
		return err
	}
	if err := s.shrink(ctx); err != nil {
		return err
	}
	if s.reader, err = openDB(s.path, readers, []string{"busy_timeout(5000)", "query_only(1)"}); err != nil {
		return err
	}
	return s.prepare(ctx)
}

func openDB(path string, connections int, pragmas []string) (*sql.DB, error) {
	name := url.URL{Scheme: "file", Path: path, RawQuery: url.Values{"_pragma": pragmas}.Encode()}
	db, err := sql.Open("sqlite", name.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db, nil
}

func (s *store) prepare(ctx context.Context) error {
	row := "(?" + strings.Repeat(",?", messageColumns-1) + ")"
	list := "(?" + strings.Repeat(",?", listLength-1) + ")"
	type preparer interface {
		PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
	}
	for _, p := range []struct {
		on   preparer
		to   **sql.Stmt
		text string
	}{
		{s.conn, &s.begin, "BEGIN IMMEDIATE"},
		{s.conn, &s.commit, "COMMIT"},
		{s.conn, &s.rollback, "ROLLBACK"},
		{s.conn, &s.insertOne, "INSERT INTO message VALUES " + row},
		{s.conn, &s.insertMany, "INSERT INTO message VALUES " + row + strings.Repeat(","+row, insertRows-1)},
		{s.conn, &s.deleteRange, "DELETE FROM message WHERE seq BETWEEN ? AND ?"},
		{s.conn, &s.deleteList, "DELETE FROM message WHERE seq IN " + list},
		{s.conn, &s.move, "UPDATE message SET seq=?, queue=?, origin=?, stamp=?, expires=?, due=?, flags=? WHERE seq=?"},
		{s.conn, &s.queue, "INSERT INTO queue VALUES (?,?)"},
		{s.reader, &s.read, "SELECT seq, data FROM message WHERE seq IN " + list},
	} {
		var err error
		if *p.to, err = p.on.PrepareContext(ctx, p.text); err != nil {
			return err
		}
	}
	return nil
}

// shrink gives free pages back to the file system when they are most of the file.
func (s *store) shrink(ctx context.Context) error {
	var free, pages, size int64
	for name, to := range map[string]*int64{"freelist_count": &free, "page_count": &pages, "page_size": &size} {
		if err := s.conn.QueryRowContext(ctx, "PRAGMA "+name).Scan(to); err != nil {
			return err
		}
	}
	if free*size < freePagesToCut || free < pages/2 {
		return nil
	}
	_, err := s.conn.ExecContext(ctx, "VACUUM; PRAGMA wal_checkpoint(TRUNCATE)")
	return err
}

// identify returns the broker's id, made once, and the number of this run,
// which is one more each time.
func (s *store) identify(ctx context.Context) (id string, run int64, err error) {
	err = s.conn.QueryRowContext(ctx, "UPDATE broker SET run = run + 1 RETURNING id, run").Scan(&id, &run)
	if !errors.Is(err, sql.ErrNoRows) {
		return id, run, wrap("read the broker's id", err)
	}
	var random [6]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", 0, err
	}
	id, run = hex.EncodeToString(random[:]), 1
	_, err = s.conn.ExecContext(ctx, "INSERT INTO broker VALUES (?,?)", id, run)
	return id, run, wrap("store the broker's id", err)
}

// queues reads the queues by id.
func (s *store) queues(ctx context.Context) (map[int64]*queue, error) {
	rows, err := s.conn.QueryContext(ctx, "SELECT id, name FROM queue")
	if err != nil {
		return nil, wrap("read the queues", err)
	}
	defer rows.Close()
	queues := make(map[int64]*queue)
	for rows.Next() {
		q := &queue{kind: kindQueue, stored: true}
		if err := rows.Scan(&q.id, &q.name); err != nil {
			return nil, wrap("read the queues", err)
		}
		queues[q.id] = q
	}
	return queues, wrap("read the queues", rows.Err())
}

// messages reads what is known of each message but its data, by arrival.
func (s *store) messages(ctx context.Context, queues map[int64]*queue, each func(*message)) error {
	rows, err := s.conn.QueryContext(ctx, "SELECT seq, id, queue, origin, stamp, expires, due, priority, flags, length(data) FROM message ORDER BY seq")
	if err != nil {
		return wrap("read the messages", err)
	}
	defer rows.Close()
	for rows.Next() {
		m := &message{}
		var queue, origin int64
		if err := rows.Scan(&m.seq, &m.id, &queue, &origin, &m.stamp, &m.expires, &m.due, &m.priority, &m.flags, &m.size); err != nil {
			return wrap("read the messages", err)
		}
		m.queue, m.origin = queues[queue], queues[origin]
		if m.queue == nil || int(m.priority) >= len(m.queue.levels) {
			return fmt.Errorf("broker: %s is damaged: message %d is in no queue", s.path, m.seq)
		}
		each(m)
	}
	return wrap("read the messages", rows.Err())
}

// forgetQueues removes the rows of queues that no message needs: names that were
// used once must not fill the broker for ever.
func (s *store) forgetQueues(ctx context.Context, queues []*queue) error {
	for _, q := range queues {
		if _, err := s.conn.ExecContext(ctx, "DELETE FROM queue WHERE id = ?", q.id); err != nil {
			return wrap("forget queue "+q.name, err)
		}
	}
	return nil
}

// load reads the data of messages back. One that is no longer there is absent
// from the answer.
func (s *store) load(ctx context.Context, seqs []int64) (map[int64][]byte, error) {
	found := make(map[int64][]byte, len(seqs))
	args := make([]any, listLength)
	for len(seqs) > 0 {
		n := min(len(seqs), listLength)
		for i := range args {
			args[i] = seqs[min(i, n-1)]
		}
		seqs = seqs[n:]
		if err := s.loadSome(ctx, args, found); err != nil {
			return nil, wrap("read messages back", err)
		}
	}
	return found, nil
}

func (s *store) loadSome(ctx context.Context, args []any, found map[int64][]byte) error {
	rows, err := s.read.QueryContext(ctx, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var seq int64
		var data []byte
		if err := rows.Scan(&seq, &data); err != nil {
			return err
		}
		found[seq] = data
	}
	return rows.Err()
}

// close gives the state folder back. It may be called on a store that was
// opened in part.
func (s *store) close() error {
	var errs []error
	if s.reader != nil {
		errs = append(errs, s.reader.Close())
	}
	if s.conn != nil {
		errs = append(errs, s.conn.Close())
	}
	if s.writer != nil {
		errs = append(errs, s.writer.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return wrap("close "+s.path, errors.Join(errs...))
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("broker: %s: %w", what, err)
}
