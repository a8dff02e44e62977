package bench

import (
	"testing"
	"time"

	"usher/engine"
)

const oneLevel = 4 // of all messages; see order for mixed levels

func throughput(r *rig) measurement {
	const usher, bare = "usher", "bare"
	same := func(int) int { return oneLevel }
	return measurement{
		name:  "throughput",
		title: "Throughput beside a bare consumer",
		how: `20,000 messages with bodies of 512 bytes wait on disk; the handler returns at once. *usher* is the engine with its default of 32
slots and a window of 100, a plugin process, and records on disk: each message is looked up, run by the plugin, recorded with an fsync it shares
with others, and acked. *Bare* is a STOMP client that receives from the same queues with the same window, acks each message, and does nothing else: no
parsing beyond the frame, no record, no second process. Rates count from the first message to the last ack. *CPU a message* is the time that
the process used on all cores meanwhile, divided by the messages; the broker's includes its collector and compiler. What limits usher here are the
cores: engine, plugin and broker share them, so the rate is at most the number of cores divided by the sum of what the three use for a message.`,
		ways: []way{
			{usher, func(t testing.TB) []value { return r.engineRate(t, same) }},
			{bare, func(t testing.TB) []value { return r.bareRate(t, same) }},
		},
		answers: func(res results) []answer {
			rates := res.of(usher, "rate").over(res.of(bare, "rate"))
			return []answer{
				{"Throughput: usher to a bare consumer", "at least 0.5, aim: 0.8", "", rates, atLeast(0.5)},
				{"Held while nothing higher is behind", "0", "ms", res.of(usher, "held in all"), never(0)},
			}
		},
	}
}

// engineRate runs an engine, with plugin and records, on what waits.
func (r *rig) engineRate(t testing.TB, level func(int) int) []value {
	r.active.fill(t, *messages, engine.WorkQueue, typeNothing, level)
	s := newStarts(*messages)
	before := r.used(t)
	r.active.run(t, r.plugin, s, engine.DefaultSlots)
	u := r.used(t).minus(before)
	return []value{
		rate("rate", *messages, s.took()),
		perMessage("CPU a message, engine", u.self), perMessage("CPU a message, plugin", u.plugin), perMessage("CPU a message, broker", u.broker),
		millis("held in all", s.held),
	}
}

// bareRate receives and acks what waits.
func (r *rig) bareRate(t testing.TB, level func(int) int) []value {
	r.active.fill(t, *messages, engine.WorkQueue, typeNothing, level)
	before := r.used(t)
	took, err := takeAll(r.active.address, *messages, engine.DefaultWindow, lanes()...)
	if err != nil {
		t.Fatal(err)
	}
	u := r.used(t).minus(before)
	return []value{
		rate("rate", *messages, took), perMessage("CPU a message, client", u.self), perMessage("CPU a message, broker", u.broker),
	}
}

func perMessage(name string, d time.Duration) value {
	return value{name, "µs", float64(d.Microseconds()) / float64(*messages)}
}
