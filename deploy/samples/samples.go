// Package samples holds configurations to begin with. The files beside it are
// read by people; a test keeps each of them valid.
package samples

import (
	_ "embed" // for the line below
	"slices"
)

//go:embed shop.yaml
var shop []byte

// Shop is shop.yaml: a shop whose plugin is in usher itself, with a type for
// each thing that can happen to a message. The bytes are the caller's.
func Shop() []byte { return slices.Clone(shop) }
