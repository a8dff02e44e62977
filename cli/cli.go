// Package cli is the command line of usher: one file a command. It parses,
// wires the other packages together, and prints; the work is theirs.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"usher/config"
)

// Exit codes, the same for every command.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInvalid     = 3
	exitNotFound    = 4
	exitUnreachable = 5
	exitConflict    = 6 // the message is not in a state that allows it
)

// failure is an error with its exit code.
type failure struct {
	code    int
	err     error
	problem string // the code of the server's problem; "": it did not come from there
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func fail(code int, format string, args ...any) error {
	return &failure{code: code, err: fmt.Errorf(format, args...)}
}

// Main runs the command line with the process's arguments and streams, and
// ends the process with its exit code. The first interrupt or SIGTERM stops
// what runs in an orderly way, a second one at once.
func Main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// Run runs one command and returns its exit code. Data goes to out, messages to
// errs.
func Run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	code, text := exitFailed, err.Error()
	var f *failure
	var problems config.Errors
	switch {
	case errors.As(err, &f):
		code = f.code
	case errors.As(err, &problems):
		code = exitInvalid
		text = problems.Format(isTerminal(errs))
	case isUsage(err):
		code = exitUsage
		text += "\nSee 'usher --help', or 'usher COMMAND --help' for one command."
	}
	if text != "" {
		fmt.Fprintln(errs, "usher:", strings.TrimSuffix(text, "\n"))
	}
	return code
}

// isUsage recognises cobra's own errors: those that arise before a command runs.
func isUsage(err error) bool {
	var u usageError
	return errors.As(err, &u) || strings.HasPrefix(err.Error(), "unknown command")
}

// usageError marks what cobra says of flags and arguments.
type usageError struct{ error }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "usher",
		Short: "Messages by priority, each through its handler, none lost",
		Long: `usher takes typed messages from a STOMP broker, urgent ones first, lets early
ones wait, runs each through a handler plugin, retries what fails, and puts
what still fails into a dead-letter queue.

Exit codes: 0 done, 1 failed, 2 usage, 3 invalid input, 4 not found, 5 unreachable,
6 not possible in the state that the message is in.`,
		Example: `  usher dev --demo                      everything on this machine, with a shop that plays
  usher send order.rush --data '{"order":7}' --wait
  usher queues                          what waits, level by level
  usher dlq list                        what failed, and why`,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().Bool("json", false, "print data as JSON")
	for _, add := range []func() *cobra.Command{
		devCommand, runCommand, sendCommand, watchCommand, tokenCommand, msgCommand, queuesCommand, typesCommand, delayCommand,
		dlqCommand, pluginsCommand, configCommand, deployCommand, doctorCommand, versionCommand,
	} {
		root.AddCommand(add())
	}
	usageArguments(root)
	return root
}

// usageArguments makes what every command says of wrong arguments a usage error.
func usageArguments(c *cobra.Command) {
	if !c.Runnable() && c.HasParent() {
		group(c)
	}
	check := c.Args
	if check == nil && c.Runnable() {
		check = cobra.NoArgs
	}
	if check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usageError{err}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		usageArguments(sub)
	}
}

// group makes a command that only has others say so when it is called with a
// word that is none of them.
func group(c *cobra.Command) {
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("unknown command %q for %q", args[0], c.CommandPath())
		}
		return nil
	}
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
}

// isTerminal says whether w is a screen that wants colour.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

func wantsJSON(c *cobra.Command) bool {
	v, err := c.Flags().GetBool("json")
	return err == nil && v
}
