package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/term"

	"usher/cli/demo"
)

// show is where the demo appears: a screen on a terminal, lines elsewhere.
type show struct {
	out    io.Writer
	screen *os.File // nil: lines
	begun  bool
}

func newShow(out io.Writer, wanted bool) *show {
	s := &show{out: out}
	if f, ok := out.(*os.File); ok && wanted && isTerminal(out) {
		s.screen = f
	}
	return s
}

// logs is where log lines go: on a screen they are part of the picture.
func (s *show) logs(errs io.Writer, board *demo.Board) io.Writer {
	if s.screen == nil {
		return errs
	}
	return zerolog.ConsoleWriter{Out: board, NoColor: true, PartsExclude: []string{zerolog.TimestampFieldName}}
}

const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // the alternate screen, without cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	redraw      = 250 * time.Millisecond
	lineEvery   = 2 * time.Second
)

// draw shows the board until ctx ends.
func (s *show) draw(ctx context.Context, board *demo.Board, facts func() demo.Facts) error {
	every := lineEvery
	if s.screen != nil {
		every = redraw
		s.begun = true
		if _, err := io.WriteString(s.out, enterScreen); err != nil {
			return err
		}
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		var err error
		if s.screen == nil {
			_, err = fmt.Fprintln(s.out, board.Plain(facts()))
		} else {
			width, height := terminalSize(s.screen)
			err = board.Draw(s.out, facts(), width, height)
		}
		if err != nil {
			return fmt.Errorf("the demo cannot be shown: %w", err)
		}
	}
}

// end gives the terminal back.
func (s *show) end() {
	if s.begun {
		_, _ = io.WriteString(s.out, leaveScreen) // there is nobody left to tell
	}
}

// terminalSize is that of the screen; 80 by 24 if it cannot be told.
func terminalSize(f *os.File) (width, height int) {
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 80, 24
	}
	return width, height
}
