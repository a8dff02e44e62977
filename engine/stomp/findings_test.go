package stomp_test

import (
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3/frame"
	"github.com/rs/zerolog"

	"usher/deploy/brokerxml"
	"usher/engine"
	"usher/engine/enginetest/activemq"
	"usher/engine/stomp"
)

// variant is a broker whose XML differs from ours by one edit, and what is then found.
type variant struct {
	pattern, replacement string
	finding, detail      string
}

// onlyQueues lets our user use queues, and no topic of ours.
const onlyQueues = `<plugins>
  <simpleAuthenticationPlugin><users><authenticationUser username="usher" password="secret" groups="work"/></users></simpleAuthenticationPlugin>
  <authorizationPlugin><map><authorizationMap>
    <authorizationEntries>
      <authorizationEntry queue=">" read="work" write="work" admin="work"/>
      <authorizationEntry topic="ActiveMQ.Advisory.>" read="work" write="work" admin="work"/>
      <authorizationEntry topic="usher.>" read="others" write="others" admin="others"/>
    </authorizationEntries>
    <tempDestinationAuthorizationEntry><tempDestinationAuthorizationEntry read="work" write="work" admin="work"/></tempDestinationAuthorizationEntry>
  </authorizationMap></map></authorizationPlugin>`

// startVariants starts a real ActiveMQ for each, all in one process, and gives
// their addresses by name.
func startVariants(t *testing.T, variants map[string]variant) map[string]string {
	t.Helper()
	addresses := map[string]string{}
	activemq.Start(t, func(w io.Writer, first, data string) error {
		brokers := ""
		for name, v := range variants {
			address := first // which has to take a CONNECT without a login
			if name != "AsWeWriteIt" {
				address = freeAddress(t)
			}
			addresses[name] = address
			brokers += brokerElement(t, v, name, address, filepath.Join(data, name))
		}
		ours := ourXML(t, "", first, data)
		_, err := io.WriteString(w, element.ReplaceAllLiteralString(ours, brokers))
		return err
	})
	return addresses
}

// element is a broker's part of the XML.
var element = regexp.MustCompile(`(?s)<broker .*</broker>`)

func ourXML(t *testing.T, queue, address, data string) string {
	t.Helper()
	var b strings.Builder
	if err := brokerxml.Write(&b, brokerxml.Options{Queue: queue, STOMP: address, Data: data}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// brokerElement is our XML after the edit, which must hit something. The first
// broker is started by ActiveMQ's main program, the others by start="true".
func brokerElement(t *testing.T, v variant, name, address, data string) string {
	t.Helper()
	ours := element.FindString(ourXML(t, variantQueue(name), address, data))
	edit := regexp.MustCompile(v.pattern)
	if !edit.MatchString(ours) {
		t.Fatalf("nothing in our XML matches %s", v.pattern)
	}
	names := strings.NewReplacer(`brokerName="usher"`, `start="true" brokerName="`+name+`"`, `name="stomp"`, `name="stomp-`+name+`"`)
	return names.Replace(edit.ReplaceAllString(ours, v.replacement))
}

// variantQueue is the work queue of a variant: the names of queues have to differ
// within one XML.
func variantQueue(name string) string { return "work." + name }

func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// eventually gives the findings by name when they satisfy done.
func eventually(t *testing.T, b *stomp.Broker, done func(map[string]stomp.Finding) bool) map[string]stomp.Finding {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(patience)
	for {
		found := map[string]stomp.Finding{}
		for _, f := range b.Findings() {
			found[f.Name] = f
		}
		if done(found) {
			return found
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("at the end it is %+v, %v", found, b.Probed())
		}
	}
}

// Each part of our XML that the engine relies on is missed, by name and with a
// remedy, on a real broker that lacks it and nothing else.
func TestFindingsNameWhatTheBrokerLacks(t *testing.T) {
	variants := map[string]variant{
		"NoLanes":             {`(?s)<destinationInterceptors>.*</destinationInterceptors>`, ``, stomp.FindingLanes, "there are none: all messages stay in work.NoLanes"},
		"OneLaneMissing":      {`<filteredDestination selector="JMSPriority = 3".*/>`, ``, stomp.FindingLanes, "level 3 has no lane: what is sent stays in work.OneLaneMissing"},
		"TwoLanesSwapped":     {`p4"/>`, `p5"/>`, stomp.FindingLanes, "level 4 comes out in work.TwoLanesSwapped.p5"},
		"LaneCoveredTwice":    {`(<filteredDestination selector="JMSPriority = )4(" .*/>)`, `${1}4$2${1}5$2`, stomp.FindingLanes, "level 5 comes out more than once: in work.LaneCoveredTwice.p"},
		"NotForwardOnly":      {`forwardOnly="true" sendWhenNotMatched="true"`, `forwardOnly="false"`, stomp.FindingLanes, "levels 9, 8, 7, 6, 5, 4, 3, 2, 1 and 0 come out more than once: in work.NotForwardOnly"},
		"MissingLaneIsAGrave": {`(?s) sendWhenNotMatched="true"(.*)<filteredDestination selector="JMSPriority = 3" [^>]*/>`, `$1`, stomp.FindingLanes, "no message of level 3 came out within 5s"},
		"NoScheduler":         {` schedulerSupport="true"`, ``, stomp.FindingScheduler, "come back at once"},
		"NoStatistics":        {`<statisticsBrokerPlugin/>`, ``, stomp.FindingStatistics, "does not tell how much waits"},
		"NothingForced":       {`<forcePersistencyModeBrokerPlugin .*/>`, ``, stomp.FindingDurability, "lost when the broker restarts"},
		"NoTimestamps":        {`<timeStampingBrokerPlugin/>`, ``, stomp.FindingTimestamps, "the time that producers say"},
		"AsWeWriteIt":         {`$`, ``, "", ""},
		"NoRightToTell":       {`<plugins>`, onlyQueues, "", ""},
	}
	addresses := startVariants(t, variants)
	for name, v := range variants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := run(t, stomp.Config{URLs: []string{"stomp://" + addresses[name]}, Login: "usher", Passcode: "secret", Queue: variantQueue(name), Probe: true, Log: zerolog.Nop()})
			until(t, b, 1)
			eventually(t, b, func(found map[string]stomp.Finding) bool {
				_, _ = b.Depths(t.Context()) // what it says is a finding; a busy broker is slow at first
				for _, f := range found {
					if want := f.Name == v.finding; (f.State == stomp.Failed) != want || f.State == stomp.Unknown ||
						want && (!strings.Contains(f.Detail, v.detail) || f.Help == "") {
						return false
					}
				}
				return len(found) > 0 && b.Probed() == nil
			})
			if depths, err := b.LastDepths(); err == nil && depths.Epoch != 1 {
				t.Errorf("the session was lost: this is number %d", depths.Epoch)
			}
		})
	}
}

// echo is a fake broker without lanes, whose clock is off: it delivers what it is sent.
func echo(t *testing.T, off time.Duration) *fake {
	t.Helper()
	return serve(t, func(s *fake) {
		s.take = func(c *fakeConn, f *frame.Frame) bool {
			if f.Command != frame.SEND || f.Header.Get(frame.Destination) != "/queue/usher.work" {
				return false
			}
			s.mu.Lock()
			consumer := s.conns[0]
			s.mu.Unlock()
			id := f.Header.Get(engine.HeaderProbe)
			consumer.send(frame.MESSAGE, "", "subscription", "lane-unsorted", "message-id", id, "ack", id,
				"type", f.Header.Get("type"), engine.HeaderProbe, id, "persistent", "true",
				"timestamp", strconv.FormatInt(time.Now().Add(off).UnixMilli(), 10))
			return false
		}
	})
}

func TestFindingsTellOfTheBrokersClock(t *testing.T) {
	for name, test := range map[string]struct {
		off    time.Duration
		state  stomp.FindingState
		detail string
	}{
		"right":  {0, stomp.OK, "within 1s"},
		"near":   {-700 * time.Millisecond, stomp.OK, "within 1s"},
		"ahead":  {90 * time.Second, stomp.Failed, "1m30s ahead"},
		"behind": {-5 * time.Second, stomp.Failed, "5s behind"},
	} {
		t.Run(name, func(t *testing.T) {
			c := echo(t, test.off).config()
			c.Probe = true
			b := run(t, c)
			f := eventually(t, b, func(found map[string]stomp.Finding) bool {
				f := found[stomp.FindingClock]
				return f.Detail != "" && f.State != stomp.Unknown
			})[stomp.FindingClock]
			if f.State != test.state || !strings.Contains(f.Detail, test.detail) {
				t.Errorf("%+v, want %s and %q", f, test.state, test.detail)
			}
		})
	}
}

// A probe of another engine is told of and then acked; nobody receives it.
func TestProbeOfAnotherEngineIsToldOfAndAcked(t *testing.T) {
	s := serve(t, nil)
	b := run(t, s.config())
	until(t, b, 1)
	c := s.subscribed()
	c.send(frame.MESSAGE, "", "subscription", "lane-7", "message-id", "m1", "ack", "ack-m1", "type", engine.TypeProbe,
		engine.HeaderProbe, "THEIRS/7", "timestamp", "5", "persistent", "true")
	f := s.next(frame.SEND)
	want := `{"probe":"THEIRS/7","lane":7,"persistent":true,"scheduled":false,"timestamp":5}`
	if f.Header.Get(frame.Destination) != "/topic/usher.control" || string(f.Body) != want {
		t.Errorf("the others are told %s at %s", f.Body, f.Header.Get(frame.Destination))
	}
	if ack := s.next(frame.ACK); ack.Header.Get("id") != "ack-m1" {
		t.Errorf("ACK %v", ack.Header)
	}
	c.message("lane-7", "m2")
	if d := deliveries(t, b, 1)[0]; d.BrokerID != "m2" {
		t.Errorf("received %+v", d)
	}
}

// Only an empty message of the probe's type is one: a producer's work is never
// taken for it, whatever headers it has.
func TestWorkIsNotTakenForAProbe(t *testing.T) {
	s := serve(t, nil)
	config := s.config()
	config.MaxBodyBytes = 50
	b := run(t, config)
	until(t, b, 1)
	c := s.subscribed()
	c.message("lane-7", "has a body", "type", engine.TypeProbe, engine.HeaderProbe, "X/7")
	c.send(frame.MESSAGE, "", "subscription", "lane-7", "message-id", "has a type", "ack", "2", "type", "order.rush", engine.HeaderProbe, "X/7")
	c.send(frame.MESSAGE, "", "subscription", "lane-7", "message-id", "has no mark", "ack", "3", "type", engine.TypeProbe)
	c.message("lane-7", "has too large a body"+strings.Repeat("!", 100), "type", engine.TypeProbe, engine.HeaderProbe, "X/7")
	for i, d := range deliveries(t, b, 4) {
		if want := []string{"has a body", "has a type", "has no mark", "has too large a body" + strings.Repeat("!", 100)}[i]; d.BrokerID != want {
			t.Errorf("delivery %d is %q, want %q", i, d.BrokerID, want)
		}
	}
}

// A broker that takes nothing keeps readiness waiting for a bounded time, and
// what it does is not known.
func TestProbeThatCannotBeSentIsWaitedForABoundedTime(t *testing.T) {
	s := serve(t, func(s *fake) {
		s.take = func(_ *fakeConn, f *frame.Frame) bool { return f.Command == frame.SEND }
	})
	c := s.config()
	c.Probe = true
	b := run(t, c)
	until(t, b, 1)
	if b.Probed() == nil {
		t.Error("it is over before it has begun")
	}
	began := time.Now()
	found := eventually(t, b, func(map[string]stomp.Finding) bool { return b.Probed() == nil })
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	for _, f := range found {
		if f.State != stomp.Unknown {
			t.Errorf("%+v, want it to be unknown", f)
		}
	}
}

func TestWithoutAProbeNothingIsFound(t *testing.T) {
	b := run(t, serve(t, nil).config())
	until(t, b, 1)
	if f, err := b.Findings(), b.Probed(); f != nil || err != nil {
		t.Errorf("found %+v, %v", f, err)
	}
}
