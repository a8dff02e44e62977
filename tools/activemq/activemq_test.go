package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// release is a distribution with these files, and its sum.
func release(t *testing.T, files map[string]string) (content []byte, sum string) {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	h := sha512.Sum512(b.Bytes())
	return b.Bytes(), hex.EncodeToString(h[:])
}

// fetching is a fetch that gives content, and counts.
func fetching(content []byte, times *int) func(context.Context, string) (string, error) {
	return func(_ context.Context, folder string) (string, error) {
		*times++
		file := filepath.Join(folder, "x.tar.gz")
		return file, os.WriteFile(file, content, 0o600)
	}
}

func TestPrepareFetchesOnce(t *testing.T) {
	content, sum := release(t, map[string]string{"x-1/lib/a.jar": "A", "x-1/LICENSE": "L"})
	dir := filepath.Join(t.TempDir(), "deep", "activemq")
	times := 0
	for range 3 {
		if err := prepare(t.Context(), dir, sum, fetching(content, &times)); err != nil {
			t.Fatal(err)
		}
	}
	jar, err := os.ReadFile(filepath.Join(dir, "lib/a.jar"))
	if err != nil || string(jar) != "A" || times != 1 {
		t.Errorf("lib/a.jar is %q, %v, after %d fetches; want A after 1", jar, err, times)
	}
}

func TestPrepareReplacesAnotherRelease(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "activemq")
	times := 0
	for _, name := range []string{"old", "new"} {
		content, sum := release(t, map[string]string{"x/" + name: ""})
		if err := prepare(t.Context(), dir, sum, fetching(content, &times)); err != nil {
			t.Fatal(err)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if want := filepath.Join(dir, "new") + " " + filepath.Join(dir, "sha512"); err != nil || strings.Join(left, " ") != want {
		t.Errorf("there are %v, %v; want %s", left, err, want)
	}
}

func TestPrepareRefuses(t *testing.T) {
	good, sum := release(t, map[string]string{"x/a": ""})
	climbing, sumOfClimbing := release(t, map[string]string{"x/../../../out": "!"})
	times := 0
	for name, c := range map[string]struct {
		sum   string
		fetch func(context.Context, string) (string, error)
		want  string
	}{
		"another file":     {strings.Repeat("0", 128), fetching(good, &times), "not the file that is expected"},
		"a cut file":       {sum, fetching(good[:len(good)/2], &times), "not the file that is expected"},
		"names that climb": {sumOfClimbing, fetching(climbing, &times), "escapes"},
		"no file":          {sum, func(context.Context, string) (string, error) { return "", errors.New("no network") }, "no network"},
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			err := prepare(t.Context(), filepath.Join(parent, "activemq"), c.sum, c.fetch)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
			if left, _ := os.ReadDir(parent); len(left) != 0 {
				t.Errorf("%v was left", left)
			}
		})
	}
}

func TestMavenMayBeMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := maven(t.Context(), t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "install Maven") {
		t.Errorf("got %v, want to be told what to install", err)
	}
}
