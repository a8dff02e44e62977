package bench

import (
	"bytes"
	"context"
	"database/sql"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

const (
	producers = 16
	underWay  = 32 // sends, of each
	consumers = 4
	inTurn    = 1000 // a consumer's window
)

func durability(r *rig) measurement {
	const usher, bare = "embedded broker", "bare group commit"
	return measurement{
		name:  "durable",
		title: "The embedded broker beside its disk",
		how: `In: 16 producers with 32 sends under way each, bodies of 512 bytes, each message confirmed by a receipt after its fsync. Out: 4
consumers with a window of 1,000 ack each message; the time ends when the broker has every ack on disk. *Bare group commit* is a loop on the same
disk without any broker: SQLite with ` + "`synchronous=FULL`" + `, batches of 512 rows with the same bodies inserted, then deleted, each batch in a
transaction of its own. The producers and consumers run in the same process, on the same cores, which is what limits the broker: it has to
read and write each message as a STOMP frame, and so have they.`,
		ways: []way{
			{usher, r.embedded.inAndOut},
			{bare, groupCommit},
		},
		answers: func(res results) []answer {
			in, out := res.of(usher, "in"), res.of(usher, "out")
			return []answer{
				{"Embedded broker, durable messages in: to bare group commit", "at least 0.3", "", in.over(res.of(bare, "in")), atLeast(0.3)},
				{"Embedded broker, durable messages out: to bare group commit", "at least 0.3", "", out.over(res.of(bare, "out")), atLeast(0.3)},
				{"Embedded broker, durable messages in", "aim: 15,000/s", "/s", in, atLeast(15_000)},
				{"Embedded broker, durable messages out", "aim: 15,000/s", "/s", out, atLeast(15_000)},
			}
		},
	}
}

// inAndOut sends messages to the broker and takes them again.
func (p *pair) inAndOut(t testing.TB) []value {
	t.Helper()
	inward := together(t, producers, func(n int) error { return sendAll(p.address, "durable", n, underWay) })
	outward := together(t, consumers, func(n int) error {
		_, err := takeAll(p.address, n, inTurn, "durable")
		return err
	})
	return []value{rate("in", *messages, inward), rate("out", *messages, outward)}
}

// together shares the messages among so many and tells how long that takes.
func together(t testing.TB, n int, do func(share int) error) time.Duration {
	t.Helper()
	began := time.Now()
	var g errgroup.Group
	for i := range n {
		share := *messages / n
		if i < *messages%n {
			share++
		}
		g.Go(func() error { return do(share) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}

// groupCommit writes and deletes as many rows in transactions that take as much as
// the producers have under way.
func groupCommit(t testing.TB) []value {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+t.TempDir()+"/bare.db?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.Exec("CREATE TABLE message (seq INTEGER PRIMARY KEY, data BLOB NOT NULL)"); err != nil {
		t.Fatal(err)
	}
	body := bytes.Repeat([]byte{'x'}, bodyBytes)
	inward := inBatches(t, db, "INSERT INTO message VALUES (?, ?)", func(i int) []any { return []any{i, body} })
	outward := inBatches(t, db, "DELETE FROM message WHERE seq = ?", func(i int) []any { return []any{i} })
	return []value{rate("in", *messages, inward), rate("out", *messages, outward)}
}

// inBatches runs a statement for each message and tells how long that takes.
func inBatches(t testing.TB, db *sql.DB, statement string, args func(i int) []any) time.Duration {
	t.Helper()
	ctx := context.Background()
	stmt, err := db.PrepareContext(ctx, statement)
	if err != nil {
		t.Fatal(err)
	}
	defer stmt.Close()
	began := time.Now()
	for i := 0; i < *messages; {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		one := tx.StmtContext(ctx, stmt)
		for end := min(i+producers*underWay, *messages); i < end; i++ {
			if _, err := one.ExecContext(ctx, args(i)...); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	return time.Since(began)
}
