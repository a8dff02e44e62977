// Package bench measures usher beside what else could do its work: `make bench`
// runs every measurement in interleaved rounds, prints what was asked beside what
// was measured, and writes docs/performance*.md.
//
// A measurement has several ways of doing one thing. In each round every way runs
// once, in an order that moves on by one each round, so that whatever else the
// machine does meets all of them alike. Two ways are compared within a round, and
// the median of those ratios is what counts.
package bench
