// Package chaos kills what can be killed, on a real ActiveMQ with real processes,
// and then closes the books: see package ledger. What it kills, and when, follows
// from a seed, which each run prints; -seed repeats it.
//
//	go test ./bench/chaos                                  # 20 rounds, on each pair of broker and table
//	go test ./bench/chaos -v -rounds 50 -seed 7 -outage 30s
//	go test ./bench/chaos -run '^$' -bench . -benchtime 20x # how soon it is back
package chaos
