package records_test

import (
	"testing"

	"go.uber.org/goleak"

	"usher/engine/enginetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRecords(t *testing.T) {
	enginetest.RunRecords(t, func(t *testing.T) enginetest.RecordsUnderTest { return open(t) })
}
