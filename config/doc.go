// Package config reads usher's configuration, strictly.
//
// Four layers, later ones win: defaults, files in the order given, environment
// (USHER__ENGINE__SLOTS, a double underscore is a level), flags. Maps are merged
// key by key, lists are replaced. Types and plugins come from files only.
//
// All keys stand in one table, and everything else is made from it: what is
// accepted, the JSON Schema, the words of [Explain]. A key that is not in it is
// an error, so a typo cannot become a default. [Load] reports all errors at once,
// as [Errors]; each has its file, line and column, or names its variable or flag.
//
// Secrets are environment variables and never stand in a file; see [Secrets].
package config
