package enginetest_test

import (
	"testing"

	"go.uber.org/goleak"

	"usher/engine/enginetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemoryRecords(t *testing.T) {
	enginetest.RunRecords(t, func(*testing.T) enginetest.RecordsUnderTest { return enginetest.NewMemory() })
}

func TestMemoryArchive(t *testing.T) {
	enginetest.RunArchive(t, func(*testing.T) enginetest.ArchiveUnderTest { return enginetest.NewMemory() })
}
