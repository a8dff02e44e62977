package server_test

import (
	"net/http"
	"testing"
	"time"

	"usher/engine"
	"usher/server"
)

// runs has a message be in a handler of this process.
func (r *rig) runs(id string) {
	r.t.Helper()
	r.engine.inHand[id] = engine.Status{V: 1, ID: id, State: engine.Processing, Attempt: 1}
	_, err := r.table.Claim(r.t.Context(), engine.Claim{
		ID: id, Type: "order.placed", Digest: "d", Now: time.Now(),
		Mark: engine.ClaimMark{Token: "e-1", BrokerID: "b", Until: time.Now().Add(time.Minute)},
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

func TestWhatRunsIsStoppedOnlyWhenThatIsAskedFor(t *testing.T) {
	r := setup(t)
	r.runs("m")
	r.wantProblem(http.StatusConflict, "running", http.MethodDelete, "/api/v1/messages/m", "")
	r.wantProblem(http.StatusConflict, "running", http.MethodDelete, "/api/v1/messages/m?running=false", "")
	r.wantProblem(http.StatusBadRequest, "bad_running", http.MethodDelete, "/api/v1/messages/m?running=perhaps", "")
	if len(r.engine.nudges) > 0 {
		t.Errorf("the engines were told %+v", r.engine.nudges)
	}
	r.engine.obeys = func(id string) {
		delete(r.engine.inHand, id)
		_, err := r.table.Write(t.Context(), engine.Change{ID: id, Type: "order.placed", Digest: "d", Token: "w", State: engine.Cancelled, Now: time.Now(), ExpiresAt: time.Now().Add(time.Hour)})
		if err != nil {
			t.Error(err)
		}
	}
	var m server.Message
	r.want(http.StatusOK, &m, http.MethodDelete, "/api/v1/messages/m?running=true", "")
	if m.State != engine.Cancelled {
		t.Errorf("the answer is %+v", m)
	}
	r.wantProblem(http.StatusConflict, "finished", http.MethodDelete, "/api/v1/messages/m?running=true", "")
}

// Its first attempt has no record, and may run in another engine.
func TestWhatHasNoRecordIsStoppedAsWell(t *testing.T) {
	r := setup(t)
	r.wantProblem(http.StatusNotFound, "not_seen", http.MethodDelete, "/api/v1/messages/m", "")
	r.engine.obeys = func(id string) {
		_, err := r.table.Write(t.Context(), engine.Change{ID: id, Type: "order.placed", Digest: "d", Token: "w", State: engine.Done, Now: time.Now(), ExpiresAt: time.Now().Add(time.Hour)})
		if err != nil {
			t.Error(err)
		}
	}
	var m server.Message
	if r.want(http.StatusOK, &m, http.MethodDelete, "/api/v1/messages/m?running=true", ""); m.State != engine.Done {
		t.Errorf("the answer is %+v", m)
	}
}

func TestWhatDoesNotStopIsToldAsRunning(t *testing.T) {
	r := setup(t)
	r.runs("m")
	r.wantProblem(http.StatusConflict, "still_running", http.MethodDelete, "/api/v1/messages/m?running=true", "")
}

func TestEnginesAreToldOfWhatOperatorsChange(t *testing.T) {
	r := setup(t)
	r.ask(http.MethodPut, "/api/v1/delays/m", `{"in":"1h"}`)
	r.ask(http.MethodDelete, "/api/v1/messages/m", "")
	want := []engine.Nudge{{Kind: engine.NudgeDelay, ID: "m"}, {Kind: engine.NudgeCancel, ID: "m"}}
	if len(r.engine.nudges) != 2 || r.engine.nudges[0] != want[0] || r.engine.nudges[1] != want[1] {
		t.Errorf("the engines were told %+v, want %+v", r.engine.nudges, want)
	}
}
