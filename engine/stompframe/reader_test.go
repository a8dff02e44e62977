package stompframe_test

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine/stompframe"
)

// entry is one header line.
type entry struct{ name, value string }

func entries(f *frame.Frame) []entry {
	var all []entry
	for i := range f.Header.Len() {
		name, value := f.Header.GetAt(i)
		all = append(all, entry{name, value})
	}
	return all
}

func TestReaderReadsFrames(t *testing.T) {
	tests := map[string]struct {
		version stompframe.Version
		in      string
		command string
		headers []entry
		body    string
	}{
		"length":                       {"1.2", "SEND\na:b\ncontent-length:3\n\nx\x00y\x00", "SEND", []entry{{"a", "b"}, {"content-length", "3"}}, "x\x00y"},
		"no length":                    {"1.2", "SEND\na:b\n\nxyz\x00", "SEND", []entry{{"a", "b"}}, "xyz"},
		"no headers, no body":          {"1.2", "DISCONNECT\n\n\x00", "DISCONNECT", nil, ""},
		"length 0":                     {"1.2", "SEND\ncontent-length:0\n\n\x00", "SEND", []entry{{"content-length", "0"}}, ""},
		"CRLF":                         {"1.2", "ACK\r\nid:7\r\n\r\n\x00", "ACK", []entry{{"id", "7"}}, ""},
		"value with colons":            {"1.1", "SEND\ndestination:a:b:c\n\n\x00", "SEND", []entry{{"destination", "a:b:c"}}, ""},
		"empty value":                  {"1.2", "SEND\na:\n\n\x00", "SEND", []entry{{"a", ""}}, ""},
		"spaces stay":                  {"1.2", "SEND\n a : b \n\n\x00", "SEND", []entry{{" a ", " b "}}, ""},
		"escapes of 1.2":               {"1.2", `SEND` + "\n" + `a\cb:\\ \n \r \c` + "\n\n\x00", "SEND", []entry{{"a:b", "\\ \n \r :"}}, ""},
		"escapes of 1.1":               {"1.1", `SEND` + "\n" + `a\cb:\\ \n \c` + "\n\n\x00", "SEND", []entry{{"a:b", "\\ \n :"}}, ""},
		"1.0 has no escapes":           {"1.0", `SEND` + "\n" + `a:\n\q\` + "\n\n\x00", "SEND", []entry{{"a", `\n\q\`}}, ""},
		"CONNECT has no escapes":       {"1.2", "CONNECT\npasscode:p\\t:c\n\n\x00", "CONNECT", []entry{{"passcode", `p\t:c`}}, ""},
		"CONNECTED has no escapes":     {"1.2", "CONNECTED\nserver:a\\q\n\n\x00", "CONNECTED", []entry{{"server", `a\q`}}, ""},
		"first of repeated names":      {"1.2", "SEND\nk:1\nk:2\n\n\x00", "SEND", []entry{{"k", "1"}, {"k", "2"}}, ""},
		"first content-length":         {"1.2", "SEND\ncontent-length:2\ncontent-length:9\n\nab\x00", "SEND", []entry{{"content-length", "2"}, {"content-length", "9"}}, "ab"},
		"unicode":                      {"1.2", "SEND\nk:grüße 猫\n\nß\x00", "SEND", []entry{{"k", "grüße 猫"}}, "ß"},
		"content-length of other name": {"1.2", "SEND\nContent-Length:9\n\nab\x00", "SEND", []entry{{"Content-Length", "9"}}, "ab"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, in := range []io.Reader{strings.NewReader(tt.in), iotest.OneByteReader(strings.NewReader(tt.in))} {
				r := stompframe.NewReader(in, stompframe.Limits{})
				r.SetVersion(tt.version)
				f, err := r.Read()
				if err != nil {
					t.Fatalf("Read: %v", err)
				}
				if f.Command != tt.command || string(f.Body) != tt.body {
					t.Errorf("got %s %q, want %s %q", f.Command, f.Body, tt.command, tt.body)
				}
				if got := entries(f); !equal(got, tt.headers) {
					t.Errorf("headers %q, want %q", got, tt.headers)
				}
				if len(tt.headers) > 0 && f.Header.Get(tt.headers[0].name) != tt.headers[0].value {
					t.Errorf("Get(%q) = %q: not the first of that name", tt.headers[0].name, f.Header.Get(tt.headers[0].name))
				}
				if _, err := r.Read(); err != io.EOF {
					t.Errorf("after the last frame: %v, want io.EOF", err)
				}
			}
		})
	}
}

func equal(a, b []entry) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestReaderGivesHeartBeatsBetweenFrames(t *testing.T) {
	r := stompframe.NewReader(strings.NewReader("\n\r\nACK\nid:1\n\n\x00\n\nACK\nid:2\n\n\x00"), stompframe.Limits{})
	var got []string
	for {
		f, err := r.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if f == nil {
			got = append(got, "beat")
		} else {
			got = append(got, f.Header.Get("id"))
		}
	}
	if want := "beat beat 1 beat beat 2"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestReaderRefuses(t *testing.T) {
	small := stompframe.Limits{HeaderBytes: 100, Headers: 3, BodyBytes: 10}
	tests := map[string]struct {
		version stompframe.Version
		in      string
		want    error
	}{
		"length of 2^63-1":            {"1.2", "SEND\ncontent-length:9223372036854775807\n\nabc", stompframe.ErrTooLarge},
		"length of 2^64":              {"1.2", "SEND\ncontent-length:18446744073709551616\n\nabc", stompframe.ErrTooLarge},
		"length of -1":                {"1.2", "SEND\ncontent-length:-1\n\nabc\x00", stompframe.ErrMalformed},
		"length with a plus":          {"1.2", "SEND\ncontent-length:+3\n\nabc\x00", stompframe.ErrMalformed},
		"length that is junk":         {"1.2", "SEND\ncontent-length:3x\n\nabc\x00", stompframe.ErrMalformed},
		"length that is empty":        {"1.2", "SEND\ncontent-length:\n\nabc\x00", stompframe.ErrMalformed},
		"length over the cap":         {"1.2", "SEND\ncontent-length:11\n\nabcdefghijk\x00", stompframe.ErrTooLarge},
		"length too short":            {"1.2", "SEND\ncontent-length:2\n\nabc\x00", stompframe.ErrMalformed},
		"bad first length of two":     {"1.2", "SEND\ncontent-length:x\ncontent-length:3\n\nabc\x00", stompframe.ErrMalformed},
		"body over the cap":           {"1.2", "SEND\n\nabcdefghijk\x00", stompframe.ErrTooLarge},
		"endless body":                {"1.2", "SEND\n\n" + strings.Repeat("x", 1<<20), stompframe.ErrTooLarge},
		"100,000 NULs":                {"1.2", strings.Repeat("\x00", 100_000), stompframe.ErrMalformed},
		"100,000 NULs in headers":     {"1.2", "SEND\n" + strings.Repeat("\x00", 100_000), stompframe.ErrTooLarge},
		"NUL in a header":             {"1.2", "SEND\na:b\x00c\n\n\x00", stompframe.ErrMalformed},
		"endless header":              {"1.2", "SEND\na:" + strings.Repeat("x", 1<<20), stompframe.ErrTooLarge},
		"headers over the bytes":      {"1.2", "SEND\na:" + strings.Repeat("x", 50) + "\nb:" + strings.Repeat("x", 50) + "\n\n\x00", stompframe.ErrTooLarge},
		"headers over the count":      {"1.2", "SEND\na:1\nb:2\nc:3\nd:4\n\n\x00", stompframe.ErrTooLarge},
		"unknown command":             {"1.2", "FETCH\n\n\x00", stompframe.ErrMalformed},
		"lower-case command":          {"1.2", "send\n\n\x00", stompframe.ErrMalformed},
		"HTTP":                        {"1.2", "GET / HTTP/1.1\r\n\r\n", stompframe.ErrMalformed},
		"TLS":                         {"1.2", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", stompframe.ErrMalformed},
		"endless command":             {"1.2", strings.Repeat("A", 1<<20), stompframe.ErrMalformed},
		"lone carriage return":        {"1.2", "\rSEND\n\n\x00", stompframe.ErrMalformed},
		"header without a colon":      {"1.2", "SEND\nabc\n\n\x00", stompframe.ErrMalformed},
		"header without a name":       {"1.2", "SEND\n:abc\n\n\x00", stompframe.ErrMalformed},
		"undefined escape":            {"1.2", "SEND\na:\\t\n\n\x00", stompframe.ErrMalformed},
		"undefined escape, name":      {"1.2", "SEND\n\\ta:b\n\n\x00", stompframe.ErrMalformed},
		"undefined escape of 1.1":     {"1.1", "SEND\na:\\r\n\n\x00", stompframe.ErrMalformed},
		"escape cut short":            {"1.2", "SEND\na:\\\n\n\x00", stompframe.ErrMalformed},
		"cut in the command":          {"1.2", "SEN", io.ErrUnexpectedEOF},
		"cut in the headers":          {"1.2", "SEND\na:b\n", io.ErrUnexpectedEOF},
		"cut in a body":               {"1.2", "SEND\n\nabc", io.ErrUnexpectedEOF},
		"cut in a body with a length": {"1.2", "SEND\ncontent-length:5\n\nabc", io.ErrUnexpectedEOF},
		"cut before the NUL":          {"1.2", "SEND\ncontent-length:3\n\nabc", io.ErrUnexpectedEOF},
		"cut in a line end":           {"1.2", "\r", io.ErrUnexpectedEOF},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := stompframe.NewReader(strings.NewReader(tt.in), small)
			r.SetVersion(tt.version)
			f, err := r.Read()
			if !errors.Is(err, tt.want) || f != nil {
				t.Errorf("got %v, %v; want no frame and %v", f, err, tt.want)
			}
		})
	}
}

func TestReaderReadsPastAnOverLongBody(t *testing.T) {
	limits := stompframe.Limits{BodyBytes: 10, Discard: 100_000}
	long := strings.Repeat("x", 70_000)
	for name, in := range map[string]string{
		"length":    "MESSAGE\nmessage-id:1\ncontent-length:70000\n\n" + long + "\x00",
		"no length": "MESSAGE\nmessage-id:1\n\n" + long + "\x00",
	} {
		t.Run(name, func(t *testing.T) {
			r := stompframe.NewReader(strings.NewReader(in+"\nMESSAGE\nmessage-id:2\n\nabc\x00"), limits)
			f, err := r.Read()
			var fault *stompframe.Error
			if !errors.As(err, &fault) || !errors.Is(err, stompframe.ErrTooLarge) || fault.Size != 70_000 {
				t.Fatalf("error %#v; want too large, with the size 70000", err)
			}
			if f == nil || f.Header.Get("message-id") != "1" || f.Body != nil {
				t.Fatalf("frame %v; want the headers and no body", f)
			}
			if f, err = r.Read(); f != nil || err != nil {
				t.Fatalf("got %v, %v; want the heart-beat", f, err)
			}
			if f, err = r.Read(); err != nil || f.Header.Get("message-id") != "2" || string(f.Body) != "abc" {
				t.Errorf("next frame %v, %v", f, err)
			}
		})
	}
	for name, in := range map[string]string{
		"length":    "MESSAGE\ncontent-length:100001\n\n" + strings.Repeat("x", 100_001) + "\x00",
		"no length": "MESSAGE\n\n" + strings.Repeat("x", 200_000) + "\x00",
	} {
		t.Run("over Discard, "+name, func(t *testing.T) {
			f, err := stompframe.NewReader(strings.NewReader(in), limits).Read()
			if f != nil || !errors.Is(err, stompframe.ErrTooLarge) {
				t.Errorf("got %v, %v; want no frame, too large", f, err)
			}
		})
	}
}

// ActiveMQ does not escape the names of headers: one message with a bad one
// must not end every session that it is delivered to.
func TestLenientReaderOutlivesBadHeaders(t *testing.T) {
	in := "MESSAGE\nbad\\tname:x\nno colon\n:no name\na:\\\\ok\n\n\x00ACK\nid:2\n\n\x00"
	r := stompframe.NewReader(strings.NewReader(in), stompframe.Limits{Lenient: true})
	f, err := r.Read()
	if want := []entry{{`bad\tname`, "x"}, {"a", `\ok`}}; err != nil || !equal(entries(f), want) {
		t.Fatalf("got %v, %v; want %q", f, err, want)
	}
	if f, err = r.Read(); err != nil || f.Header.Get("id") != "2" {
		t.Errorf("next frame %v, %v", f, err)
	}
}

func TestReaderReadsBodiesOfAllSizes(t *testing.T) {
	for _, size := range []int{1, 4095, 65_535, 65_536, 65_537, 131_072, 131_073, 1_000_000, 4 << 20} {
		body := bytes.Repeat([]byte{'a', 0, 'b'}, size/3+1)[:size]
		wire, err := stompframe.Append(nil, stompframe.V12, &frame.Frame{Command: frame.SEND, Body: body})
		if err != nil {
			t.Fatal(err)
		}
		f, err := stompframe.NewReader(bytes.NewReader(wire), stompframe.Limits{}).Read()
		if err != nil || !bytes.Equal(f.Body, body) {
			t.Errorf("a body of %d bytes came back as %d, %v", size, len(f.Body), err)
		}
	}
}

// What a peer merely claims must not cost memory: go-stomp's reader allocates
// 1.9 GiB for the first of these.
func TestHostileLengthsAllocateLittle(t *testing.T) {
	limits := stompframe.Limits{BodyBytes: 1 << 30, Discard: 1 << 40}
	for name, in := range map[string]string{
		"claims the limit":    "SEND\ncontent-length:1073741824\n\nabc",
		"claims over it":      "SEND\ncontent-length:1073741825\n\nabc",
		"claims 2^63-1":       "SEND\ncontent-length:9223372036854775807\n\nabc",
		"many content-length": "SEND\n" + strings.Repeat("content-length:1073741824\n", 200) + "\nabc",
		"only NULs":           strings.Repeat("\x00", 100_000),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := stompframe.NewReader(strings.NewReader(in), limits).Read()
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Fatal("no error")
			}
			if got := after.TotalAlloc - before.TotalAlloc; got > 512<<10 {
				t.Errorf("allocated %d bytes", got)
			}
		})
	}
}

func TestErrorsQuoteNoSecrets(t *testing.T) {
	in := "CONNECT\npasscode:hunter2\nhunter2\n\n\x00"
	if _, err := stompframe.NewReader(strings.NewReader(in), stompframe.Limits{}).Read(); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error %v", err)
	}
}
