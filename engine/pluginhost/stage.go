package pluginhost

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// stage returns what is to be executed for a plugin: its program as it is, or a
// copy in dir that is known to have the digest.
func stage(p Plugin, dir string) (string, error) {
	path, err := p.program()
	if err != nil || p.SHA256 == "" {
		return path, err
	}
	in, err := openProgram(path)
	if err != nil {
		return "", err
	}
	defer in.Close()
	staged := filepath.Join(dir, strings.ToLower(p.SHA256))
	sum, err := copyProgram(staged, in)
	if err != nil {
		return "", fmt.Errorf("copy the program: %w", err)
	}
	if !strings.EqualFold(sum, p.SHA256) {
		return "", digestError(path, sum, p.SHA256)
	}
	return staged, nil
}

// openProgram opens what is to be copied, as long as it is a file.
func openProgram(path string) (*os.File, error) {
	// Without O_NONBLOCK the opening of a pipe would wait for its writer.
	in, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, symlinkError(path)
	}
	if err != nil {
		return nil, err
	}
	info, err := in.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("command: %s is not a file", path)
	}
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	return in, nil
}

// copyProgram writes a program that only its owner may run, and returns its
// digest. No process is started meanwhile: it would have the file open for
// writing until it execs, and what is open for writing cannot be run.
func copyProgram(to string, in io.Reader) (string, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o500) //nolint:gosec // it is a program
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	_, err = io.Copy(io.MultiWriter(out, hash), in)
	return hex.EncodeToString(hash.Sum(nil)), errors.Join(err, out.Close())
}

// checkFiles compares the plugin's files with their digests.
func checkFiles(p Plugin) error {
	for _, name := range slices.Sorted(maps.Keys(p.Files)) {
		path, err := p.path(name)
		if err != nil {
			return err
		}
		sum, err := digest(path)
		if err != nil {
			return fmt.Errorf("files: %w", err)
		}
		if !strings.EqualFold(sum, p.Files[name]) {
			return digestError(path, sum, p.Files[name])
		}
	}
	return nil
}

func digest(path string) (string, error) {
	in, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer in.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, in); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

func digestError(path, is, want string) error {
	return fmt.Errorf("%s is not what the configuration expects, so it was not started: its sha256 is %s, not %s", path, is, strings.ToLower(want))
}
