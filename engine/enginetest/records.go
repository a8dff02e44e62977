package enginetest

import "usher/engine"

// RecordsUnderTest is a record table that is ready for use, as RunRecords
// needs it.
type RecordsUnderTest interface {
	engine.Records
	engine.Table
	Close() error
}
