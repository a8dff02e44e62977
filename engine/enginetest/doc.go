// Package enginetest holds what every backend of the engine is tested with:
// the conformance suites, the fakes that pass them, and wrappers that fail on
// demand. Only tests import it.
//
// A backend has one test file that calls a suite with a way to open it:
//
//	func TestRecords(t *testing.T) {
//		enginetest.RunRecords(t, func(t *testing.T) enginetest.RecordsUnderTest { … })
//	}
package enginetest
