package stompframe

import (
	"bufio"
	"io"
	"strconv"

	"github.com/go-stomp/stomp/v3/frame"
)

const writeBuffer = 64 << 10

// Writer writes frames into a buffer of 64 KiB, which goes out when it is full
// and at Flush. It is not safe for concurrent use. An error of the underlying
// writer is returned by the call that met it and by every later one.
type Writer struct {
	out     *bufio.Writer
	version Version
	scratch []byte // the head of the frame being written; reused
}

// NewWriter returns a Writer on w.
func NewWriter(w io.Writer) *Writer {
	return &Writer{out: bufio.NewWriterSize(w, writeBuffer), version: V12}
}

// SetVersion chooses how the headers of the frames that follow are escaped;
// before, it is as in 1.2. CONNECT, STOMP and CONNECTED are never escaped.
func (w *Writer) SetVersion(v Version) { w.version = v }

// Write encodes f into the buffer and keeps nothing of it. A body gets a
// content-length, unless f has that header. What the version cannot carry is
// refused with ErrMalformed, and then nothing of f is written: an unknown
// command, a header without a name, a NUL byte in a header, line ends where
// there is no escape for them, a content-length that is not the body's.
func (w *Writer) Write(f *frame.Frame) error {
	head, err := appendHead(w.scratch[:0], w.version, f)
	if err != nil {
		return err
	}
	w.scratch = head
	if cap(w.scratch) > keepScratch {
		w.scratch = nil
	}
	if _, err := w.out.Write(head); err != nil {
		return err
	}
	if _, err := w.out.Write(f.Body); err != nil {
		return err
	}
	return w.out.WriteByte(0)
}

// HeartBeat writes one end of line into the buffer.
func (w *Writer) HeartBeat() error { return w.out.WriteByte('\n') }

// Flush sends what is in the buffer.
func (w *Writer) Flush() error { return w.out.Flush() }

// Buffered is how many bytes wait for a Flush.
func (w *Writer) Buffered() int { return w.out.Buffered() }

// Append encodes f at the end of dst, by the same rules as [Writer.Write], and
// returns the extended slice; dst as it was, if f is refused.
func Append(dst []byte, v Version, f *frame.Frame) ([]byte, error) {
	out, err := appendHead(dst, v, f)
	if err != nil {
		return dst, err
	}
	out = append(out, f.Body...)
	return append(out, 0), nil
}

// appendHead encodes all of f that comes before its body.
func appendHead(dst []byte, v Version, f *frame.Frame) ([]byte, error) {
	command := commandOf(f.Command)
	if command == "" {
		return nil, malformed("%q is no STOMP command", f.Command)
	}
	dst = append(append(dst, command...), '\n')
	e := escaper{version: v, plain: v == V10 || handshake(command)}
	counted := false
	for i := range headers(f) {
		name, value := f.Header.GetAt(i)
		if name == frame.ContentLength && !counted {
			counted = true
			if value != strconv.Itoa(len(f.Body)) {
				return nil, malformed("the content-length of the %s frame is %q, its body has %d bytes", command, value, len(f.Body))
			}
		}
		var ok bool
		if dst, ok = e.header(dst, name, value); !ok {
			return nil, malformed("STOMP %s cannot carry the header %q of a %s frame: it has no name, or bytes without an escape", v, name, command)
		}
	}
	if !counted && len(f.Body) > 0 {
		dst = append(append(dst, frame.ContentLength...), ':')
		dst = append(strconv.AppendInt(dst, int64(len(f.Body)), 10), '\n')
	}
	return append(dst, '\n'), nil
}

func headers(f *frame.Frame) int {
	if f.Header == nil {
		return 0
	}
	return f.Header.Len()
}

// escaper writes header lines as one version and command want them.
type escaper struct {
	version Version
	plain   bool // no escapes at all
}

func (e escaper) header(dst []byte, name, value string) ([]byte, bool) {
	if name == "" {
		return nil, false
	}
	dst, ok := e.text(dst, name, true)
	if !ok {
		return nil, false
	}
	dst, ok = e.text(append(dst, ':'), value, false)
	return append(dst, '\n'), ok
}

func (e escaper) text(dst []byte, s string, name bool) ([]byte, bool) {
	start := 0 // of what was not copied yet
	for i := range len(s) {
		c := s[i]
		if c > ':' && c != '\\' {
			continue // the common case
		}
		var code byte
		switch c {
		case 0:
			return nil, false
		case '\n':
			code = 'n'
		case '\r':
			code = 'r'
		case ':':
			code = 'c'
		case '\\':
			code = '\\'
		default:
			continue
		}
		if e.plain {
			if c == '\\' || c == ':' && !name {
				continue
			}
			return nil, false
		}
		if c == '\r' && e.version == V11 {
			return nil, false
		}
		dst = append(append(dst, s[start:i]...), '\\', code)
		start = i + 1
	}
	return append(dst, s[start:]...), true
}
