package records_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"usher/engine/enginetest"
)

func TestMain(m *testing.M) {
	if task := os.Getenv(childEnv); task != "" {
		os.Exit(childMain(task))
	}
	goleak.VerifyTestMain(m)
}

func TestRecords(t *testing.T) {
	enginetest.RunRecords(t, func(t *testing.T) enginetest.RecordsUnderTest { return open(t) })
}

func TestArchive(t *testing.T) {
	enginetest.RunArchive(t, func(t *testing.T) enginetest.ArchiveUnderTest { return open(t) })
}
