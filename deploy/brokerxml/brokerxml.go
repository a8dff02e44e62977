// Package brokerxml writes the configuration that an ActiveMQ needs to work for
// usher: the lanes, dead-letter queues, the scheduler, and the plugins that usher
// asks and relies on. The XML says in its comments what each is for.
//
// Left out on purpose: sendFailIfNoSpace, with which the scheduler drops messages
// that are due while the broker is full; redeliveryPlugin, because usher never
// refuses a message; storeUsage, tempUsage and options of transports, which Amazon
// MQ does not permit; and useCache="false" with queuePrefetch="1", ActiveMQ's
// advice for order by priority within one queue, which the lanes make needless.
package brokerxml

import (
	_ "embed" // for the template
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"text/template"

	"usher/engine"
)

// DefaultData is Options.Data where it is empty: the folder that ActiveMQ's start
// script passes on.
const DefaultData = "${activemq.data}"

// DefaultSTOMP is Options.STOMP where it is empty: this machine only.
const DefaultSTOMP = "127.0.0.1:61613"

// Options say which broker the configuration is for.
type Options struct {
	// AmazonMQ writes only what Amazon MQ permits. It has its own addresses and
	// its own disk: STOMP, OpenWire and Data must be empty.
	AmazonMQ bool
	// Queue is where producers send, as in usher's own broker.queue; usher.work by
	// default. Its lanes are Queue.p0 to Queue.p9.
	Queue string
	// STOMP is the host:port where the broker takes STOMP; DefaultSTOMP by default.
	// A host of 0.0.0.0 is every address of the machine.
	STOMP string
	// OpenWire is the host:port for JMS clients; without one there is none.
	OpenWire string
	// Data is the folder for what the broker keeps; DefaultData by default.
	Data string
}

//go:embed broker.xml.tmpl
var source string

var document = template.Must(template.New("broker.xml").Funcs(template.FuncMap{"xml": escape}).Parse(source))

// queueName is what a queue may be called, as in usher's own configuration.
const queueName = `^[A-Za-z0-9._-]{1,200}$`

// Write writes the broker's XML, or reports all that is wrong with the options and
// writes nothing.
func Write(w io.Writer, o Options) error {
	if err := o.validate(); err != nil {
		return err
	}
	o = o.withDefaults()
	var levels []int
	for level := engine.Levels - 1; level >= 0; level-- {
		levels = append(levels, level)
	}
	return document.Execute(w, struct {
		Options

		Levels   []int
		Policies []string // "a.>" is a, and all whose names begin with a and a dot
	}{o, levels, []string{o.Queue + ".>", engine.DeadQueue}})
}

func (o Options) withDefaults() Options {
	if o.Queue == "" {
		o.Queue = engine.WorkQueue
	}
	if o.AmazonMQ {
		return o
	}
	if o.STOMP == "" {
		o.STOMP = DefaultSTOMP
	}
	if o.Data == "" {
		o.Data = DefaultData
	}
	return o
}

func (o Options) validate() error {
	var problems []error
	if o.AmazonMQ && o.STOMP+o.OpenWire+o.Data != "" {
		problems = append(problems, errors.New("addresses and a folder are for a broker of your own: name none for Amazon MQ"))
	}
	if o.Queue != "" && !regexp.MustCompile(queueName).MatchString(o.Queue) {
		problems = append(problems, fmt.Errorf("%q cannot be the name of a queue: use 1 to 200 of A-Z a-z 0-9 . _ -", o.Queue))
	}
	for _, address := range []string{o.STOMP, o.OpenWire} {
		if address != "" && !isAddress(address) {
			problems = append(problems, fmt.Errorf("%q is not host:port", address))
		}
	}
	if strings.Contains(o.Data, "${") || strings.Contains(o.Data, "#{") {
		problems = append(problems, fmt.Errorf("the folder %q would not be taken as it is: ${ and #{ mean something in the broker's XML", o.Data))
	}
	return errors.Join(problems...)
}

// isAddress says whether s is host:port, the host being a name or an IP address.
func isAddress(s string) bool {
	host, port, err := net.SplitHostPort(s)
	n, portErr := strconv.ParseUint(port, 10, 16)
	return err == nil && portErr == nil && n > 0 && host != "" && !strings.ContainsAny(host, `/?#&<>"' `)
}

// escape makes text fit into an attribute.
func escape(text string) (string, error) {
	var b strings.Builder
	err := xml.EscapeText(&b, []byte(text))
	return b.String(), err
}
