// Package records keeps the record table in one SQLite file: the table of one
// machine, and the default.
//
// Several processes of one host may have the file open. Every guard is
// evaluated inside the write transaction (BEGIN IMMEDIATE), so that of two
// processes that want the same record one gets it.
//
// Calls that write and come at the same time share one transaction and one sync
// of the disk; each is answered after the commit. A call that comes alone is
// not kept waiting for company. Readers have connections of their own and wait
// for no writer (WAL).
//
// The file is in write-ahead mode with synchronous=FULL: what was answered
// survives a crash of the process and of the machine. It must be on a local
// disk, not on a network file system.
//
// Times are whole milliseconds; this host's clock is the clock of the store.
// Where the ports leave a choice, the table does what a store with conditional
// updates of single items can do as well:
//
//   - A final record whose ExpiresAt has passed is as absent for every method,
//     whether it has been deleted yet or not.
//   - Watchers whose time is over are never returned. They are dropped from the
//     file with the next write of the record.
//   - A watcher, or his leaving, does not change UpdatedAt.
//   - ExpiresAt is kept in final states only: the claim of a redriven message
//     clears it.
package records
