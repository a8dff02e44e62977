package brokerxml_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"

	"usher/deploy/brokerxml"
	"usher/engine"
)

// element is an element of the XML that was written.
type element struct {
	name     string
	attrs    map[string]string
	children []*element
}

// find returns the elements of the name, at any depth.
func (e *element) find(name string) []*element {
	var found []*element
	if e.name == name {
		found = append(found, e)
	}
	for _, c := range e.children {
		found = append(found, c.find(name)...)
	}
	return found
}

func write(t *testing.T, o brokerxml.Options) (*element, string) {
	t.Helper()
	var b bytes.Buffer
	if err := brokerxml.Write(&b, o); err != nil {
		t.Fatal(err)
	}
	top := &element{}
	open := []*element{top}
	decoder := xml.NewDecoder(bytes.NewReader(b.Bytes()))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return top.children[0], b.String()
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, &b)
		}
		switch token := token.(type) {
		case xml.StartElement:
			e := &element{name: token.Name.Local, attrs: map[string]string{}}
			for _, a := range token.Attr {
				if a.Name.Local != "xmlns" && a.Name.Space != "xmlns" {
					e.attrs[a.Name.Local] = a.Value
				}
			}
			parent := open[len(open)-1]
			parent.children = append(parent.children, e)
			open = append(open, e)
		case xml.EndElement:
			open = open[:len(open)-1]
		}
	}
}

// permitted is what Amazon MQ's schema of the configuration of 5.18 and 5.19 has,
// as far as it may be needed here: for each element, the children it may have
// (those that begin with @ are attributes).
var permitted = map[string]string{
	"broker": "destinationInterceptors destinationPolicy persistenceAdapter plugins systemUsage " +
		"@advisorySupport @persistent @schedulerSupport @maxUncommittedCount @useVirtualTopics",
	"destinationInterceptors":          "virtualDestinationInterceptor mirroredQueue",
	"virtualDestinationInterceptor":    "virtualDestinations",
	"virtualDestinations":              "compositeQueue compositeTopic virtualTopic",
	"compositeQueue":                   "forwardTo @concurrentSend @copyMessage @forwardOnly @name @sendWhenNotMatched",
	"forwardTo":                        "queue topic filteredDestination",
	"filteredDestination":              "@queue @selector @topic",
	"destinationPolicy":                "policyMap",
	"policyMap":                        "defaultEntry policyEntries",
	"policyEntries":                    "policyEntry",
	"policyEntry":                      "deadLetterStrategy @expireMessagesPeriod @maxPageSize @persistJMSRedelivered @prioritizedMessages @queue @queuePrefetch @useCache",
	"deadLetterStrategy":               "discarding individualDeadLetterStrategy sharedDeadLetterStrategy",
	"individualDeadLetterStrategy":     "@enableAudit @expiration @processExpired @processNonPersistent @queuePrefix @queueSuffix @useQueueForQueueMessages",
	"persistenceAdapter":               "kahaDB",
	"kahaDB":                           "@concurrentStoreAndDispatchQueues @cleanupOnStop @journalDiskSyncInterval @journalDiskSyncStrategy",
	"plugins":                          "forcePersistencyModeBrokerPlugin redeliveryPlugin statisticsBrokerPlugin timeStampingBrokerPlugin",
	"forcePersistencyModeBrokerPlugin": "@persistenceFlag",
	"statisticsBrokerPlugin":           "",
	"timeStampingBrokerPlugin":         "@futureOnly @processNetworkMessages @ttlCeiling @zeroExpirationOverride",
}

// check reports what Amazon MQ would drop.
func check(t *testing.T, e *element) {
	t.Helper()
	list, known := permitted[e.name]
	if !known {
		t.Errorf("<%s> is not permitted", e.name)
	}
	may := strings.Fields(list)
	for name := range e.attrs {
		if !slices.Contains(may, "@"+name) {
			t.Errorf("<%s %s=…> is not permitted", e.name, name)
		}
	}
	for _, c := range e.children {
		if !slices.Contains(may, c.name) {
			t.Errorf("<%s> is not permitted in <%s>", c.name, e.name)
		}
		check(t, c)
	}
}

func TestAmazonMQGetsOnlyWhatItPermits(t *testing.T) {
	broker, text := write(t, brokerxml.Options{AmazonMQ: true})
	check(t, broker)
	if strings.Contains(text, "${") || strings.Contains(text, "#{") {
		t.Error("there is an expression in it, which Amazon MQ drops")
	}
}

// Whatever the broker: ten lanes, each level in exactly one, and nothing lost.
func TestEveryLevelHasItsLane(t *testing.T) {
	for name, o := range map[string]brokerxml.Options{"Amazon MQ": {AmazonMQ: true}, "own": {}, "other queue": {Queue: "acme.orders"}} {
		t.Run(name, func(t *testing.T) {
			root, _ := write(t, o)
			queue := o.Queue
			if queue == "" {
				queue = engine.WorkQueue
			}
			composite := root.find("compositeQueue")
			if len(composite) != 1 || composite[0].attrs["name"] != queue ||
				composite[0].attrs["forwardOnly"] != "true" || composite[0].attrs["sendWhenNotMatched"] != "true" {
				t.Fatalf("compositeQueue: %+v", composite)
			}
			lanes := map[string]string{}
			for _, f := range root.find("filteredDestination") {
				lanes[f.attrs["selector"]] = f.attrs["queue"]
			}
			for level := range engine.Levels {
				n := strconv.Itoa(level)
				if got, want := lanes["JMSPriority = "+n], queue+".p"+n; got != want {
					t.Errorf("level %s goes to %q, want %q", n, got, want)
				}
			}
			if len(lanes) != engine.Levels {
				t.Errorf("%d lanes, want %d", len(lanes), engine.Levels)
			}
		})
	}
}

func TestBothHaveWhatUsherReliesOn(t *testing.T) {
	for name, o := range map[string]brokerxml.Options{"Amazon MQ": {AmazonMQ: true}, "own": {}} {
		t.Run(name, func(t *testing.T) {
			root, _ := write(t, o)
			if root.find("broker")[0].attrs["schedulerSupport"] != "true" {
				t.Error("the scheduler is not on")
			}
			for _, plugin := range []string{"forcePersistencyModeBrokerPlugin", "statisticsBrokerPlugin", "timeStampingBrokerPlugin"} {
				if len(root.find(plugin)) != 1 {
					t.Errorf("there is no %s", plugin)
				}
			}
			policies := root.find("policyEntry")
			if len(policies) != 2 || policies[0].attrs["queue"] != "usher.work.>" || policies[1].attrs["queue"] != "usher.dead" {
				t.Fatalf("policies: %+v", policies)
			}
			for _, p := range policies {
				dead := p.find("individualDeadLetterStrategy")
				if p.attrs["persistJMSRedelivered"] != "true" || len(dead) != 1 || dead[0].attrs["queuePrefix"] != "DLQ." ||
					dead[0].attrs["processExpired"] != "true" || dead[0].attrs["processNonPersistent"] != "true" || dead[0].attrs["enableAudit"] != "false" {
					t.Errorf("policy of %s: %+v", p.attrs["queue"], p)
				}
			}
			walk(root, func(e *element) {
				for attr := range e.attrs {
					if strings.HasPrefix(attr, "sendFailIfNoSpace") {
						t.Errorf("<%s %s> makes the scheduler drop messages", e.name, attr)
					}
				}
			})
		})
	}
}

func walk(e *element, f func(*element)) {
	f(e)
	for _, c := range e.children {
		walk(c, f)
	}
}

func TestOwnBrokerIsWhereTheOptionsSay(t *testing.T) {
	root, _ := write(t, brokerxml.Options{STOMP: "0.0.0.0:7000", OpenWire: "[::1]:7001", Data: `/srv/a "b" & <c>`})
	uris := map[string]string{}
	for _, c := range root.find("transportConnector") {
		uris[c.attrs["name"]] = c.attrs["uri"]
	}
	if len(uris) != 2 || uris["stomp"] != "stomp://0.0.0.0:7000" || uris["openwire"] != "tcp://[::1]:7001" {
		t.Errorf("connectors: %v", uris)
	}
	data, store := root.find("broker")[0].attrs["dataDirectory"], root.find("kahaDB")[0].attrs["directory"]
	if data != `/srv/a "b" & <c>` || store != data+"/kahadb" {
		t.Errorf("data in %q and %q", data, store)
	}
	root, _ = write(t, brokerxml.Options{})
	stomp := root.find("transportConnector")
	if len(stomp) != 1 || stomp[0].attrs["uri"] != "stomp://127.0.0.1:61613" || root.find("kahaDB")[0].attrs["directory"] != "${activemq.data}/kahadb" {
		t.Errorf("by default: %+v, %+v", stomp[0], root.find("kahaDB")[0])
	}
}

func TestWriteRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		options brokerxml.Options
		want    string
	}{
		"an address for Amazon MQ": {brokerxml.Options{AmazonMQ: true, STOMP: "127.0.0.1:1"}, "name none"},
		"a folder for Amazon MQ":   {brokerxml.Options{AmazonMQ: true, Data: "x"}, "name none"},
		"no port":                  {brokerxml.Options{STOMP: "localhost"}, "not host:port"},
		"port 0":                   {brokerxml.Options{STOMP: "localhost:0"}, "not host:port"},
		"options of a transport":   {brokerxml.Options{OpenWire: "a?b:1"}, "not host:port"},
		"a wildcard":               {brokerxml.Options{Queue: "usher.>"}, "name of a queue"},
		"markup":                   {brokerxml.Options{Queue: `a"/>`}, "name of a queue"},
		"an expression":            {brokerxml.Options{Data: "/srv/#{1}"}, "as it is"},
		"another":                  {brokerxml.Options{Data: "${user.home}"}, "as it is"},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			err := brokerxml.Write(&b, c.options)
			if err == nil || !strings.Contains(err.Error(), c.want) || b.Len() > 0 {
				t.Errorf("got %v and %d bytes, want an error with %q", err, b.Len(), c.want)
			}
		})
	}
}
