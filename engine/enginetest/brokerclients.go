package enginetest

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	gostomp "github.com/go-stomp/stomp/v3"
	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine"
	"usher/engine/stomp"
)

// The cases of RunBroker in this file look at the broker as its other clients do:
// producers that do not wait, consumers that do not read, tools.

func receiptsArePipelined(r *brokerRig) {
	const n = 300
	c := r.bare()
	var sends []*frame.Frame
	waiting := map[string]bool{}
	for i := range n {
		id := "r" + strconv.Itoa(i)
		waiting[id] = true
		sends = append(sends, frame.New(frame.SEND, "destination", "/queue/"+engine.WorkQueue, "persistent", "true", "receipt", id))
	}
	c.write(sends...) // all of them before the first answer is read
	for len(waiting) > 0 {
		f := c.read()
		if f == nil || f.Command != frame.RECEIPT || !waiting[f.Header.Get(frame.ReceiptId)] {
			r.Fatalf("got %v with %d receipts to come", f, len(waiting))
		}
		delete(waiting, f.Header.Get(frame.ReceiptId))
	}
	r.open(window(n)).receive(n)
}

func consumerThatDoesNotReadHoldsNobody(r *brokerRig) {
	stuck := r.bare()
	stuck.write(frame.New(frame.SUBSCRIBE, "id", "x", "destination", "/queue/stuck", "ack", "client-individual", "activemq.prefetchSize", "1000"))
	e := r.open(nil)
	body := bytes.Repeat([]byte{'x'}, 64<<10)
	for range 300 { // more than all buffers between us hold
		if err := e.Publish(r.ctx, engine.Outgoing{Queue: "stuck", Body: body}); err != nil {
			r.Fatalf("while a consumer does not read: %v", err)
		}
	}
	e.publish("flows")
	if d := e.one(); string(d.Body) != "flows" {
		r.Errorf("got %q", d.Body)
	}
	if _, err := e.Depths(r.ctx); err != nil && !r.h.Features.NoStatistics {
		r.Errorf("Depths: %v", err)
	}
}

func independentClientOfEachVersion(r *brokerRig) {
	for _, v := range []gostomp.Version{gostomp.V10, gostomp.V11, gostomp.V12} {
		conn := r.independent(gostomp.ConnOpt.AcceptVersion(v))
		if conn.Version() != v {
			r.Fatalf("asked for %s, got %s", v, conn.Version())
		}
		queue := "/queue/independent." + strings.ReplaceAll(v.String(), ".", "")
		sub, err := conn.Subscribe(queue, gostomp.AckClientIndividual, gostomp.SubscribeOpt.Header("activemq.prefetchSize", "1"))
		if err != nil {
			r.Fatal(err)
		}
		for i := range 3 {
			if err := conn.Send(queue, "text/plain", []byte(strconv.Itoa(i)), gostomp.SendOpt.Receipt, gostomp.SendOpt.Header("key", `a\b`)); err != nil {
				r.Fatalf("%s: %v", v, err)
			}
		}
		for i := range 3 { // each comes only after the one before was acked
			select {
			case m := <-sub.C:
				if m.Err != nil || string(m.Body) != strconv.Itoa(i) {
					r.Fatalf("%s: message %d is %q, %v", v, i, m.Body, m.Err)
				}
				if err := conn.Ack(m); err != nil {
					r.Fatal(err)
				}
			case <-r.ctx.Done():
				r.Fatalf("%s: message %d did not come", v, i)
			}
		}
	}
}

func manyPublishersLoseNothing(r *brokerRig) {
	const publishers, each = 16, 50
	e := r.open(func(c *stomp.Config) { c.Window, c.Publishers = 50, 3 })
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for i := range each {
				body := fmt.Sprintf("%d/%d", p, i)
				err := e.Publish(r.ctx, engine.Outgoing{Queue: engine.WorkQueue, Body: []byte(body), Headers: map[string]string{
					engine.HeaderPriority: strconv.Itoa((p + i) % engine.Levels)}})
				if err != nil {
					r.Errorf("Publish %s: %v", body, err)
				}
			}
		})
	}
	seen := map[string]int{}
	for total := 0; total < publishers*each; {
		batch, err := e.Receive(r.ctx)
		if err != nil {
			r.Fatalf("after %d messages: %v", total, err)
		}
		for _, d := range batch.Deliveries {
			seen[string(d.Body)]++
			total++
			e.ack(d)
		}
	}
	wg.Wait()
	if len(seen) != publishers*each {
		r.Errorf("%d different messages came of %d", len(seen), publishers*each)
	}
	e.quiet()
}

func clientConsumes(r *brokerRig) {
	client, err := stomp.Dial(r.ctx, r.config())
	if err != nil {
		r.Fatal(err)
	}
	defer client.Close()
	for i := range 6 {
		if err := client.Send(r.ctx, engine.Outgoing{Queue: engine.DeadQueue, Body: []byte(strconv.Itoa(i))}); err != nil {
			r.Fatal(err)
		}
	}
	look := func(ctx context.Context, v stomp.View, odd bool) (bodies string) {
		r.Helper()
		v.Queue, v.Quiet = engine.DeadQueue, 300*time.Millisecond
		err := client.Consume(ctx, v, func(d engine.Delivery) (bool, error) {
			bodies += string(d.Body)
			return odd && d.Body[0]%2 == 1, nil
		})
		if err != nil {
			r.Fatalf("Consume: %v", err)
		}
		return bodies
	}
	for _, step := range []struct {
		view stomp.View
		odd  bool // ack those with odd numbers
		want string
	}{
		{stomp.View{Window: 4}, false, "0123"},
		{stomp.View{Limit: 2}, false, "01"},
		{stomp.View{}, true, "012345"},
		{stomp.View{}, false, "024"},
	} {
		if got := look(r.ctx, step.view, step.odd); got != step.want {
			r.Errorf("%+v saw %s, want %s", step.view, got, step.want)
		}
	}
}
