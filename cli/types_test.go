package cli

import (
	"strings"
	"testing"
	"time"

	"usher/server"
)

func TestATypeThatFailsIsAFindingWithItsError(t *testing.T) {
	since := time.Now().Add(-time.Minute)
	l := server.TypeList{Items: []server.Type{
		{Name: "order.placed"},
		{Name: "order.paid", Held: true, Failing: since, Detail: "connection\nrefused", Waiting: 7},
	}}
	all := heldFinding(l, time.Now())
	if len(all) != 1 || all[0].State != server.StateFailed || all[0].Help == "" {
		t.Fatalf("findings %+v", all)
	}
	for _, want := range []string{"order.paid fails (1m0s ago): ", "connection", "refused", "7 waiting"} {
		if !strings.Contains(all[0].Detail, want) {
			t.Errorf("%q does not say %q", all[0].Detail, want)
		}
	}
	if strings.Contains(all[0].Detail, "\n") {
		t.Errorf("%q has lines", all[0].Detail)
	}
}
