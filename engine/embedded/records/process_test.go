package records_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"usher/engine"
	"usher/engine/embedded/records"
)

// A test that needs a second process runs this binary again with childEnv set
// to "<what>|<path>|<name>".
const childEnv = "RECORDS_TEST_CHILD"

// childMain is the second process.
func childMain(task string) int {
	part := strings.Split(task, "|")
	r, err := records.Open(records.Config{Path: part[1]})
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	switch part[0] {
	case "claim":
		fmt.Println("ready")
		for _, id := range claimAll(r, part[2], func(i int) int { return contested - 1 - i }) {
			fmt.Println("won", id)
		}
	case "write":
		writeForEver(r)
	}
	if err := r.Close(); err != nil {
		fmt.Println("error", err)
		return 1
	}
	return 0
}

// child starts the second process and gives its output line by line.
func child(t *testing.T, what, path, name string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+what+"|"+path+"|"+name)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

// contested is how many messages two processes want.
const contested = 4000

// claimAll claims every message, 32 at a time, in the given order, and gives
// the ids that it got.
func claimAll(r *records.Records, name string, nth func(i int) int) []string {
	var mu sync.Mutex
	var won []string
	var wg sync.WaitGroup
	for part := range 32 {
		wg.Go(func() {
			for i := part; i < contested; i += 32 {
				id := fmt.Sprintf("m-%d", nth(i))
				now := time.Now()
				_, err := r.Claim(context.Background(), engine.Claim{
					ID: id, Type: "t", Digest: "d", Now: now,
					Mark: engine.ClaimMark{Token: name + id, BrokerID: name, Until: now.Add(time.Hour)},
				})
				switch {
				case err == nil:
					mu.Lock()
					won = append(won, id)
					mu.Unlock()
				case !errors.Is(err, engine.ErrGuarded):
					fmt.Println("error", err)
				}
			}
		})
	}
	wg.Wait()
	return won
}

func TestTwoProcessesShareAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records.db")
	cmd, lines := child(t, "claim", path, "child")
	r := openAt(t, path)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("the other process says: %s", lines.Text())
	}
	owner := map[string]int{}
	for _, id := range claimAll(r, "parent", func(i int) int { return i }) {
		owner[id]++
	}
	t.Logf("this process got %d of %d", len(owner), contested)
	for lines.Scan() {
		id, ok := strings.CutPrefix(lines.Text(), "won ")
		if !ok {
			t.Fatalf("the other process says: %s", lines.Text())
		}
		owner[id]++
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the other process: %v", err)
	}
	for i := range contested {
		if n := owner[fmt.Sprintf("m-%d", i)]; n != 1 {
			t.Errorf("m-%d was claimed by %d processes; want 1", i, n)
		}
	}
}

// writeForEver writes messages one after the other, many at a time, and says
// each one that was answered.
func writeForEver(r *records.Records) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for part := range 16 {
		wg.Go(func() {
			for i := part; ; i += 16 {
				if _, err := r.Write(context.Background(), done(fmt.Sprintf("m-%d", i))); err != nil {
					return
				}
				mu.Lock()
				fmt.Println(i)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

func TestAnsweredWritesOutliveAKilledProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records.db")
	cmd, lines := child(t, "write", path, "")
	var answered []string
	for len(answered) < 2000 && lines.Scan() {
		answered = append(answered, "m-"+lines.Text())
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() { // what it said before it died counts as well
		answered = append(answered, "m-"+lines.Text())
	}
	_ = cmd.Wait() // it was killed
	r := openAt(t, path)
	for start := 0; start < len(answered); start += 100 {
		ids := answered[start:min(start+100, len(answered))]
		found, err := r.LookUp(t.Context(), ids)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			if found.Records[id].State != engine.Done {
				t.Errorf("%s was answered and is %q now", id, found.Records[id].State)
			}
		}
	}
	if len(answered) < 2000 {
		t.Errorf("the process wrote %d messages; want 2000", len(answered))
	}
}
