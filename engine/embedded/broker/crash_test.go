package broker

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3"
	"github.com/rs/zerolog"
)

// crashDirEnv makes the test binary serve from the folder it names.
const crashDirEnv = "USHER_BROKER_TEST_CRASH_DIR"

// serveUntilKilled is the child of TestAKillLosesNothingReceipted.
func serveUntilKilled(dir string) {
	b, err := Open(Config{Dir: dir, Log: zerolog.Nop()})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(ln.Addr())
	_ = b.Serve(context.Background(), ln)
	os.Exit(1)
}

func TestAKillLosesNothingReceipted(t *testing.T) {
	dir := t.TempDir()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), crashDirEnv+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Process.Kill() }()
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	addr = strings.TrimSpace(addr)

	var mu sync.Mutex
	receipted := map[string]bool{}
	enough := make(chan struct{})
	var producers sync.WaitGroup
	for p := range 4 {
		producers.Go(func() {
			c, err := stomp.Dial("tcp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			for i := 0; ; i++ {
				body := fmt.Sprintf("%d-%d", p, i)
				if err := c.Send("/queue/usher.work", "text/plain", []byte(body), stomp.SendOpt.Receipt, stomp.SendOpt.Header("priority", fmt.Sprint(i%10))); err != nil {
					return // killed
				}
				mu.Lock()
				receipted[body] = true
				if len(receipted) == 3000 {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	select {
	case <-enough:
	case <-time.After(deadline):
		t.Fatal("the producers are too slow")
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	producers.Wait()

	r := start(t, Config{Dir: dir})
	found := map[string]bool{}
	c := r.client()
	for level := range 10 {
		name := fmt.Sprintf("usher.work.p%d", level)
		s := r.subscribe(c, "/queue/"+name, 16)
		for range r.queue(name).Size {
			m := next(t, s)
			found[string(m.Body)] = true
			if m.Header.Get("redelivered") != "true" {
				t.Fatal("a recovered message is not marked redelivered")
			}
			if err := c.Ack(m); err != nil {
				t.Fatal(err)
			}
		}
	}
	for body := range receipted {
		if !found[body] {
			t.Errorf("message %s had its receipt and is lost", body)
		}
	}
	t.Logf("%d receipted, %d found", len(receipted), len(found))
}
