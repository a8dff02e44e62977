// Package demo is the small shop that `usher dev --demo` plays: it sends
// messages as producers do, watches the engine as an observer does, shows what
// happens level by level, and in the end accounts for every message.
package demo
