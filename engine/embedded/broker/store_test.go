package broker

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine/stompframe"
)

func stompVersion(v string) stompframe.Version { return stompframe.Version(v) }

func TestRestartKeepsWhatIsReceipted(t *testing.T) {
	r := start(t, Config{})
	r.fillWith("q", "1", "2", "3", "4")
	c := r.raw()
	c.subscribe("q", 3)
	held := c.take(3)
	c.ack(held[1])
	if got := texts(c.take(1)); got != "4" {
		t.Fatal(got)
	}
	c.do(frame.SEND, "destination", "usher.work", "priority", "9", "custom", "x", "in a lane")
	r = r.restart(Config{})
	c = r.raw()
	c.subscribe("q", 10)
	again := c.take(3)
	if got := texts(again); got != "1 3 4" {
		t.Errorf("recovered: %s", got)
	}
	if got, want := again[0].Header.Get("message-id"), held[0].Header.Get("message-id"); got != want {
		t.Errorf("message-id %s was %s", got, want)
	}
	c.do(frame.UNSUBSCRIBE, "id", "s")
	c.subscribe("usher.work.p9", 1)
	m := c.take(1)[0]
	if m.Header.Get("original-destination") != "/queue/usher.work" || m.Header.Get("custom") != "x" || m.Header.Get("redelivered") != "true" {
		t.Errorf("%v", m.Header)
	}
	c.do(frame.SEND, "destination", "q2", "x")
	c.do(frame.SUBSCRIBE, "id", "2", "destination", "q2", "ack", "auto")
	if id := c.take(1)[0].Header.Get("message-id"); id == held[0].Header.Get("message-id") || !strings.Contains(id, "-2-") {
		t.Errorf("message-id %s in the second run", id)
	}
}

func TestSecondProcessIsToldThatTheFolderIsTaken(t *testing.T) {
	r := start(t, Config{})
	b, err := Open(Config{Dir: r.dir})
	if err == nil {
		_ = b.Close()
		t.Fatal("it opened")
	}
	if !strings.Contains(err.Error(), "another process has the state folder") || !strings.Contains(err.Error(), r.dir) {
		t.Errorf("%v", err)
	}
}

func TestStateIsNobodyElsesToRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "state")
	r := start(t, Config{Dir: dir})
	r.fillWith("q", "secret")
	for _, name := range []string{"", fileStore, fileStore + "-wal", fileLock} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
}

func TestCommitsReachTheDisk(t *testing.T) {
	r := start(t, Config{})
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "fullfsync": "1"} {
		var got string
		if err := r.store.conn.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, want %s (%v)", pragma, got, want, err)
		}
	}
}

// A receipt is a promise: while the transaction with the message cannot be
// committed there is none, however much else is answered.
func TestReceiptsWaitForTheCommit(t *testing.T) {
	r := start(t, Config{})
	other, err := openDB(r.store.path, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	c := r.raw()
	c.put(frame.SEND, "destination", "q", "receipt", "sent", "x")
	c.put(frame.SUBSCRIBE, "id", "s", "destination", "empty", "ack", "client-individual", "receipt", "subscribed")
	if f := c.want(frame.RECEIPT); f.Header.Get("receipt-id") != "subscribed" {
		t.Errorf("a receipt for %s before its commit", f.Header.Get("receipt-id"))
	}
	if n := r.queue("q").Size; n != 0 {
		t.Errorf("%d messages are in the queue before the commit", n)
	}
	if _, err := other.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if f := c.want(frame.RECEIPT); f.Header.Get("receipt-id") != "sent" {
		t.Errorf("got the receipt for %s", f.Header.Get("receipt-id"))
	}
}

func TestNamesUsedOnceAreForgottenAtOpen(t *testing.T) {
	r := start(t, Config{})
	c := r.raw()
	for i := range 20 {
		name := fmt.Sprint("once", i)
		c.do(frame.SEND, "destination", name, "x")
		if i%2 == 0 {
			c.do(frame.SUBSCRIBE, "id", name, "destination", name, "ack", "client-individual")
			m := c.take(1)[0]
			c.put(frame.ACK, "id", m.Header.Get("ack"))
		}
	}
	c.do(frame.DISCONNECT)
	r = r.restart(Config{})
	if n := len(r.Stats().Queues); n != 10+11 {
		t.Errorf("%d queues are known", n)
	}
	for i := range 20 { // and can be made again
		r.fillWith(fmt.Sprint("once", i), "y")
	}
	r = r.restart(Config{})
	if n := len(r.Stats().Queues); n != 20+11 {
		t.Errorf("%d queues are known", n)
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	r := start(t, Config{})
	if _, err := r.store.conn.ExecContext(context.Background(), "PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	r.stop()
	if b, err := Open(Config{Dir: r.dir}); err == nil || !strings.Contains(err.Error(), "newer program") {
		t.Errorf("%v %v", b, err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	if _, err := Open(Config{Window: -1}); err == nil || !strings.Contains(err.Error(), "Dir") || !strings.Contains(err.Error(), "Window") {
		t.Errorf("%v", err)
	}
}

// What is not in memory is read back from the store, in the same order.
func TestBodiesOverTheBudgetAreReadBack(t *testing.T) {
	r := start(t, Config{CacheBytes: 5000})
	var want []string
	for i := range 300 {
		want = append(want, fmt.Sprintf("%03d-%s", i, strings.Repeat("x", 100)))
	}
	r.fillWith("q", want...)
	r.mu.Lock()
	if r.cached > 5000 || r.cached < 2500 {
		t.Errorf("%d bytes in memory", r.cached)
	}
	r.mu.Unlock()
	c := r.raw()
	c.subscribe("q", 100)
	var got []string
	for range want {
		m := c.take(1)[0]
		got = append(got, string(m.Body))
		c.ack(m)
	}
	if !slices.Equal(got, want) {
		t.Error("the order or the bodies are not those that were sent")
	}
	eventually(t, "the memory is given back", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.cached == 0 && r.queues["/queue/q"].waiting == 0
	})
}

func TestFailingDiskRefusesAndLosesNothing(t *testing.T) {
	r := start(t, Config{})
	r.fillWith("q", "1", "2", "3", "4")
	c := r.raw()
	c.subscribe("q", 4)
	ms := c.take(4)
	readOnly(t, r, true)
	c.put(frame.SEND, "destination", "q", "receipt", "r1", "not stored")
	if e := c.want(frame.ERROR); e.Header.Get("receipt-id") != "r1" {
		t.Errorf("%v", e.Header)
	}
	c.ack(ms[0])
	c.put(frame.NACK, "id", ms[1].Header.Get("ack"), "receipt", "r2")
	c.do(frame.BEGIN, "transaction", "t")
	c.do(frame.ACK, "id", ms[2].Header.Get("ack"), "transaction", "t")
	c.put(frame.SEND, "destination", "out", "transaction", "t", "x")
	c.put(frame.COMMIT, "transaction", "t", "receipt", "r3")
	again := map[string]bool{}
	for errors := 0; errors < 3 || len(again) < 2; {
		switch f, err := c.read(); {
		case err != nil:
			t.Fatal(err)
		case f.Command == frame.ERROR:
			errors++
		case f.Command == frame.MESSAGE && f.Header.Get("redelivered") == "true":
			again[string(f.Body)] = true
		default:
			t.Fatalf("%s %v", f.Command, f.Header)
		}
	}
	if !again["2"] || !again["3"] {
		t.Errorf("came back: %v", again)
	}
	readOnly(t, r, false)
	r.fillWith("q", "5") // it works again; and the delete of 1 goes with it
	r = r.restart(Config{})
	if q, out := r.queue("q"), r.queue("out"); q.Size != 4 || out.Size != 0 {
		t.Errorf("%+v %+v", q, out)
	}
}

func readOnly(t *testing.T, r *running, on bool) {
	t.Helper()
	if _, err := r.store.conn.ExecContext(context.Background(), fmt.Sprintf("PRAGMA query_only = %v", on)); err != nil {
		t.Fatal(err)
	}
}

func TestFreePagesAreGivenBackAtOpen(t *testing.T) {
	r := start(t, Config{})
	c := r.raw()
	if err := produce(r.raw(), "q", make([]byte, 1<<20), 80); err != nil {
		t.Fatal(err)
	}
	c.subscribe("q", 100)
	for range 80 {
		c.ack(c.take(1)[0])
	}
	c.do(frame.SEND, "destination", "q2", "stays")
	r.stop()
	before := fileSize(t, r.dir)
	r = r.restart(Config{})
	if after := fileSize(t, r.dir); after > before/10 {
		t.Errorf("%d bytes, were %d", after, before)
	}
	c = r.raw()
	c.subscribe("q2", 1)
	if got := texts(c.take(1)); got != "stays" {
		t.Error(got)
	}
}

func fileSize(t *testing.T, dir string) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(dir, fileStore))
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func TestFifoKeepsOrderOverBlocksAndHoles(t *testing.T) {
	var f fifo
	n := 3 * blockLen
	for i := range n {
		f.push(&message{seq: int64(i)})
	}
	hole := f.head.next
	clear(hole.msgs[:]) // as the sweep leaves it
	var got []int64
	for m := f.pop(); m != nil; m = f.pop() {
		got = append(got, m.seq)
		if len(got) == 10 {
			f.push(&message{seq: int64(n)})
		}
	}
	if len(got) != 2*blockLen+1 || !slices.IsSorted(got) || got[len(got)-1] != int64(n) {
		t.Errorf("%d messages: %v", len(got), got)
	}
	if f.head != nil || f.peek() != nil {
		t.Error("an empty fifo holds memory")
	}
}

func TestMessageIDsAreReadBack(t *testing.T) {
	b := &Broker{idPrefix: "ID:usher-abc-"}
	for _, id := range []int64{1<<runBits | 1, 77<<runBits | (1<<runBits - 1)} {
		for _, k := range []kind{kindQueue, kindTopic} {
			text := b.messageID(&message{id: id, queue: &queue{kind: k}})
			if got, topic, ok := b.parseID(text); got != id || topic != (k == kindTopic) || !ok {
				t.Errorf("%s: %d %v %v", text, got, topic, ok)
			}
		}
	}
	for _, text := range []string{"", "ID:usher-abc-", "ID:usher-abc-1", "ID:usher-abc--1-1", "ID:usher-other-1-1", "ID:usher-abc-1-x", "ID:usher-abc-1-1099511627776"} {
		if _, _, ok := b.parseID(text); ok {
			t.Errorf("%q is an id", text)
		}
	}
}
