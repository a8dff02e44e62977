package session

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine/stompframe"
)

func TestConnectSaysWhoWeAre(t *testing.T) {
	conn, p := pipe(t)
	sent := make(chan *frame.Frame, 1)
	go func() {
		sent <- p.read()
		p.send(frame.CONNECTED, "version", "1.1", "heart-beat", "2000,30000")
	}()
	c := plain
	c.Login, c.Passcode, c.HeartBeat = `us:er`, `p:a\ss`, 10*time.Second
	s, err := Connect(t.Context(), c, conn)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f := <-sent
	for name, want := range map[string]string{
		"accept-version": "1.0,1.1,1.2", "host": "host", "heart-beat": "10000,10000", "login": `us:er`, "passcode": `p:a\ss`,
	} {
		if got := f.Header.Get(name); got != want {
			t.Errorf("CONNECT has %s:%s, want %s", name, got, want)
		}
	}
	if s.Version() != stompframe.V11 || s.Interval() != 10*time.Second || s.sendEvery != 30*time.Second {
		t.Errorf("agreed on %s, a sign each %v, ours each %v; want 1.1, 10s, 30s", s.Version(), s.Interval(), s.sendEvery)
	}
}

// STOMP 1.2, Heart-beating: either side's 0 turns a direction off. go-stomp
// takes the maximum regardless, and then closes healthy connections.
func TestHeartBeatsAreAgreed(t *testing.T) {
	tests := []struct {
		ours         time.Duration
		header       string
		send, expect time.Duration
	}{
		{10 * time.Second, "0,0", 0, 0},
		{10 * time.Second, "", 0, 0},
		{0, "300,300", 0, 0},
		{10 * time.Second, "0,300", 10 * time.Second, 0},
		{10 * time.Second, "300,0", 0, 10 * time.Second},
		{time.Second, "5000,7000", 7 * time.Second, 5 * time.Second},
		{10 * time.Second, " 300 , 20000 ", 20 * time.Second, 10 * time.Second},
	}
	for _, tt := range tests {
		c := beating(plain, tt.ours)
		ours, theirs := net.Pipe()
		defer theirs.Close()
		s := newSession(c, ours)
		defer s.Close()
		if err := s.agree(c, frame.New(frame.CONNECTED, "heart-beat", tt.header)); err != nil {
			t.Fatalf("%q: %v", tt.header, err)
		}
		if s.sendEvery != tt.send || s.expectEvery != tt.expect {
			t.Errorf("%v with %q: we send each %v and expect each %v; want %v, %v", tt.ours, tt.header, s.sendEvery, s.expectEvery, tt.send, tt.expect)
		}
	}
}

func TestFailedConnectClosesTheSocket(t *testing.T) {
	tests := map[string]struct {
		answer string // after which the broker closes nothing
		want   string
	}{
		"refused":                {"ERROR\nmessage:User name [x] or password is invalid.\n\nat java.lang\x00", "User name [x] or password is invalid."},
		"refused, body only":     {"ERROR\n\nno such\nuser\x00", "no such user"},
		"refused without a word": {"ERROR\n\n\x00", "did not say why"},
		"other version":          {"CONNECTED\nversion:2.0\n\n\x00", `STOMP "2.0"`},
		"bad heart-beat":         {"CONNECTED\nversion:1.2\nheart-beat:a,b\n\n\x00", "heart-beat"},
		"other frame":            {"RECEIPT\nreceipt-id:1\n\n\x00", "RECEIPT"},
		"not STOMP":              {"HTTP/1.1 400 Bad Request\r\n\r\n", "no STOMP command"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			conn, p := pipe(t)
			closed := make(chan bool, 1)
			go func() {
				p.expect(frame.CONNECT)
				p.raw(tt.answer)
				closed <- p.read() == nil
			}()
			_, err := Connect(t.Context(), plain, conn)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
			if !<-closed {
				t.Error("the socket is open")
			}
		})
	}
}

func TestConnectGivesUp(t *testing.T) {
	t.Run("when the broker is silent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			conn, p := pipe(t)
			go p.expect(frame.CONNECT)
			began := time.Now()
			if _, err := Connect(t.Context(), plain, conn); err == nil || time.Since(began) != connectTimeout {
				t.Errorf("got %v after %v, want an error after %v", err, time.Since(began), connectTimeout)
			}
			expectClosed(t, p)
		})
	})
	t.Run("when the context ends", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			conn, p := pipe(t)
			go p.expect(frame.CONNECT)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := Connect(ctx, plain, conn); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want the context's error", err)
			}
			expectClosed(t, p)
		})
	})
	t.Run("when the broker goes away", func(t *testing.T) {
		conn, p := pipe(t)
		go func() {
			p.expect(frame.CONNECT)
			p.conn.Close()
		}()
		if _, err := Connect(t.Context(), plain, conn); !errors.Is(err, io.EOF) {
			t.Errorf("got %v, want EOF", err)
		}
	})
}

func expectClosed(t *testing.T, p *peer) {
	t.Helper()
	if _, err := p.conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the socket gives %v, want EOF", err)
	}
}

func TestConnectRefusesWhatCONNECTCannotCarry(t *testing.T) {
	c := plain
	c.Login, c.Passcode = "user", "pass\nadmin:true"
	if err := c.Validate(); !errors.Is(err, stompframe.ErrMalformed) || strings.Contains(err.Error(), "admin") {
		t.Errorf("Validate: %v", err)
	}
	ours, theirs := net.Pipe()
	defer theirs.Close()
	if _, err := Connect(t.Context(), c, ours); !errors.Is(err, stompframe.ErrMalformed) {
		t.Errorf("Connect: %v", err)
	}
}
