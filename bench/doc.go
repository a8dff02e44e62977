// Package bench holds what is measured, and what is proved of the parts put
// together: the engine on its broker and records, as one process runs them.
package bench
