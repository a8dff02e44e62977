package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/google/pprof/profile"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"usher/engine"
	"usher/engine/apigateway"
	"usher/engine/enginetest/process"
	"usher/engine/stomp"
)

const (
	// watchedMany messages are sent, one each watchedEvery.
	watchedMany  = 6000
	watchedEvery = 4 * time.Millisecond
	// As many of the first do not count: an engine claims the first window of a session,
	// and one that has been up is to be measured.
	watchedFirst = 1000
	// Of these messages each watchedOf-th has a watcher, and of these each stuckOf-th is
	// stuck.
	watchedOf = 6
	stuckOf   = 10
)

// gatewayRole and senderRole are the environment variables that make this binary the
// place where watchers are connected, at the given address, and the producer, with the
// given broker and the prefix of its messages' ids.
const (
	gatewayRole = "USHER_BENCH_GATEWAY"
	senderRole  = "USHER_BENCH_SENDER"
)

// stuck is what the connections begin with that never take a frame.
const stuck = "stuck-"

// serveGateway takes frames as API Gateway does, except for those to a connection that
// is stuck: they get no answer.
func serveGateway() {
	ln, err := net.Listen("tcp", os.Getenv(gatewayRole))
	if err != nil {
		panic(err)
	}
	panic(http.Serve(ln, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, stuck) {
			<-r.Context().Done()
		}
	})))
}

// sendWatched sends the messages of a run, each at its time.
func sendWatched() {
	broker, prefix, _ := strings.Cut(os.Getenv(senderRole), " ")
	ctx := context.Background()
	client, err := stomp.Dial(ctx, stomp.Config{URLs: []string{"stomp://" + broker}, Log: zerolog.Nop()})
	if err != nil {
		panic(err)
	}
	var g errgroup.Group
	tick := time.NewTicker(watchedEvery)
	for i := range watchedMany {
		<-tick.C
		g.Go(func() error {
			return client.Send(ctx, engine.Outgoing{Queue: engine.WorkQueue, Body: sentNow(), Headers: map[string]string{
				engine.HeaderType: typeWork, engine.HeaderPriority: strconv.Itoa(urgentLevel), engine.HeaderID: prefix + strconv.Itoa(i),
			}})
		})
	}
	if err := errors.Join(g.Wait(), client.Close()); err != nil {
		panic(err)
	}
}

// self is this binary in another role.
func self(t testing.TB, role, value string) *process.Process {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary)
	cmd.Env, cmd.Stderr = append(os.Environ(), role+"="+value), os.Stderr
	p, err := process.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func watchers(r *rig) measurement {
	const nobody, well, some = "nobody watches", "all take what they are told", "100 are stuck"
	run := func(connection func(i int) string) func(t testing.TB) []value {
		return func(t testing.TB) []value { return r.watched(t, connection) }
	}
	healthy := func(i int) string { return fmt.Sprintf("well-%d", i) }
	return measurement{
		name:  "watchers",
		title: "Watchers that are stuck",
		how: `6,000 messages of 2 ms come from a producer in a process of its own, one each 4 ms, and a plugin process runs them; ActiveMQ, records in SQLite. Each sixth has a
watcher, a thousand in all, who is told over API Gateway's interface: a server in a process of its own that takes a frame at once, or, of 100 watchers, never (each such request
ends after 3 s). What is measured is the time from just before SEND to the first line of the handler, but for the first thousand, and the processor time of the engine's process without the share that its
profile finds below the push or in HTTP, which nothing else in it uses.`,
		ways: []way{
			{nobody, run(nil)}, {well, run(healthy)},
			{some, run(func(i int) string {
				if i%stuckOf == 0 {
					return stuck + strconv.Itoa(i)
				}
				return healthy(i)
			})},
		},
		answers: func(res results) (all []answer) {
			for _, other := range []string{nobody, well} {
				all = append(all,
					answer{"p99 with 100 of 1,000 watchers stuck, to: " + other, "at most 1.1", "", res.of(some, "p99").over(res.of(other, "p99")), atMost(1.1)},
					answer{"Engine's CPU a message outside the pushes, to: " + other, "at most 1.05", "", res.of(some, "CPU outside the pushes").over(res.of(other, "CPU outside the pushes")), atMost(1.05)})
			}
			return all
		},
	}
}

// watched runs the messages of a run, of which some have a watcher on a connection.
func (r *rig) watched(t testing.TB, connection func(i int) string) []value {
	if err := r.plugin.forget(); err != nil {
		t.Fatal(err)
	}
	prefix := fmt.Sprintf("watched-%d-", time.Now().UnixNano())
	for i := 0; i < watchedMany && connection != nil; i += watchedOf {
		w := engine.Watcher{Connection: apigateway.Prefix + connection(i/watchedOf), Until: time.Now().Add(time.Hour)}
		if _, err := r.active.records.Watch(t.Context(), prefix+strconv.Itoa(i), w); err != nil {
			t.Fatal(err)
		}
	}
	address := process.FreeAddress(t)
	gateway := self(t, gatewayRole, address)
	pusher := apigateway.New(apigateway.Config{
		AWS:      aws.Config{Region: "eu-central-1", Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")},
		Endpoint: "http://" + address, Log: zerolog.Nop(),
	})
	defer pusher.Close()
	s := newStarts(watchedMany)
	var cpu bytes.Buffer
	before := r.used(t)
	if err := pprof.StartCPUProfile(&cpu); err != nil {
		t.Fatal(err)
	}
	sender := self(t, senderRole, r.active.address+" "+prefix)
	r.active.runOn(t, r.active.records, engine.Config{
		Handler: r.plugin, Observer: s, Notifier: pusher, Slots: engine.DefaultSlots, Types: map[string]engine.Type{typeWork: {}},
	}, s.all)
	pprof.StopCPUProfile()
	used := r.used(t).minus(before)
	<-sender.Ended
	if err := gateway.Kill(); err != nil {
		t.Fatal(err)
	}
	waits, err := r.plugin.waits()
	if err != nil || len(waits) != watchedMany {
		t.Fatalf("%d messages were run: %v", len(waits), err)
	}
	waits = waits[watchedFirst:]
	slices.Sort(waits)
	pushes := pushShare(t, &cpu)
	perMessage := func(d float64) float64 { return d / watchedMany / float64(time.Microsecond) }
	return []value{
		millis("p50", quantile(waits, 0.50)), millis("p99", quantile(waits, 0.99)),
		{"CPU outside the pushes", "µs", perMessage(float64(used.self) * (1 - pushes))}, {"CPU of the pushes", "µs", perMessage(float64(used.self) * pushes)},
	}
}

// pushShare is which share of a profile's samples are pushes.
func pushShare(t testing.TB, cpu *bytes.Buffer) float64 {
	t.Helper()
	p, err := profile.Parse(cpu)
	if err != nil {
		t.Fatal(err)
	}
	pushing := func(l *profile.Location) bool {
		return slices.ContainsFunc(l.Line, func(l profile.Line) bool {
			return strings.HasPrefix(l.Function.Name, "net/http.") || strings.HasPrefix(l.Function.Name, "usher/engine/apigateway.(*Pusher).send")
		})
	}
	var all, pushes int64
	for _, s := range p.Sample {
		all += s.Value[0]
		if slices.ContainsFunc(s.Location, pushing) {
			pushes += s.Value[0]
		}
	}
	if all == 0 {
		t.Fatal("the profile is empty")
	}
	return float64(pushes) / float64(all)
}
