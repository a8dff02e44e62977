package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3/frame"
)

const (
	benchProducers = 16
	benchInFlight  = 32
	benchBody      = 512
)

// BenchmarkDurableSend is 16 producers with 32 sends in flight each.
func BenchmarkDurableSend(b *testing.B) {
	r := start(b, Config{})
	b.ResetTimer()
	fill(r, "/queue/usher.work", b.N)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}

// BenchmarkConsume drains what BenchmarkDurableSend sends: four subscribers,
// each message acked by itself.
func BenchmarkConsume(b *testing.B) {
	r := start(b, Config{})
	fill(r, "/queue/q", b.N)
	b.ResetTimer()
	drain(r, "/queue/q", b.N)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}

// BenchmarkThrough sends and consumes at once.
func BenchmarkThrough(b *testing.B) {
	r := start(b, Config{})
	b.ResetTimer()
	var both sync.WaitGroup
	both.Go(func() { fill(r, "/queue/q", b.N) })
	both.Go(func() { drain(r, "/queue/q", b.N) })
	both.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}

// BenchmarkBareGroupCommit is what SQLite alone does with batches of the same
// size: the bound for BenchmarkDurableSend.
func BenchmarkBareGroupCommit(b *testing.B) {
	s, err := openStore(context.Background(), b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer s.close()
	q := &queue{id: 1, name: "q"}
	data := bytes.Repeat([]byte("x"), benchBody+100)
	b.ResetTimer()
	for sent := 0; sent < b.N; {
		batch := make([]*message, 0, benchProducers*benchInFlight)
		for len(batch) < cap(batch) && sent < b.N {
			sent++
			batch = append(batch, &message{seq: int64(sent), queue: q, data: data})
		}
		if err := s.write(batch, nil, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}

// BenchmarkWaiting has b.N messages wait, tells what each costs in memory, and
// what it takes to open the broker with them.
func BenchmarkWaiting(b *testing.B) {
	r := start(b, Config{CacheBytes: 1 << 20})
	before := heapInUse()
	fill(r, "/queue/q", b.N)
	b.ReportMetric(float64(heapInUse()-before)/float64(b.N), "heapB/msg")
	began := time.Now()
	r = r.restart(Config{CacheBytes: 1 << 20})
	b.ReportMetric(time.Since(began).Seconds(), "s/open")
	began = time.Now()
	drain(r, "/queue/q", b.N)
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "drained/s")
	if info, err := os.Stat(filepath.Join(r.dir, fileStore+"-wal")); err == nil {
		b.ReportMetric(float64(info.Size()>>20), "walMiB")
	}
}

func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// fill sends n messages, all with receipts.
func fill(r *running, dest string, n int) {
	body := bytes.Repeat([]byte("x"), benchBody)
	var producers sync.WaitGroup
	for p := range benchProducers {
		share := n / benchProducers
		if p < n%benchProducers {
			share++
		}
		producers.Go(func() {
			if err := produce(r.raw(), dest, body, share); err != nil {
				r.t.Error(err)
			}
		})
	}
	producers.Wait()
}

// produce keeps benchInFlight sends under way.
func produce(c *raw, dest string, body []byte, n int) error {
	slots := make(chan struct{}, benchInFlight)
	failed := make(chan error, 1)
	go func() {
		for range n {
			f, err := c.read()
			if err == nil && f.Command != frame.RECEIPT {
				err = fmt.Errorf("got %s %v", f.Command, f.Header)
			}
			if err != nil {
				failed <- err
				return
			}
			<-slots
		}
		failed <- nil
	}()
	for i := range n {
		select {
		case slots <- struct{}{}:
		default: // all are under way: let the broker have them
			if err := c.w.Flush(); err != nil {
				return err
			}
			slots <- struct{}{}
		}
		f := frame.New(frame.SEND, "destination", dest, "receipt", "r", "type", "order.placed", "priority", string('0'+byte(i%10)))
		f.Body = body
		if err := c.w.Write(f); err != nil {
			return err
		}
	}
	return errors.Join(c.w.Flush(), <-failed)
}

// drain consumes n messages.
func drain(r *running, dest string, n int) {
	var consumers sync.WaitGroup
	done := make(chan struct{})
	var mu sync.Mutex
	for range 4 {
		consumers.Go(func() {
			c := r.raw()
			c.put(frame.SUBSCRIBE, "id", "s", "destination", dest, "ack", "client-individual", headerPrefetch, "200")
			go func() { <-done; _ = c.nc.Close() }()
			for {
				m, err := c.read()
				if err != nil {
					return // all are consumed
				}
				if err := c.w.Write(frame.New(frame.ACK, "id", m.Header.Get("ack"))); err != nil {
					return
				}
				mu.Lock()
				n--
				left := n
				mu.Unlock()
				if c.w.Buffered() > 1000 || left < 1000 {
					if err := c.w.Flush(); err != nil {
						return
					}
				}
				if left == 0 {
					close(done)
				}
			}
		})
	}
	consumers.Wait()
}
