package stomp_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"testing"
	"time"

	gostomp "github.com/go-stomp/stomp/v3"
	"github.com/go-stomp/stomp/v3/frame"
	"github.com/rs/zerolog"

	"usher/deploy/brokerxml"
	"usher/engine"
	"usher/engine/enginetest/activemq"
	"usher/engine/stomp"
)

// withoutLines writes usher's XML without what TestXMLIsNeeded is about, and with two
// composite queues that have a lane for one level only.
func withoutLines(w io.Writer, address, data string) error {
	var whole bytes.Buffer
	if err := brokerxml.Write(&whole, brokerxml.Options{STOMP: address, Data: data}); err != nil {
		return err
	}
	text := whole.String()
	lane := func(queue, attributes string) string {
		return fmt.Sprintf(`<compositeQueue name="%s" forwardOnly="true"%s><forwardTo>`+
			`<filteredDestination selector="JMSPriority = 9" queue="%s.p9"/></forwardTo></compositeQueue>`, queue, attributes, queue)
	}
	for _, change := range [][2]string{
		{`<forcePersistencyModeBrokerPlugin [^>]*/>`, ""},
		{`<statisticsBrokerPlugin/>`, ""},
		{`<timeStampingBrokerPlugin/>`, ""},
		{` persistJMSRedelivered="true"`, ""},
		{` schedulerSupport="true"`, ` schedulerSupport="false"`},
		{`</virtualDestinations>`, lane("kept", ` sendWhenNotMatched="true"`) + lane("lost", "") + `</virtualDestinations>`},
	} {
		line := regexp.MustCompile(change[0])
		if !line.MatchString(text) {
			return fmt.Errorf("usher's XML has no %s", change[0])
		}
		text = line.ReplaceAllString(text, change[1])
	}
	_, err := io.WriteString(w, text)
	return err
}

// plain is a client of go-stomp's own.
type plain struct {
	t *testing.T
	*gostomp.Conn
}

func dialPlain(t *testing.T, address string) plain {
	t.Helper()
	conn, err := gostomp.Dial("tcp", address, gostomp.ConnOpt.HeartBeat(0, 0), gostomp.ConnOpt.Logger(quietLog{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.MustDisconnect() })
	return plain{t, conn}
}

// quietLog keeps go-stomp from writing what it thinks of a closed connection.
type quietLog struct{}

func (quietLog) Debugf(string, ...any)   {}
func (quietLog) Infof(string, ...any)    {}
func (quietLog) Warningf(string, ...any) {}
func (quietLog) Errorf(string, ...any)   {}
func (quietLog) Debug(string)            {}
func (quietLog) Info(string)             {}
func (quietLog) Warning(string)          {}
func (quietLog) Error(string)            {}

// send sends a message with headers and waits for its receipt.
func (p plain) send(queue, body string, headers ...string) {
	p.t.Helper()
	options := []func(*frame.Frame) error{gostomp.SendOpt.Receipt}
	for i := 0; i < len(headers); i += 2 {
		options = append(options, gostomp.SendOpt.Header(headers[i], headers[i+1]))
	}
	if err := p.Send("/queue/"+queue, "text/plain", []byte(body), options...); err != nil {
		p.t.Fatal(err)
	}
}

// first takes the first message of a queue and leaves it in hand.
func (p plain) first(queue string) *gostomp.Message {
	p.t.Helper()
	sub, err := p.Subscribe("/queue/"+queue, gostomp.AckClientIndividual, gostomp.SubscribeOpt.Header("activemq.prefetchSize", "1"))
	if err != nil {
		p.t.Fatal(err)
	}
	select {
	case m := <-sub.C:
		if m.Err != nil {
			p.t.Fatal(m.Err)
		}
		return m
	case <-time.After(time.Minute):
		p.t.Fatalf("no message in %s", queue)
		return nil
	}
}

// TestXMLIsNeeded shows what ActiveMQ does without the lines of usher's XML, each of
// which is there because of it: what the suite finds with them is due to them. Seen on
// ActiveMQ 5.18.3.
func TestXMLIsNeeded(t *testing.T) {
	server := activemq.Start(t, withoutLines)
	c := dialPlain(t, server.Address())
	t.Run("WithSendWhenNotMatchedTheUnmatchedStay", func(t *testing.T) {
		for _, priority := range []string{"9", "4"} {
			c.send("kept", priority, "priority", priority, "persistent", "true")
		}
		for queue, want := range map[string]string{"kept": "4", "kept.p9": "9"} {
			if m := dialPlain(t, server.Address()).first(queue); string(m.Body) != want {
				t.Errorf("%s has %q", queue, m.Body)
			}
		}
	})
	t.Run("WithoutSendWhenNotMatchedTheyAreGone", func(t *testing.T) {
		c.send("lost", "4", "priority", "4", "persistent", "true") // and there is a receipt
		c.send("lost.p9", "marker", "priority", "0", "persistent", "true")
		if m := dialPlain(t, server.Address()).first("lost.p9"); string(m.Body) != "marker" {
			t.Errorf("lost.p9 has %q", m.Body)
		}
		if n := leftIn(t, server.Address(), "lost"); n != 0 {
			t.Errorf("lost has %d messages", n)
		}
	})
	t.Run("WithoutTimeStampingTheProducersClockCounts", func(t *testing.T) {
		c.send("stamped", "", "timestamp", "1000000000000", "persistent", "true")
		if stamp := dialPlain(t, server.Address()).first("stamped").Header.Get(engine.HeaderTimestamp); stamp != "1000000000000" {
			t.Errorf("the timestamp is %s", stamp)
		}
	})
	t.Run("WithoutSchedulerSupportNothingWaits", func(t *testing.T) {
		c.send("delayed", "", engine.HeaderScheduledDelay, "3600000", "persistent", "true")
		dialPlain(t, server.Address()).first("delayed")
	})
	t.Run("WithoutStatisticsThereAreNoDepths", func(t *testing.T) {
		b := run(t, stomp.Config{URLs: []string{"stomp://" + server.Address()}, Log: zerolog.Nop()})
		until(t, b, 1)
		if _, err := b.Depths(t.Context()); !errors.Is(err, engine.ErrNoStatistics) {
			t.Errorf("Depths: %v", err)
		}
	})
	testCrashWithoutLines(t, server, c)
}

// testCrashWithoutLines is the part of TestXMLIsNeeded that needs a crash.
func testCrashWithoutLines(t *testing.T, server *activemq.Server, c plain) {
	t.Helper()
	c.send("durable", "forgot to say")
	c.send("durable", "said", "persistent", "true")
	c.send("inhand", "", "persistent", "true")
	c.first("inhand")
	server.Restart(t)
	t.Run("WithoutForcedPersistencyTheForgottenAreLost", func(t *testing.T) {
		if m := dialPlain(t, server.Address()).first("durable"); string(m.Body) != "said" {
			t.Errorf("%q is still there", m.Body)
		}
	})
	t.Run("WithoutPersistJMSRedeliveredItIsForgotten", func(t *testing.T) {
		if m := dialPlain(t, server.Address()).first("inhand"); m.Header.Get(engine.HeaderRedelivered) != "" {
			t.Error("the broker knows that it was given out before")
		}
	})
}

// leftIn looks through a queue and counts.
func leftIn(t *testing.T, address, queue string) int {
	t.Helper()
	client, err := stomp.Dial(t.Context(), stomp.Config{URLs: []string{"stomp://" + address}, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	n := 0
	view := stomp.View{Queue: queue, Quiet: 300 * time.Millisecond}
	err = client.Consume(t.Context(), view, func(engine.Delivery) (bool, error) {
		n++
		return false, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
