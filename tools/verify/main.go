// Command verify checks of a working tree what a Go linter does not see: that
// Go files are formatted and short enough to read, that no text file holds
// something that must not be committed, and that the tests which docs name are there.
//
//	verify [directory]
//
// It reads the files that git would commit: those it tracks, and new ones that
// it does not ignore. Each finding is one line, file:line: what. The exit
// status is 1 when there are findings and 2 when it could not look.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	root := "."
	if len(os.Args) > 1 {
		root = os.Args[1]
	}
	os.Exit(run(context.Background(), root, os.Stdout, os.Stderr))
}

// run checks the tree at root and returns the exit status.
func run(ctx context.Context, root string, out, errs io.Writer) int {
	files, err := committable(ctx, root)
	if err != nil {
		fmt.Fprintln(errs, "verify:", err)
		return 2
	}
	found, checked := 0, 0
	named := promises{}
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join(root, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted, and git does not know yet
		}
		if err != nil {
			fmt.Fprintln(errs, "verify:", err)
			return 2
		}
		checked++
		named.read(name, text)
		for _, f := range check(name, text) {
			fmt.Fprintln(out, f)
			found++
		}
	}
	for _, f := range named.broken() {
		fmt.Fprintln(out, f)
		found++
	}
	if found > 0 {
		fmt.Fprintf(errs, "verify: %d findings in %d files\n", found, checked)
		return 1
	}
	fmt.Fprintf(out, "verify: %d files, nothing found\n", checked)
	return 0
}

// committable lists the regular files that git tracks or would add.
func committable(ctx context.Context, root string) ([]string, error) {
	var complaint bytes.Buffer
	list := exec.CommandContext(ctx, "git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Stderr = &complaint
	answer, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("git ls-files: %w: %s", err, strings.TrimSpace(complaint.String()))
	}
	var files []string
	for name := range strings.SplitSeq(string(answer), "\x00") {
		if name == "" {
			continue
		}
		if at, err := os.Lstat(filepath.Join(root, name)); err == nil && !at.Mode().IsRegular() {
			continue
		}
		files = append(files, name)
	}
	return files, nil
}

// finding is one thing to mend.
type finding struct {
	file string
	line int
	what string
}

// String gives the form that editors and terminals can jump to.
func (f finding) String() string { return fmt.Sprintf("%s:%d: %s", f.file, f.line, f.what) }

// check returns what is wrong with one file. The name is relative to the root,
// with slashes. Files that are not text are passed over.
func check(name string, text []byte) []finding {
	if bytes.IndexByte(text[:min(len(text), 8192)], 0) >= 0 {
		return nil
	}
	found := checkWords(name, text)
	if strings.HasSuffix(name, ".go") && !strings.Contains(name, "testdata/") {
		found = append(found, checkGo(name, text)...)
	}
	return found
}
