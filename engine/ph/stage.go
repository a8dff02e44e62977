package pluginhost

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// check finds what is wrong with a plugin before anything is started.
func (p Plugin) check() error {
	var errs []error
	switch {
	case len(p.Command) == 0 || p.Command[0] == "":
		return errors.New("command: say which program to run")
	case p.StartTimeout < 0 || p.Grace < 0:
		errs = append(errs, errors.New("times must not be negative"))
	}
	if _, err := p.find(); err != nil {
		errs = append(errs, err)
	}
	for name, sum := range p.Files {
		if !isSum(sum) {
			errs = append(errs, fmt.Errorf("files: %s: %q is no sha256; make one with: sha256sum %s", name, sum, name))
		}
	}
	if p.SHA256 != "" && !isSum(p.SHA256) {
		errs = append(errs, fmt.Errorf("sha256: %q is no sha256; make one with: sha256sum %s", p.SHA256, p.Command[0]))
	}
	return errors.Join(errs...)
}

func isSum(text string) bool {
	b, err := hex.DecodeString(text)
	return err == nil && len(b) == sha256.Size
}

// find is the path of the program: a regular file that may be executed, and no
// symbolic link where its sha256 is to be checked.
func (p Plugin) find() (string, error) {
	path := p.Command[0]
	if !strings.Contains(path, "/") {
		found, err := exec.LookPath(path)
		if err != nil {
			return "", fmt.Errorf("command: there is no program %q in PATH; install it, or name it with its path", path)
		}
		path = found
	}
	info, err := os.Stat(path)
	if p.SHA256 != "" {
		info, err = os.Lstat(path)
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("command: there is no file %s; build it, or correct the path", path)
	case err != nil:
		return "", fmt.Errorf("command: %w", err)
	case info.Mode()&os.ModeSymlink != 0:
		return "", fmt.Errorf("command: %s is a symbolic link; with a sha256, name the file itself", path)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("command: %s is no regular file", path)
	case info.Mode()&0o111 == 0:
		return "", fmt.Errorf("command: %s may not be executed; chmod +x it, or put its interpreter first", path)
	}
	return path, nil
}

// stage gives the path of the program to start. With a sha256 that is a copy in
// dir, made and checked now, so that what was checked is what runs.
func (p Plugin) stage(dir string) (string, error) {
	path, err := p.find()
	if err != nil {
		return "", err
	}
	for name, want := range p.Files {
		got, err := hashInto(io.Discard, name)
		if err != nil {
			return "", fmt.Errorf("files: %w", err)
		}
		if !strings.EqualFold(got, want) {
			return "", fmt.Errorf("files: %s has the sha256 %s, and the configuration wants %s", name, got, want)
		}
	}
	if p.SHA256 == "" {
		return path, nil
	}
	staged := filepath.Join(dir, "program-"+strings.ToLower(p.SHA256))
	if err := os.Remove(staged); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	f, err := os.OpenFile(staged, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o500)
	if err != nil {
		return "", err
	}
	got, err := hashInto(f, path)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	if !strings.EqualFold(got, p.SHA256) {
		return "", errors.Join(fmt.Errorf("%s has the sha256 %s, and the configuration wants %s: it is not started", path, got, p.SHA256), os.Remove(staged))
	}
	return staged, nil
}

// hashInto copies a file and gives its sha256.
func hashInto(w io.Writer, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w, sum), f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
