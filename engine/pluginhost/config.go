package pluginhost

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"usher/handlers/plugin/wire"
)

// Defaults of Config and Plugin.
const (
	DefaultDrain        = 10 * time.Second
	DefaultStartTimeout = 10 * time.Second
	DefaultGrace        = 2 * time.Second
)

// Config is what a Host is built from.
type Config struct {
	// Plugins are the plugins by name.
	Plugins map[string]Plugin
	// Types names the plugin that serves each message type.
	Types map[string]string
	// RuntimeDir is an existing folder in which each process gets a private one,
	// for its socket and the copy of its program; they are removed when it has
	// ended. It must allow programs to be run. Default os.TempDir().
	RuntimeDir string
	// Drain is how long Run lets messages finish after its context ended; then
	// they are cancelled. Default DefaultDrain.
	Drain time.Duration
	// Log gets what the plugins write, a line at a time and at most a thousand
	// lines a second of each, and when they start and end.
	Log zerolog.Logger
}

// Plugin says how one plugin is run.
type Plugin struct {
	// Command is the program and its arguments. A program without a slash is
	// looked for in PATH; relative paths begin at Dir.
	Command []string
	// Dir is the working directory. Default: that of the host.
	Dir string
	// SHA256 is the digest of the program, in hex. When it is given the program
	// is copied before each start, the copy is compared with it, and the copy is
	// what runs. It suits programs that are one file; for scripts see Files.
	// Empty: not checked.
	SHA256 string
	// Files are further files with their digests, compared before each start:
	// the scripts of an interpreter, for example. They are not copied, because
	// interpreters find their modules by place; so who may write to them between
	// the check and their loading is to be trusted. Relative paths begin at Dir.
	Files map[string]string
	// Env is the environment of the process, besides PATH, HOME, TMPDIR, LANG
	// and TZ, which it has from the host. No other variable is inherited.
	Env map[string]string
	// Memory is how many bytes of data a process may have, RLIMIT_DATA of Linux
	// (getrlimit(2)); elsewhere nothing is limited. 0: as many as there are.
	Memory int64
	// StartTimeout is how long a process may take until it is ready. Default
	// DefaultStartTimeout.
	StartTimeout time.Duration
	// Grace is how long a message may go on after it was cancelled before its
	// process is killed. Default DefaultGrace.
	Grace time.Duration
}

// program is where the executable of a plugin is.
func (p Plugin) program() (string, error) {
	name := p.Command[0]
	if !strings.ContainsRune(name, filepath.Separator) {
		path, err := exec.LookPath(name)
		if err != nil {
			return "", fmt.Errorf("command: there is no program %q in PATH: install it, or give its path", name)
		}
		return filepath.Abs(path)
	}
	return p.path(name)
}

// path is where a path of the configuration leads.
func (p Plugin) path(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	return filepath.Abs(filepath.Join(p.Dir, name))
}

func (p Plugin) withDefaults() Plugin {
	if p.StartTimeout == 0 {
		p.StartTimeout = DefaultStartTimeout
	}
	if p.Grace == 0 {
		p.Grace = DefaultGrace
	}
	return p
}

// typesOf are the types that are routed to a plugin, in order.
func (c Config) typesOf(plugin string) []string {
	types := []string{}
	for typ, of := range c.Types {
		if of == plugin {
			types = append(types, typ)
		}
	}
	slices.Sort(types)
	return types
}

// withDefaults returns a copy that shares nothing with c.
func (c Config) withDefaults() Config {
	if c.RuntimeDir == "" {
		c.RuntimeDir = os.TempDir()
	}
	if c.Drain == 0 {
		c.Drain = DefaultDrain
	}
	c.Types = maps.Clone(c.Types)
	plugins := make(map[string]Plugin, len(c.Plugins))
	for name, p := range c.Plugins {
		p.Command, p.Files, p.Env = slices.Clone(p.Command), maps.Clone(p.Files), maps.Clone(p.Env)
		plugins[name] = p.withDefaults()
	}
	c.Plugins = plugins
	return c
}

// validate reports all that is wrong at once.
func (c Config) validate() error {
	var errs []error
	if c.Drain < 0 {
		errs = append(errs, fmt.Errorf("drain: %v is negative", c.Drain))
	}
	if err := checkRuntimeDir(c.RuntimeDir); err != nil {
		errs = append(errs, err)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Plugins)) {
		for _, err := range c.Plugins[name].faults() {
			errs = append(errs, fmt.Errorf("plugin %s: %w", name, err))
		}
	}
	for _, typ := range slices.Sorted(maps.Keys(c.Types)) {
		if _, ok := c.Plugins[c.Types[typ]]; !ok {
			errs = append(errs, fmt.Errorf("type %s: there is no plugin %q; there are: %s", typ, c.Types[typ], listed(slices.Sorted(maps.Keys(c.Plugins)))))
		}
	}
	return errors.Join(errs...)
}

// The name of a socket has at most 103 bytes everywhere (108 on Linux, 104
// elsewhere, with a NUL); below the runtime folder there are the folder of the
// process, go-plugin's and the socket, each with a random number of ten digits.
const maxRuntimeDir = 103 - len("/usher-0123456789/plugin-dir0123456789/plugin0123456789")

func checkRuntimeDir(dir string) error {
	if len(dir) > maxRuntimeDir {
		return fmt.Errorf("the runtime folder %s has a name of %d bytes; with more than %d there is no room for the name of a socket: choose another, for example with TMPDIR=/tmp", dir, len(dir), maxRuntimeDir)
	}
	return checkDir("the runtime folder", dir)
}

func checkDir(what, dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if !info.IsDir() {
		return fmt.Errorf("%s: %s is not a folder", what, dir)
	}
	return nil
}

// faults lists all that is wrong with a plugin's settings.
func (p Plugin) faults() []error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if p.StartTimeout < 0 || p.Grace < 0 {
		fault("start timeout %v, grace %v: neither may be negative", p.StartTimeout, p.Grace)
	}
	if p.Dir != "" {
		if err := checkDir("dir", p.Dir); err != nil {
			fault("%w", err)
		}
	}
	if len(p.Command) == 0 || p.Command[0] == "" {
		fault("command is empty; it is a list of the program and its arguments, as in [./bin/orders]")
	} else if err := p.checkProgram(); err != nil {
		fault("%w", err)
	}
	if p.SHA256 != "" && !isDigest(p.SHA256) {
		fault("sha256: %q is not a digest of 64 hex digits; get it with: sha256sum %s", p.SHA256, strings.Join(p.Command[:min(1, len(p.Command))], ""))
	}
	for _, name := range slices.Sorted(maps.Keys(p.Files)) {
		if sum := p.Files[name]; !isDigest(sum) {
			fault("files: %s: %q is not a digest of 64 hex digits; get it with: sha256sum %s", name, sum, name)
		}
		if err := p.checkFile(name); err != nil {
			fault("files: %w", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Env)) {
		if err := checkVariable(name, p.Env[name]); err != nil {
			fault("env: %w", err)
		}
	}
	return errs
}

// checkProgram finds out early what would fail at the start.
func (p Plugin) checkProgram() error {
	path, err := p.program()
	if err != nil {
		return err
	}
	look := os.Stat
	if p.SHA256 != "" {
		look = os.Lstat
	}
	info, err := look(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("command: there is no file %s: build it, or correct the path", path)
	case err != nil:
		return fmt.Errorf("command: %w", err)
	case info.Mode()&os.ModeSymlink != 0:
		return symlinkError(path)
	case !info.Mode().IsRegular():
		return fmt.Errorf("command: %s is not a file", path)
	case info.Mode().Perm()&0o111 == 0:
		return fmt.Errorf("command: %s may not be run: chmod +x it", path)
	}
	return nil
}

func symlinkError(path string) error {
	return fmt.Errorf("command: %s is a symbolic link, which a sha256 does not go with: give the path of the program itself", path)
}

func (p Plugin) checkFile(name string) error {
	path, err := p.path(name)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", path)
	}
	return nil
}

func isDigest(s string) bool {
	sum, err := hex.DecodeString(s)
	return err == nil && len(sum) == 32
}

// checkVariable refuses what cannot be in an environment, and what the handshake
// is made of.
func checkVariable(name, value string) error {
	switch {
	case name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00"):
		return fmt.Errorf("%q: a name is not empty and has no =, and neither name nor value has a NUL", name)
	case strings.HasPrefix(name, "PLUGIN_") || name == wire.Handshake().MagicCookieKey:
		return fmt.Errorf("%s belongs to the handshake between usher and the plugin", name)
	}
	return nil
}

// listed is names for a sentence.
func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
