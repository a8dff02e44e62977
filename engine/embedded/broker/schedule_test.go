package broker

import (
	"context"
	"net"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-stomp/stomp/v3/frame"
	"github.com/rs/zerolog"
)

// bubble is a broker in a synctest bubble, where time is ours; clients come
// through pipes.
type bubble struct {
	*Broker
	*testing.T
	ctx context.Context
}

func inBubble(t *testing.T, cfg Config, f func(b *bubble)) {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	cfg.Log = zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
	synctest.Test(t, func(t *testing.T) {
		b, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer func() {
			cancel()
			synctest.Wait()
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}()
		f(&bubble{b, t, ctx})
	})
}

func (b *bubble) dial() *raw {
	mine, its := net.Pipe()
	go b.serve(b.ctx, its)
	c := rawOn(b.T, mine)
	c.patience = time.Hour
	return c
}

func (b *bubble) raw() *raw {
	c := b.dial()
	c.put(frame.CONNECT, "accept-version", "1.2")
	c.want(frame.CONNECTED)
	return c
}

func now() int64 { return time.Now().UnixMilli() }

func ms(n int64) string { return strconv.FormatInt(n, 10) }

func TestScheduledMessageComesWhenItIsDue(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		t := b.T
		began := time.Now()
		p := b.raw()
		p.do(frame.SEND, "destination", "usher.work", "priority", "7", "AMQ_SCHEDULED_DELAY", "90000", "expires", ms(now()+100_000), "late")
		p.do(frame.SEND, "destination", "usher.work", "priority", "7", "AMQ_SCHEDULED_DELAY", "5000", "soon")
		p.do(frame.SEND, "destination", "usher.work", "priority", "7", "AMQ_SCHEDULED_DELAY", "5000", "scheduledJobId", "x", "at once")
		c := b.raw()
		c.subscribe("usher.work.p7", 10)
		if m := c.take(1)[0]; string(m.Body) != "at once" || m.Header.Get("scheduledJobId") != "x" {
			t.Errorf("%v %q", m.Header, m.Body)
		}
		if st := b.Stats(); st.Queues[8].Name != "usher.work.p7" || st.Queues[8].Scheduled != 2 || st.Queues[8].Size != 1 {
			t.Errorf("%+v", st.Queues[8])
		}
		if m := c.take(1)[0]; string(m.Body) != "soon" || time.Since(began) != 5*time.Second || m.Header.Get("timestamp") != ms(now()) {
			t.Errorf("%v after %v", m.Header, time.Since(began))
		}
		m := c.take(1)[0]
		if string(m.Body) != "late" || time.Since(began) != 90*time.Second {
			t.Errorf("%q after %v", m.Body, time.Since(began))
		}
		for name, want := range map[string]string{"expires": ms(now() + 100_000), "priority": "7", "redelivered": "",
			"scheduledJobId": m.Header.Get("message-id"), "original-destination": "/queue/usher.work"} {
			if got := m.Header.Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
	})
}

func TestScheduleSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	r := start(t, Config{Dir: dir})
	c := r.raw()
	c.do(frame.SEND, "destination", "q", "AMQ_SCHEDULED_DELAY", "3600000", "much later")
	c.do(frame.SEND, "destination", "q", "AMQ_SCHEDULED_DELAY", "20", "soon")
	r = r.restart(Config{})
	c = r.raw()
	c.subscribe("q", 5)
	if got := texts(c.take(1)); got != "soon" {
		t.Errorf("%s", got)
	}
	if q := r.queue("q"); q.Scheduled != 1 || q.Size != 1 {
		t.Errorf("%+v", q)
	}
}

func TestReleasedMessageKeepsItsPlaceOverARestart(t *testing.T) {
	r := start(t, Config{})
	c := r.raw()
	c.do(frame.SEND, "destination", "q", "AMQ_SCHEDULED_DELAY", "50", "scheduled first, sent second")
	c.do(frame.SEND, "destination", "q", "sent first")
	eventually(t, "it is released", func() bool { return r.queue("q").Size == 2 })
	r = r.restart(Config{})
	c = r.raw()
	c.subscribe("q", 5)
	if got := texts(c.take(2)); got != "sent first scheduled first, sent second" {
		t.Errorf("%s", got)
	}
}

func TestExpiredIsNeverDelivered(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		t := b.T
		expires := ms(now() + 10_000)
		p := b.raw()
		p.do(frame.SEND, "destination", "usher.work", "expires", expires, "1")
		p.do(frame.SEND, "destination", "usher.work", "2")
		p.do(frame.SEND, "destination", "usher.work", "expires", ms(now()-1), "expired on arrival")
		<-time.After(11 * time.Second)
		c := b.raw()
		c.subscribe("usher.work.p4", 10)
		if got := texts(c.take(1)); got != "2" {
			t.Errorf("delivered: %s", got)
		}
		c.do(frame.SUBSCRIBE, "id", "d", "destination", "DLQ.usher.work.p4", "ack", "auto")
		dead := c.take(2)
		if got := texts(dead); got != "expired on arrival 1" {
			t.Errorf("dead: %s", got)
		}
		for name, want := range map[string]string{"expires": "", "originalExpiration": expires, "original-destination": "/queue/usher.work.p4",
			"dlqDeliveryFailureCause": "Message Expired. Expiration:" + expires} {
			if got := dead[1].Header.Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
	})
}

func TestSweepFindsWhatNobodyTakes(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		t := b.T
		p := b.raw()
		const n = 3*blockLen + 7
		for i := range n {
			expires := now() + 1000
			if i%3 == 0 {
				expires = now() + 3_600_000
			}
			p.put(frame.SEND, "destination", "q", "expires", ms(expires), strconv.Itoa(i))
		}
		p.do(frame.SEND, "destination", "q", "last")
		c := b.raw()
		c.subscribe("q", 3)
		c.take(3)
		_ = c.nc.Close() // three that came back, one of which stays
		<-time.After(sweepEvery + time.Second)
		synctest.Wait()
		st := b.Stats()
		if q := st.Queues[0]; q.Name != "DLQ.q" || q.Size != n-n/3-1 {
			t.Errorf("%+v", q)
		}
		if q := st.Queues[1]; q.Name != "q" || q.Size != n/3+2 {
			t.Errorf("%+v", q)
		}
		c = b.raw()
		c.subscribe("q", 1000)
		left := c.take(n/3 + 2)
		for i, m := range left[:n/3+1] {
			if string(m.Body) != strconv.Itoa(3*i) {
				t.Fatalf("message %d is %q", i, m.Body)
			}
		}
	})
}

func TestHeartBeats(t *testing.T) {
	for _, c := range []struct {
		ours                 time.Duration
		header, answer       string
		wantBeat, wantDropAt time.Duration // 0: never
	}{
		{0, "0,0", "1000,1000", 0, 0},
		{0, "", "1000,1000", 0, 0},
		{0, "2000,3000", "1000,1000", 3 * time.Second, 4 * time.Second},
		{0, "500,0", "1000,1000", 0, 2 * time.Second},
		{0, "5000,0", "1000,1000", 0, 10 * time.Second},
		{10 * time.Second, "4000,6000", "10000,10000", 10 * time.Second, 20 * time.Second},
		{-1, "1000,1000", "0,0", 0, 0},
	} {
		t.Run(c.header+" "+c.ours.String(), func(t *testing.T) {
			inBubble(t, Config{HeartBeat: c.ours}, func(b *bubble) {
				t := b.T
				client := b.dial()
				client.put(frame.CONNECT, "accept-version", "1.1,1.2", "heart-beat", c.header)
				if got := client.want(frame.CONNECTED).Header.Get("heart-beat"); got != c.answer {
					t.Errorf("heart-beat:%s", got)
				}
				began, last := time.Now(), time.Now()
				beats := 0
				_ = client.nc.SetReadDeadline(began.Add(time.Hour))
				for {
					f, err := client.r.Read()
					if err != nil {
						break
					}
					if gap := time.Since(last); f != nil || gap > c.wantBeat {
						t.Errorf("%v after %v", f, gap)
					}
					last = time.Now()
					beats++
				}
				ended := time.Since(began)
				if want := c.wantDropAt; want == 0 && ended < time.Hour || want != 0 && ended != want {
					t.Errorf("dropped after %v, want %v", ended, want)
				}
				if (beats > 0) != (c.wantBeat > 0) {
					t.Errorf("%d beats", beats)
				}
			})
		})
	}
}

func TestHeartBeatsKeepAConnection(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		c := b.dial()
		c.put(frame.CONNECT, "accept-version", "1.2", "heart-beat", "1000,0")
		c.want(frame.CONNECTED)
		for range 60 {
			<-time.After(time.Second)
			c.bytes("\n")
		}
		c.do(frame.SEND, "destination", "q", "x")
	})
}

func TestConnectMustComeSoon(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		t := b.T
		began := time.Now()
		c := b.dial()
		_ = c.nc.SetReadDeadline(began.Add(time.Hour))
		if f, err := c.r.Read(); err == nil {
			t.Errorf("got %v", f)
		}
		if d := time.Since(began); d != DefaultConnectTimeout {
			t.Errorf("closed after %v", d)
		}
	})
}

func TestVersionIsTheHighestOfBoth(t *testing.T) {
	r := start(t, Config{})
	for offered, want := range map[string]string{"1.0": "", "1.1,1.0": "1.1", "1.2,1.1,1.0,2.0": "1.2", "1.0, 1.2": "1.2"} {
		c := r.dial()
		c.put(frame.STOMP, "accept-version", offered, "host", "x")
		if got := c.want(frame.CONNECTED).Header.Get("version"); got != want {
			t.Errorf("%q: version %q", offered, got)
		}
	}
}

// A connection without room is served in the order of its subscriptions when it
// has room again.
func TestRoomGoesToTheFirstSubscriptionFirst(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		const each = 100 // of ten lanes: four times what an outbox takes
		p := b.raw()
		for i := range 10 * each {
			p.put(frame.SEND, "destination", "usher.work", "priority", strconv.Itoa(i%10))
		}
		p.do(frame.DISCONNECT)
		c := b.raw()
		for level := 9; level >= 0; level-- {
			c.put(frame.SUBSCRIBE, "id", strconv.Itoa(level), "destination", "usher.work.p"+strconv.Itoa(level), "ack", "client")
			synctest.Wait() // all is dealt out, and nothing is read
		}
		last := "9"
		for range 10 * each {
			m := c.want(frame.MESSAGE)
			if at := m.Header.Get("subscription"); at > last {
				b.Fatalf("a message of lane %s after one of lane %s", at, last)
			} else {
				last = at
			}
		}
	})
}
