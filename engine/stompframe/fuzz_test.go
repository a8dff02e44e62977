package stompframe_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine/stompframe"
)

// FuzzReader feeds the reader with anything. Whatever comes, it ends, keeps its
// limits, gives an error of a kind that is documented, and what it took for a
// frame can be written and read back as the same.
func FuzzReader(f *testing.F) {
	for _, seed := range []string{
		"SEND\na:b\ncontent-length:3\n\nx\x00y\x00\nACK\nid:1\n\n\x00",
		"MESSAGE\r\nmessage-id:1\r\n\r\nbody\x00\r\n",
		"CONNECT\npasscode:a\\b:c\naccept-version:1.0,1.1,1.2\n\n\x00",
		"SEND\na\\cb:\\n\\r\\\\\n\n\x00",
		"SEND\ncontent-length:9223372036854775807\n\n",
		"SEND\ncontent-length:-1\ncontent-length:1\n\nx\x00",
		"SEND\ncontent-length:40\n\n" + strings.Repeat("x", 40) + "\x00DISCONNECT\n\n\x00",
		"\n\n\r\n\x00\x00",
	} {
		f.Add(seed, uint8(0))
		f.Add(seed, uint8(1))
	}
	limits := stompframe.Limits{HeaderBytes: 256, Headers: 8, BodyBytes: 32, Discard: 64}
	versions := []stompframe.Version{stompframe.V12, stompframe.V11, stompframe.V10}
	f.Fuzz(func(t *testing.T, in string, version uint8) {
		v := versions[int(version)%len(versions)]
		r := stompframe.NewReader(strings.NewReader(in), limits)
		r.SetVersion(v)
		for range len(in) + 1 {
			got, err := r.Read()
			checkError(t, got, err)
			if got != nil {
				checkFrame(t, got, v, limits)
			}
			if err != nil && got == nil {
				return
			}
		}
		t.Fatalf("%d bytes gave more results than bytes", len(in))
	})
}

func checkError(t *testing.T, f *frame.Frame, err error) {
	t.Helper()
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return
	}
	var fault *stompframe.Error
	if !errors.As(err, &fault) {
		t.Fatalf("error %v of an unknown kind", err)
	}
	if (f != nil) != (fault.Size > 0) || fault.Size > 64 {
		t.Fatalf("frame %v came with %#v", f, fault)
	}
}

func checkFrame(t *testing.T, f *frame.Frame, v stompframe.Version, limits stompframe.Limits) {
	t.Helper()
	if f.Header.Len() > limits.Headers || len(f.Body) > limits.BodyBytes {
		t.Fatalf("frame over the limits: %d headers, a body of %d", f.Header.Len(), len(f.Body))
	}
	clean := frame.New(f.Command)
	for i := range f.Header.Len() {
		name, value := f.Header.GetAt(i)
		if name != frame.ContentLength && !strings.Contains(name+value, "\r") {
			clean.Header.Add(name, value)
		}
	}
	clean.Body = f.Body
	wire, err := stompframe.Append(nil, v, clean)
	if err != nil {
		t.Fatalf("cannot write what was read, %q: %v", entries(clean), err)
	}
	r := stompframe.NewReader(bytes.NewReader(wire), stompframe.Limits{})
	r.SetVersion(v)
	back, err := r.Read()
	if err != nil || !bytes.Equal(back.Body, f.Body) || !equal(entries(back)[:clean.Header.Len()], entries(clean)) {
		t.Fatalf("%q came back as %v, %v", entries(clean), back, err)
	}
}

const sample = "MESSAGE\ndestination:/queue/usher.work.p4\nmessage-id:ID\\cbroker-1-41213-1700000000000-4\\c1\\c-1\\c1\\c1\n" +
	"subscription:lane-4\nack:ID\\cbroker-1-41213-3\npriority:4\npersistent:true\ntimestamp:1700000000000\n" +
	"type:order.placed\nusher_id:6ba7b810-9dad-11d1-80b4-00c04fd430c8\ncontent-type:application/json\ncontent-length:512\n\n"

func BenchmarkReader512(b *testing.B) {
	one := []byte(sample + strings.Repeat("x", 512) + "\x00\n")
	b.SetBytes(int64(len(one)))
	b.ReportAllocs()
	r := stompframe.NewReader(&repeat{one: one}, stompframe.Limits{})
	for b.Loop() {
		f, err := r.Read()
		if err != nil {
			b.Fatal(err)
		}
		if f == nil { // the line end that follows each frame
			if f, err = r.Read(); err != nil || f == nil {
				b.Fatal(err)
			}
		}
	}
}

// repeat is an endless stream of one frame.
type repeat struct {
	one []byte
	at  int
}

func (r *repeat) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		c := copy(p[n:], r.one[r.at:])
		n += c
		r.at = (r.at + c) % len(r.one)
	}
	return n, nil
}

func BenchmarkAppend512(b *testing.B) {
	f := frame.New("SEND", "destination", "/queue/usher.work.p4", "persistent", "true", "receipt", "r-123456",
		"priority", "4", "type", "order.placed", "usher_id", "6ba7b810-9dad-11d1-80b4-00c04fd430c8")
	f.Body = bytes.Repeat([]byte{'x'}, 512)
	b.ReportAllocs()
	var dst []byte
	for b.Loop() {
		var err error
		if dst, err = stompframe.Append(dst[:0], stompframe.V12, f); err != nil {
			b.Fatal(err)
		}
	}
}
