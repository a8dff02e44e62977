package stompframe_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/go-stomp/stomp/v3/frame"
	"pgregory.net/rapid"

	"usher/engine/stompframe"
)

func TestWriterEncodes(t *testing.T) {
	tests := map[string]struct {
		version stompframe.Version
		f       *frame.Frame
		want    string
	}{
		"bare":                 {"1.2", &frame.Frame{Command: "DISCONNECT"}, "DISCONNECT\n\n\x00"},
		"length is added":      {"1.2", &frame.Frame{Command: "SEND", Header: frame.NewHeader("a", "b"), Body: []byte("x\x00y")}, "SEND\na:b\ncontent-length:3\n\nx\x00y\x00"},
		"length is kept":       {"1.2", &frame.Frame{Command: "SEND", Header: frame.NewHeader("content-length", "1"), Body: []byte("x")}, "SEND\ncontent-length:1\n\nx\x00"},
		"length 0 is kept":     {"1.2", frame.New("SEND", "content-length", "0"), "SEND\ncontent-length:0\n\n\x00"},
		"escapes of 1.2":       {"1.2", frame.New("SEND", "a:b", "\\\r\n:"), `SEND` + "\n" + `a\cb:\\\r\n\c` + "\n\n\x00"},
		"escapes of 1.1":       {"1.1", frame.New("SEND", "a:b", "\\\n:"), `SEND` + "\n" + `a\cb:\\\n\c` + "\n\n\x00"},
		"no escapes in 1.0":    {"1.0", frame.New("SEND", "a", `\n:`), "SEND\na:\\n:\n\n\x00"},
		"none in CONNECT":      {"1.2", frame.New("CONNECT", "passcode", `p:a\ss`), "CONNECT\npasscode:p:a\\ss\n\n\x00"},
		"none in CONNECTED":    {"1.2", frame.New("CONNECTED", "server", `a:\`), "CONNECTED\nserver:a:\\\n\n\x00"},
		"repeated names stand": {"1.2", frame.New("SEND", "k", "1", "k", "2"), "SEND\nk:1\nk:2\n\n\x00"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			w := stompframe.NewWriter(&out)
			w.SetVersion(tt.version)
			if err := w.Write(tt.f); err != nil {
				t.Fatal(err)
			}
			if out.Len() != 0 || w.Buffered() != len(tt.want) {
				t.Errorf("before Flush %d bytes were out and %d waited; want 0 and %d", out.Len(), w.Buffered(), len(tt.want))
			}
			if err := w.Flush(); err != nil || out.String() != tt.want {
				t.Errorf("got %q, %v; want %q", out.String(), err, tt.want)
			}
		})
	}
}

func TestWriterRefusesWhatItCannotCarry(t *testing.T) {
	tests := map[string]struct {
		version stompframe.Version
		f       *frame.Frame
	}{
		"unknown command":        {"1.2", frame.New("FETCH")},
		"two commands":           {"1.2", frame.New("SEND\n\n\x00SEND")},
		"NUL in a value":         {"1.2", frame.New("SEND", "a", "x\x00y")},
		"NUL in a name":          {"1.2", frame.New("SEND", "a\x00", "x")},
		"no name":                {"1.2", frame.New("SEND", "", "x")},
		"CR in 1.1":              {"1.1", frame.New("SEND", "a", "x\ry")},
		"LF in 1.0":              {"1.0", frame.New("SEND", "a", "x\ny")},
		"CR in 1.0":              {"1.0", frame.New("SEND", "a", "x\ry")},
		"colon in a name of 1.0": {"1.0", frame.New("SEND", "a:b", "x")},
		"LF in CONNECT":          {"1.2", frame.New("CONNECT", "login", "x\nadmin:true")},
		"CR in CONNECT":          {"1.2", frame.New("CONNECT", "login", "x\r")},
		"wrong content-length":   {"1.2", &frame.Frame{Command: "SEND", Header: frame.NewHeader("content-length", "2"), Body: []byte("x")}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := stompframe.NewWriter(io.Discard)
			w.SetVersion(tt.version)
			if err := w.Write(tt.f); !errors.Is(err, stompframe.ErrMalformed) || w.Buffered() != 0 {
				t.Errorf("got %v with %d bytes in the buffer; want malformed and nothing", err, w.Buffered())
			}
			dst, err := stompframe.Append([]byte("before"), tt.version, tt.f)
			if string(dst) != "before" || !errors.Is(err, stompframe.ErrMalformed) {
				t.Errorf("Append: %q, %v; want what was there, and malformed", dst, err)
			}
		})
	}
}

func TestWriterBeatsAndReportsErrors(t *testing.T) {
	var out bytes.Buffer
	w := stompframe.NewWriter(&out)
	if err := errors.Join(w.HeartBeat(), w.Flush()); err != nil || out.String() != "\n" {
		t.Errorf("wrote %q, %v; want one line feed", out.String(), err)
	}
	r, pipe := io.Pipe()
	r.Close()
	w = stompframe.NewWriter(pipe)
	if err := errors.Join(w.Write(frame.New("ACK", "id", "1")), w.Flush()); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v, want the error of the pipe", err)
	}
	if err := w.Write(frame.New("ACK", "id", "1")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a later Write gave %v, want the same error", err)
	}
}

// frames draws frames that the version can carry.
func frames(v stompframe.Version) *rapid.Generator[*frame.Frame] {
	return rapid.Custom(func(t *rapid.T) *frame.Frame {
		f := frame.New(rapid.SampledFrom([]string{
			"SEND", "MESSAGE", "ACK", "NACK", "RECEIPT", "ERROR", "SUBSCRIBE", "UNSUBSCRIBE", "BEGIN", "COMMIT",
			"ABORT", "CONNECT", "STOMP", "CONNECTED", "DISCONNECT"}).Draw(t, "command"))
		bad := "\x00"
		switch {
		case v == stompframe.V10, f.Command == "CONNECT", f.Command == "CONNECTED", f.Command == "STOMP":
			bad = "\x00\r\n"
		case v == stompframe.V11:
			bad = "\x00\r"
		}
		text := rapid.Custom(func(t *rapid.T) string {
			s := rapid.OneOf(rapid.String(), rapid.StringOf(rapid.SampledFrom([]rune("\\:\r\nac")))).Draw(t, "text")
			return strings.Map(func(r rune) rune {
				if strings.ContainsRune(bad, r) {
					return -1
				}
				return r
			}, s)
		})
		for range rapid.IntRange(0, 12).Draw(t, "headers") {
			name := "n" + text.Draw(t, "name")
			if len(bad) == 3 {
				name = strings.ReplaceAll(name, ":", "")
			}
			f.Header.Add(name, text.Draw(t, "value"))
		}
		f.Body = rapid.SliceOfN(rapid.Byte(), 0, 2000).Draw(t, "body")
		return f
	})
}

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SampledFrom([]stompframe.Version{stompframe.V10, stompframe.V11, stompframe.V12}).Draw(t, "version")
		sent := rapid.SliceOfN(frames(v), 1, 5).Draw(t, "frames")
		var wire bytes.Buffer
		w := stompframe.NewWriter(&wire)
		w.SetVersion(v)
		for _, f := range sent {
			if err := w.Write(f); err != nil {
				t.Fatalf("Write: %v", err)
			}
			if err := w.HeartBeat(); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		r := stompframe.NewReader(&wire, stompframe.Limits{})
		r.SetVersion(v)
		for i, want := range sent {
			got, err := r.Read()
			if err != nil {
				t.Fatalf("frame %d: %v", i, err)
			}
			headers := entries(want)
			if len(want.Body) > 0 {
				headers = append(headers, entry{"content-length", got.Header.Get("content-length")})
			}
			if got.Command != want.Command || !equal(entries(got), headers) || !bytes.Equal(got.Body, want.Body) {
				t.Fatalf("frame %d: wrote %s %q %q, read %s %q %q", i, want.Command, headers, want.Body, got.Command, entries(got), got.Body)
			}
			if beat, err := r.Read(); beat != nil || err != nil {
				t.Fatalf("after frame %d: %v, %v; want the heart-beat", i, beat, err)
			}
		}
	})
}

// go-stomp's own reader is the independent judge of what is written.
func TestGoStompReadsWhatIsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := frames(stompframe.V12).Draw(t, "frame")
		if want.Command == "CONNECT" || want.Command == "CONNECTED" || want.Command == "STOMP" {
			want.Command = "SEND" // go-stomp unescapes those, against the protocol
		}
		wire, err := stompframe.Append(nil, stompframe.V12, want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := frame.NewReader(bytes.NewReader(wire)).Read()
		if err != nil {
			t.Fatal(err)
		}
		if got.Command != want.Command || !bytes.Equal(got.Body, want.Body) || !equal(entries(got)[:want.Header.Len()], entries(want)) {
			t.Fatalf("wrote %s %q %q, read %s %q %q", want.Command, entries(want), want.Body, got.Command, entries(got), got.Body)
		}
	})
}
