package chaos

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"usher/deploy/brokerxml"
	"usher/engine/enginetest/ledger"
)

// edited is the XML that usher writes, with texts in others' places: each of the first
// of a pair is replaced once by the second.
func edited(pairs ...string) func(w io.Writer, address, data string) error {
	return func(w io.Writer, address, data string) error {
		var b bytes.Buffer
		if err := brokerxml.Write(&b, brokerxml.Options{STOMP: address, Data: data}); err != nil {
			return err
		}
		xml := b.String()
		for pair := range slices.Chunk(pairs, 2) {
			if !strings.Contains(xml, pair[0]) {
				return fmt.Errorf("the XML has no %s", pair[0])
			}
			xml = strings.Replace(xml, pair[0], pair[1], 1)
		}
		_, err := io.WriteString(w, xml)
		return err
	}
}

// nobodyMayBury lets everybody do everything but write into the dead-letter queue.
const nobodyMayBury = `<plugins>
  <simpleAuthenticationPlugin anonymousAccessAllowed="true"><users><authenticationUser username="usher" password="secret" groups="others"/></users></simpleAuthenticationPlugin>
  <authorizationPlugin><map><authorizationMap>
    <authorizationEntries>
      <authorizationEntry queue="usher.work" read="anonymous" write="anonymous" admin="anonymous"/>
      <authorizationEntry queue="usher.work.>" read="anonymous" write="anonymous" admin="anonymous"/>
      <authorizationEntry queue="ActiveMQ.>" read="anonymous" write="anonymous" admin="anonymous"/>
      <authorizationEntry queue="DLQ.>" read="anonymous" write="anonymous" admin="anonymous"/>
      <authorizationEntry queue="usher.dead" read="anonymous" write="others" admin="anonymous"/>
      <authorizationEntry topic=">" read="anonymous" write="anonymous" admin="anonymous"/>
    </authorizationEntries>
    <tempDestinationAuthorizationEntry><tempDestinationAuthorizationEntry read="anonymous" write="anonymous" admin="anonymous"/></tempDestinationAuthorizationEntry>
  </authorizationMap></map></authorizationPlugin>`

// TestADeadLetterQueueThatMayNotBeWritten: what would be dead stays with the broker until
// it may be, and all else goes on.
func TestADeadLetterQueueThatMayNotBeWritten(t *testing.T) {
	r := newRigOn(t, edited("<plugins>", nobodyMayBury))
	r.start()
	table := r.openRecords()
	kinds := []ledger.Kind{{Type: "order.rush"}, {Type: "address.check", Ends: ledger.Dead}}
	l, stop := r.load(ledger.Config{Kinds: kinds, Every: 50 * time.Millisecond, Seed: 1}, 2)
	pause(5 * time.Second)
	stop()
	var left []string
	eventually(t, time.Minute, "half of them done, the others in hand", func() bool {
		left = unfinished(t, table, l.Acknowledged())
		inHand := r.engines[0].queues().InHand + r.engines[1].queues().InHand
		return len(left) <= len(l.Acknowledged())*6/10 && inHand >= len(left)
	})
	r.broker.Configure(t, edited())
	r.broker.Kill(t)
	r.broker.Run(t)
	r.ready()
	r.settled(l, table)
	closed(t, r, l, table, fmt.Sprintf("%d waited", len(left)))
}

// closed ends the engines, and closes the books.
func closed(t testing.TB, r *rig, l *ledger.Ledger, table books, measured string) ledger.Account {
	t.Helper()
	stop := func() {
		for _, e := range r.engines {
			e.stop()
		}
	}
	if r.broker == nil {
		defer stop() // the broker ends with it
	} else {
		stop()
	}
	a, err := l.Close(t.Context(), ledger.Evidence{Effects: r.effects(), Broker: r.address, Table: table, Archive: table})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("ledger: %v", a)
	t.Attr("measured", measured+"; "+a.Counts())
	if a.Lost != 0 || a.Unexpected != 0 || a.Acknowledged < 100 {
		t.Errorf("lost %d, unexpected %d, acknowledged %d; want 0, 0 and at least 100", a.Lost, a.Unexpected, a.Acknowledged)
	}
	return a
}
