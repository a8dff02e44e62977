package broker

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine"
)

// prefixStatistics begins the names of the queues that answer with statistics,
// as ActiveMQ's statistics plugin has them: an empty SEND there, with a
// reply-to, is answered with the state of the queue that the rest names.
const prefixStatistics = "ActiveMQ.Statistics.Destination."

// statistics is the body of an answer.
type statistics struct {
	DestinationName string `json:"destinationName"`
	Size            int    `json:"size"` // those in flight included
	InFlight        int    `json:"inflightCount"`
	Enqueued        uint64 `json:"enqueueCount"`
	Dequeued        uint64 `json:"dequeueCount"`
	Oldest          int64  `json:"oldestMessageTimestamp,omitempty"` // epoch ms
}

// answerStatistics sends the statistics of a queue to the reply-to. Without a
// reply-to, or for a queue that is not there, there is no answer, as on ActiveMQ.
func (c *conn) answerStatistics(f *frame.Frame, name string) error {
	to := f.Header.Get(headerReplyTo)
	if to == "" {
		return nil
	}
	a, err := parseAddress(to)
	if err != nil {
		return err
	}
	c.b.mu.Lock()
	q, known := c.b.queues[prefixQueue+name]
	var st QueueStats
	if known {
		st = q.stats()
	}
	c.b.mu.Unlock()
	if !known {
		return nil
	}
	answer := statistics{DestinationName: "queue://" + name, Size: st.Size, InFlight: st.InFlight, Enqueued: st.Enqueued, Dequeued: st.Dequeued}
	if !st.Oldest.IsZero() {
		answer.Oldest = st.Oldest.UnixMilli()
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	h := frame.NewHeader(frame.ContentType, "application/json")
	if id, ok := f.Header.Contains(headerCorrelation); ok {
		h.Add(headerCorrelation, id)
	}
	data := encode(h, "", body)
	m := &message{stamp: time.Now().UnixMilli(), priority: engine.DefaultLevel, data: data, size: int32(len(data))}
	return c.post(m, a, nil, "")
}

// stats tells the state of the queue. The core's lock is held.
func (q *queue) stats() QueueStats {
	st := QueueStats{Name: q.name, Size: q.waiting + q.inFlight, InFlight: q.inFlight,
		Enqueued: q.enqueued, Dequeued: q.dequeued, Scheduled: q.scheduled}
	if stamp := q.oldest(); stamp != 0 {
		st.Oldest = time.UnixMilli(stamp)
	}
	return st
}

func sortByName(queues []QueueStats) {
	slices.SortFunc(queues, func(x, y QueueStats) int { return strings.Compare(x.Name, y.Name) })
}
