package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine/stompframe"
)

const (
	// connectTimeout is how long the broker has to answer CONNECT.
	connectTimeout = 10 * time.Second
	// discardBytes is the longest body that is read past; ActiveMQ's own limit is 100 MiB.
	discardBytes = 128 << 20
	// The limits on headers are wide: a message that is over them would end every
	// session that it is delivered to.
	readHeaderBytes = 1 << 20
	readHeaders     = 4096
)

// Config is what a session needs. All of its fields must be set but where they
// say otherwise.
type Config struct {
	// Host is the virtual host that is asked for.
	Host string
	// Login and Passcode are the user; an empty Login sends neither.
	Login, Passcode string
	// HeartBeat is how often either side is to give a sign of life; 0: no heart-beats.
	HeartBeat time.Duration
	// MaxBodyBytes is the longest body that is kept.
	MaxBodyBytes int
	// Timeout is how long the broker has to answer a request.
	Timeout time.Duration
}

// Validate says whether CONNECT can carry the config.
func (c Config) Validate() error {
	_, err := stompframe.Append(nil, stompframe.V12, c.connectFrame())
	return err
}

func (c Config) connectFrame() *frame.Frame {
	beat := strconv.FormatInt(c.HeartBeat.Milliseconds(), 10)
	f := frame.New(frame.CONNECT,
		frame.AcceptVersion, "1.0,1.1,1.2",
		frame.Host, c.Host,
		frame.HeartBeat, beat+","+beat)
	if c.Login != "" {
		f.Header.Add(frame.Login, c.Login)
		f.Header.Add(frame.Passcode, c.Passcode)
	}
	return f
}

// Connect makes a session of the connection, or closes it. It waits for the
// broker's answer until ctx ends, and at most ten seconds. The session has to be
// started.
func Connect(ctx context.Context, c Config, conn net.Conn) (*Session, error) {
	s, err := handshake(ctx, c, conn)
	if err != nil {
		_ = conn.Close() // the error that matters is the first
		return nil, err
	}
	return s, nil
}

func handshake(ctx context.Context, c Config, conn net.Conn) (*Session, error) {
	if err := conn.SetDeadline(time.Now().Add(connectTimeout)); err != nil {
		return nil, err
	}
	release := context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0)) // wakes the read or the write below
	})
	defer release()
	wire, err := stompframe.Append(nil, stompframe.V12, c.connectFrame())
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(wire); err != nil {
		return nil, contextOr(ctx, err)
	}
	s := newSession(c, conn)
	answer, err := firstFrame(s.frames)
	if err != nil {
		return nil, contextOr(ctx, err)
	}
	if err := s.agree(c, answer); err != nil {
		return nil, err
	}
	if !release() {
		return nil, ctx.Err() // it ended, and the deadline is its own
	}
	return s, conn.SetDeadline(time.Time{})
}

func contextOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func firstFrame(r *stompframe.Reader) (*frame.Frame, error) {
	for {
		f, err := r.Read()
		if f != nil || err != nil {
			return f, err
		}
	}
}

// agree reads the broker's answer to CONNECT.
func (s *Session) agree(c Config, answer *frame.Frame) error {
	switch answer.Command {
	case frame.CONNECTED:
	case frame.ERROR:
		return errorOf(answer)
	default:
		return fmt.Errorf("the broker answered CONNECT with %s", answer.Command)
	}
	v := stompframe.Version(answer.Header.Get(frame.Version))
	switch v {
	case stompframe.V10, stompframe.V11, stompframe.V12:
	case "":
		v = stompframe.V10 // which has no such header
	default:
		return fmt.Errorf("the broker speaks STOMP %q, not 1.0, 1.1 or 1.2", v)
	}
	theirs, err := parseHeartBeat(answer.Header.Get(frame.HeartBeat))
	if err != nil {
		return err
	}
	s.use(v)
	s.sendEvery = agreed(c.HeartBeat, theirs.wants)
	s.expectEvery = agreed(theirs.sends, c.HeartBeat)
	return nil
}

// heartBeat is one side's header: how often it can send, and wants to receive.
type heartBeat struct{ sends, wants time.Duration }

// parseHeartBeat reads a heart-beat header; without one it is "0,0" (STOMP 1.2,
// Heart-beating).
func parseHeartBeat(text string) (heartBeat, error) {
	if text == "" {
		return heartBeat{}, nil
	}
	sends, wants, _ := strings.Cut(text, ",")
	x, err1 := strconv.ParseUint(strings.TrimSpace(sends), 10, 31)
	y, err2 := strconv.ParseUint(strings.TrimSpace(wants), 10, 31)
	if err := errors.Join(err1, err2); err != nil {
		return heartBeat{}, fmt.Errorf("the broker's heart-beat header is %q: %w", text, err)
	}
	return heartBeat{time.Duration(x) * time.Millisecond, time.Duration(y) * time.Millisecond}, nil
}

// agreed is the interval of one direction: the longer of what one side can and
// the other wants, none if either says 0 (STOMP 1.2, Heart-beating).
func agreed(can, wants time.Duration) time.Duration {
	if can == 0 || wants == 0 {
		return 0
	}
	return max(can, wants)
}
