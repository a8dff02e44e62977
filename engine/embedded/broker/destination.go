package broker

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Prefixes of destinations, as ActiveMQ has them.
const (
	prefixQueue  = "/queue/"
	prefixTopic  = "/topic/"
	prefixTemp   = "/temp-queue/"
	prefixRemote = "/remote-temp-queue/" // a temporary queue as others see it
)

// prefixDead is put before a queue's name to name its dead-letter queue.
const prefixDead = "DLQ."

// address is a destination as a client wrote it.
type address struct {
	kind   kind
	remote bool // a temporary queue by its name in the world
	name   string
}

// parseAddress reads a destination header. A bare name is a queue.
func parseAddress(text string) (address, error) {
	a := address{name: text}
	var ok bool
	switch {
	case text == "":
		return a, refuse("the destination header is missing")
	case text[0] != '/':
	default:
		for _, p := range []struct {
			prefix string
			kind   kind
			remote bool
		}{{prefixQueue, kindQueue, false}, {prefixTopic, kindTopic, false}, {prefixTemp, kindTemp, false}, {prefixRemote, kindTemp, true}} {
			if a.name, ok = strings.CutPrefix(text, p.prefix); ok {
				a.kind, a.remote = p.kind, p.remote
				break
			}
		}
		if !ok {
			return a, refuse("Illegal destination name: [%s]: it must begin with one of %s %s %s or be the name of a queue", clip(text), prefixQueue, prefixTopic, prefixTemp)
		}
	}
	if a.name == "" || len(a.name) > maxDestinationBytes || !utf8.ValidString(a.name) ||
		strings.ContainsFunc(a.name, func(r rune) bool { return unicode.IsControl(r) || strings.ContainsRune(",*>?", r) }) {
		return a, refuse("Illegal destination name: [%s]: it must be 1 to %d bytes of UTF-8 without control characters; wildcards, options and composite names are not supported", clip(text), maxDestinationBytes)
	}
	return a, nil
}

// clip keeps an error message short.
func clip(s string) string {
	if len(s) > 100 {
		return strings.ToValidUTF8(s[:100], "") + "..."
	}
	return s
}

// destination is how the world names the queue.
func (q *queue) destination() string {
	switch q.kind {
	case kindQueue:
		return prefixQueue + q.name
	case kindTopic:
		return prefixTopic + q.name
	case kindTemp:
		return prefixRemote + q.name
	}
	panic(fmt.Sprintf("broker: a queue of kind %d", q.kind))
}

// seenBy is how a connection names the queue: who made a temporary queue sees
// it by the name that he gave it.
func (q *queue) seenBy(c *conn) string {
	if q.kind == kindTemp && q.owner == c {
		return prefixTemp + q.name[len(c.session)+1:]
	}
	return q.destination()
}

// find returns the destination, and makes it if it may be made by naming it.
// The core's lock is held.
func (b *Broker) find(c *conn, a address) (*queue, error) {
	q := &queue{kind: a.kind, name: a.name}
	if a.kind == kindTemp && !a.remote {
		q.name = c.session + ":" + a.name
		q.owner = c
	}
	key := q.destination()
	if known, ok := b.queues[key]; ok {
		return known, nil
	}
	if a.remote {
		return nil, refuse("Cannot publish to a deleted Destination: temp-queue://%s", a.name)
	}
	if len(b.queues) >= maxDestinations {
		return nil, refuse("there are %d destinations already; no more are made", maxDestinations)
	}
	b.add(q)
	return q, nil
}

// queueNamed returns the durable queue of the name, for the broker's own use.
// The core's lock is held.
func (b *Broker) queueNamed(name string) *queue {
	if q, ok := b.queues[prefixQueue+name]; ok {
		return q
	}
	q := &queue{kind: kindQueue, name: name}
	b.add(q)
	return q
}

func (b *Broker) add(q *queue) {
	if q.kind == kindQueue {
		b.lastQueue++
		q.id = b.lastQueue
	}
	b.queues[q.destination()] = q
}
