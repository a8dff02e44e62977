package live_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"pgregory.net/rapid"

	"usher/engine"
	"usher/engine/embedded/live"
)

// finalSeq is what the engine adds to the count of a final status.
const finalSeq = 1 << 52

// story is what engines tell of one message, in the order in which it is so.
type story struct {
	id      string
	told    []engine.Status
	written map[int]engine.Change // before the status of that number is told
}

// drawStory makes up a message: rounds of attempts, with progress, and an end.
func drawStory(t *rapid.T, id string) story {
	s := story{id: id, written: map[int]engine.Change{}}
	at := 0 // in milliseconds
	tell := func(state engine.State, hop int, progress bool) {
		at++
		count := at * 1000
		if state.Final() {
			count += finalSeq
		}
		next := status(id, state, hop, count)
		if progress {
			ratio := 0.5
			next.Progress = &ratio
		}
		s.told = append(s.told, next)
	}
	write := func(state engine.State, from, hop int) {
		at++
		s.written[len(s.told)] = engine.Change{
			ID: id, Type: "t", Digest: "d", Hop: from, NextHop: hop, Token: fmt.Sprint(at), State: state, Now: time.UnixMilli(int64(at)),
		}
	}
	rounds := rapid.IntRange(1, 4).Draw(t, "rounds")
	for hop := range rounds {
		for range rapid.IntRange(1, 2).Draw(t, "attempts") {
			tell(engine.Processing, hop, false)
			for range rapid.IntRange(0, 4).Draw(t, "progress") {
				tell(engine.Processing, hop, true)
			}
		}
		state, next := engine.Retrying, hop+1
		if hop == rounds-1 {
			state, next = rapid.SampledFrom([]engine.State{engine.Done, engine.Cancelled, engine.Dead}).Draw(t, "end"), hop
		}
		write(state, hop, next)
		tell(state, hop, false)
	}
	return s
}

// viewer is somebody who watches, over one connection after another, and takes
// up where the last one ended.
type viewer struct {
	r      *rig
	id     string
	client *client
	read   chan struct{} // closed when the connection is read to its end

	mu    sync.Mutex
	last  engine.Seq // guarded by mu, as the rest
	state engine.State
	wrong string
}

func (v *viewer) connect(t *testing.T) {
	v.client, v.read = v.r.connect(), make(chan struct{})
	seq := ""
	v.mu.Lock()
	if v.state != "" {
		text, _ := v.last.MarshalText()
		seq = string(text)
	}
	first := v.state == ""
	v.mu.Unlock()
	v.client.send(ask(t, v.id, "", seq))
	go func(ws *websocket.Conn, read chan<- struct{}) {
		defer close(read)
		for {
			_, data, err := ws.Read(t.Context())
			if err != nil {
				return
			}
			var f frame
			if err := json.Unmarshal(data, &f); err != nil {
				return
			}
			v.mu.Lock()
			if !first && !v.last.Less(f.Seq) || f.Error != "" {
				v.wrong = fmt.Sprintf("%+v came after %v", f, v.last)
			}
			first, v.last, v.state = false, f.Seq, f.State
			v.mu.Unlock()
		}
	}(v.client.ws, v.read)
}

func (v *viewer) leave() {
	_ = v.client.ws.CloseNow()
	<-v.read
}

func (v *viewer) sees() (engine.State, string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.state, v.wrong
}

// Whatever order the words of several engines come in, and however often the
// viewer loses the connection: what it sees never goes back, and ends with the end.
func TestWhatAViewerSeesNeverGoesBackAndEndsWithTheEnd(t *testing.T) {
	r := setup(t, func(c *live.Config) { c.MaxConnections, c.MaxPerAddress = 5000, 5000 })
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		s := drawStory(rt, fmt.Sprintf("m-%d", n))
		v := &viewer{r: r, id: s.id}
		v.connect(t)
		var underWay []engine.Status // told, and not come yet
		deliver := func() {
			i := rapid.IntRange(0, len(underWay)-1).Draw(rt, "which")
			next := underWay[i]
			underWay = append(underWay[:i], underWay[i+1:]...)
			times := 1 + rapid.IntRange(0, 1).Draw(rt, "again")
			rec, err := r.table.Record(t.Context(), s.id)
			if err != nil && !errors.Is(err, engine.ErrNotFound) { // nobody watches yet
				t.Fatal(err)
			}
			for range times {
				r.hub.Notify(rec.Watchers, next)
			}
		}
		for i, next := range s.told {
			if change, ok := s.written[i]; ok {
				if _, err := r.table.Write(t.Context(), change); err != nil {
					t.Fatal(err)
				}
			}
			underWay = append(underWay, next)
			for len(underWay) > 0 && rapid.IntRange(0, 2).Draw(rt, "comes") > 0 {
				deliver()
			}
			if rapid.IntRange(0, 5).Draw(rt, "breaks") == 0 {
				v.leave()
				v.connect(t)
			}
		}
		for len(underWay) > 0 {
			deliver()
		}
		defer v.leave()
		end := time.After(deadline)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			state, wrong := v.sees()
			switch {
			case wrong != "":
				rt.Fatal(wrong)
			case state == s.told[len(s.told)-1].State:
				return
			}
			select {
			case <-tick.C:
			case <-end:
				rt.Fatalf("it sees %s at the end, not %s", state, s.told[len(s.told)-1].State)
			}
		}
	})
}
