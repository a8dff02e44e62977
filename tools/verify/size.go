package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"strings"
)

// The longest that code may be, in lines. They are limits, not aims.
const (
	maxFunction = 80
	maxFile     = 600
	maxTestFile = 900
)

// checkGo checks the format and the sizes of a Go file. Generated code is
// passed over: its generator answers for it.
func checkGo(name string, text []byte) []finding {
	positions := token.NewFileSet()
	file, err := parser.ParseFile(positions, name, text, parser.ParseComments)
	if err != nil {
		return []finding{{name, 1, "does not parse: " + err.Error()}}
	}
	if ast.IsGenerated(file) {
		return nil
	}
	var found []finding
	if formatted, err := format.Source(text); err == nil && !bytes.Equal(formatted, text) {
		found = append(found, finding{name, 1, "not formatted: run gofmt -w on it"})
	}
	limit := maxFile
	if strings.HasSuffix(name, "_test.go") {
		limit = maxTestFile
	}
	if lines := bytes.Count(text, []byte("\n")); lines > limit {
		found = append(found, finding{name, limit, fmt.Sprintf("%d lines, over %d: split it by concept", lines, limit)})
	}
	for _, decl := range file.Decls {
		function, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		first := positions.Position(function.Pos()).Line // of "func", after its comment
		lines := positions.Position(function.End()).Line - first + 1
		if lines > maxFunction {
			found = append(found, finding{name, first,
				fmt.Sprintf("%s has %d lines, over %d: split it by outcome or phase", function.Name.Name, lines, maxFunction)})
		}
	}
	return found
}
