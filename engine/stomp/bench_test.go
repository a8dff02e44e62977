package stomp_test

import (
	"bytes"
	"net"
	"strconv"
	"testing"

	"github.com/go-stomp/stomp/v3/frame"
	"github.com/rs/zerolog"

	"usher/engine"
	"usher/engine/stomp"
	"usher/engine/stompframe"
)

// cheapServer is a STOMP server that costs little: it answers receipts, and keeps
// one window of messages of lane 5 in flight, for ever. It returns its address.
func cheapServer(b *testing.B) string {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go cheapTalk(conn)
		}
	}()
	return ln.Addr().String()
}

func cheapTalk(conn net.Conn) {
	defer conn.Close()
	count := &countingReader{Conn: conn}
	r, w := stompframe.NewReader(count, stompframe.Limits{}), stompframe.NewWriter(conn)
	sent := 0
	message := func() error {
		sent++
		id := strconv.Itoa(sent)
		f := frame.New(frame.MESSAGE, "destination", "/queue/usher.work.p5", "message-id", "ID:broker-1-41213-1700000000000-4:1:-1:1:"+id,
			"subscription", "lane-5", "ack", "ID:broker-1-"+id, "priority", "5", "persistent", "true", "timestamp", "1700000000000",
			"expires", "0", "type", "order.placed", "usher_id", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "content-type", "application/json")
		f.Body = body512
		return w.Write(f)
	}
	for {
		count.flush = w.Flush
		f, err := r.Read()
		switch {
		case err != nil:
			return
		case f == nil:
			continue
		case f.Command == frame.CONNECT:
			err = w.Write(frame.New(frame.CONNECTED, "version", "1.2", "heart-beat", "0,0"))
		case f.Command == frame.ACK:
			err = message()
		}
		if id, ok := f.Header.Contains(frame.Receipt); ok && err == nil {
			err = w.Write(frame.New(frame.RECEIPT, "receipt-id", id))
		}
		if f.Header.Get(frame.Id) == "lane-5" {
			for range 100 {
				err = message()
			}
		}
		if err != nil {
			return
		}
	}
}

// countingReader flushes what was written before it waits for more.
type countingReader struct {
	net.Conn
	flush func() error
}

func (c *countingReader) Read(p []byte) (int, error) {
	if err := c.flush(); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

var body512 = bytes.Repeat([]byte{'x'}, 512)

// BenchmarkPublish measures the client on a server that costs little, and the two
// together on a real one.
func BenchmarkPublish(b *testing.B) {
	b.Run("cheap", func(b *testing.B) { benchmarkPublish(b, cheapServer(b)) })
	b.Run("ActiveMQ", func(b *testing.B) { benchmarkPublish(b, startActiveMQ(b).Address()) })
}

func benchmarkPublish(b *testing.B, address string) {
	b.Helper()
	for _, n := range []int{1, 8, 64} {
		b.Run(strconv.Itoa(n)+"_at_once", func(b *testing.B) {
			broker, err := stomp.New(stomp.Config{URLs: []string{"stomp://" + address}, Publishers: 1, Log: zerolog.Nop()})
			if err != nil {
				b.Fatal(err)
			}
			defer broker.Close()
			out := engine.Outgoing{Queue: "bench", Body: body512, Headers: map[string]string{
				"type": "order.placed", "usher_id": "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "priority": "5"}}
			b.ReportAllocs()
			b.SetParallelism(max(n/2, 1)) // times GOMAXPROCS
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := broker.Publish(b.Context(), out); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func BenchmarkReceiveAndAck(b *testing.B) {
	broker, err := stomp.New(stomp.Config{URLs: []string{"stomp://" + cheapServer(b)}, Log: zerolog.Nop()})
	if err != nil {
		b.Fatal(err)
	}
	defer broker.Close()
	ended := make(chan error, 1)
	go func() { ended <- broker.Run(b.Context()) }()
	b.ReportAllocs()
	for n := 0; n < b.N; {
		batch, err := broker.Receive(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		for _, d := range batch.Deliveries {
			if err := broker.Ack(d); err != nil {
				b.Fatal(err)
			}
		}
		n += len(batch.Deliveries)
	}
	b.StopTimer()
	broker.Close()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}
