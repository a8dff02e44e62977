package watchframe_test

import (
	"encoding/json"
	"testing"

	"usher/engine"
	"usher/engine/watchframe"
)

// Whatever a client sends: it is a request with an id, or refused in one frame.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"action":"subscribe","id":"order-7"}`, `{"action":"unsubscribe","id":"order-7"}`, `{"action":"subscribe","id":"order-7","token":"a.b","seq":"2.7"}`,
		`{"action":"subscribe","id":"\u0000"}`, `{"action":"subscribe","id":"x","seq":"99999999999999999999.-1"}`, `[[[[[[`, `{"action":{"a":1}}`, "\xff", ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := watchframe.Parse(data)
		if err != nil {
			answer, bad := json.Marshal(watchframe.Fail(watchframe.BadRequest, r.ID, err.Error()))
			if bad != nil || len(answer) > 1<<10 {
				t.Fatalf("the answer has %d bytes: %v", len(answer), bad)
			}
			return
		}
		if !engine.ValidID(r.ID) || r.Action != watchframe.Subscribe && r.Action != watchframe.Unsubscribe || (r.Since == nil) != (r.Seq == "") {
			t.Fatalf("%q is %+v", data, r)
		}
	})
}
