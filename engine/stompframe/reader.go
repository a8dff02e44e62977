package stompframe

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/go-stomp/stomp/v3/frame"
)

const (
	readBuffer = 32 << 10
	// firstChunk is the most that is allocated on the word of a content-length
	// header alone; after it, what was really sent decides.
	firstChunk = 64 << 10
	// keepScratch is the largest header block whose memory is kept for the next one.
	keepScratch = 64 << 10
	// maxCommand is the length of the longest command, with its line end.
	maxCommand = len(frame.UNSUBSCRIBE) + len("\r\n")
)

// Reader reads frames. It is not safe for concurrent use.
type Reader struct {
	in      *bufio.Reader
	limits  Limits
	version Version
	block   []byte   // the header lines of the frame being read; reused
	entries []string // its names and values; reused
}

// NewReader returns a Reader of r. It reads ahead, and holds a buffer of 32 KiB.
func NewReader(r io.Reader, l Limits) *Reader {
	return &Reader{in: bufio.NewReaderSize(r, readBuffer), limits: l.withDefaults(), version: V12}
}

// SetVersion chooses how the headers of the frames that follow are unescaped;
// before, it is as in 1.2. CONNECT, STOMP and CONNECTED are never unescaped.
func (r *Reader) SetVersion(v Version) { r.version = v }

// Read returns the next frame, which is the caller's to keep. (nil, nil) is a
// heart-beat: one end of line between frames. It blocks as the underlying
// reader does.
//
// An [Error] tells of a protocol fault. With ErrTooLarge it can come together
// with a frame: then only the body was over Limits.BodyBytes, it was read past
// (Error.Size bytes; Limits.Discard allowed it), Frame.Body is nil, and the
// Reader goes on with the next frame. After any other error the Reader is of no
// more use. The end of input between frames is io.EOF, inside of one
// io.ErrUnexpectedEOF. Of several headers of one name the first counts, as
// [frame.Header] has it (STOMP 1.2, Repeated Header Entries).
func (r *Reader) Read() (*frame.Frame, error) {
	beat, err := r.readHeartBeat()
	if beat || err != nil {
		return nil, err
	}
	command, err := r.readCommand()
	if err != nil {
		return nil, noEOF(err)
	}
	if err := r.readBlock(); err != nil {
		return nil, noEOF(err)
	}
	header, err := r.parseBlock(command)
	if err != nil {
		return nil, err
	}
	f := &frame.Frame{Command: command, Header: header}
	f.Body, err = r.readBody(header)
	var fault *Error
	if errors.As(err, &fault) && fault.Size > 0 {
		return f, err
	}
	if err != nil {
		return nil, noEOF(err)
	}
	return f, nil
}

// readHeartBeat takes one end of line, if that is what comes next.
func (r *Reader) readHeartBeat() (bool, error) {
	c, err := r.in.ReadByte()
	if err != nil {
		return false, err
	}
	if c == '\r' {
		if c, err = r.in.ReadByte(); err != nil {
			return false, noEOF(err)
		}
		if c != '\n' {
			return false, malformed("a carriage return without a line feed between frames")
		}
	}
	if c == '\n' {
		return true, nil
	}
	if c < 'A' || c > 'Z' {
		return false, malformed("a frame begins with the byte 0x%02x, not with a command", c)
	}
	return false, r.in.UnreadByte()
}

func (r *Reader) readCommand() (string, error) {
	line, err := r.in.ReadSlice('\n')
	if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
		return "", err
	}
	if len(line) > maxCommand {
		return "", malformed("the first line of a frame is no STOMP command")
	}
	command := commandOf(trimEOL(line))
	if command == "" {
		return "", malformed("%q is no STOMP command", trimEOL(line))
	}
	return command, nil
}

// readBlock collects the header lines, with their line ends, in r.block.
func (r *Reader) readBlock() error {
	if cap(r.block) > keepScratch {
		r.block = nil
	}
	r.block = r.block[:0]
	for lines, start := 0, 0; ; {
		part, err := r.in.ReadSlice('\n')
		full := errors.Is(err, bufio.ErrBufferFull)
		if err != nil && !full {
			return err
		}
		if len(r.block)+len(part) > r.limits.HeaderBytes {
			return tooLarge("the headers are over %d bytes", r.limits.HeaderBytes)
		}
		if bytes.IndexByte(part, 0) >= 0 {
			return malformed("a NUL byte in the headers")
		}
		r.block = append(r.block, part...)
		if full {
			continue
		}
		if line := r.block[start:]; len(trimEOL(line)) == 0 {
			r.block = r.block[:start]
			return nil
		}
		if lines++; lines > r.limits.Headers {
			return tooLarge("more than %d headers", r.limits.Headers)
		}
		start = len(r.block)
	}
}

// parseBlock makes headers of the lines in r.block: one string, which all names
// and values are parts of, and one list.
func (r *Reader) parseBlock(command string) (*frame.Header, error) {
	block := string(r.block)
	escapes := r.version != V10 && !handshake(command) && strings.IndexByte(block, '\\') >= 0
	entries := r.entries[:0]
	for len(block) > 0 {
		end := strings.IndexByte(block, '\n') // each line has one
		line := strings.TrimSuffix(block[:end], "\r")
		block = block[end+1:]
		colon := strings.IndexByte(line, ':')
		if colon <= 0 && r.limits.Lenient {
			continue
		}
		if colon <= 0 {
			return nil, malformed("header line %d of the %s frame has no name, or no colon", len(entries)/2+1, command)
		}
		name, value := line[:colon], line[colon+1:]
		if escapes {
			var ok bool
			if name, value, ok = r.unescapeBoth(name, value); !ok {
				return nil, malformed("an undefined escape in header line %d of the %s frame", len(entries)/2+1, command)
			}
		}
		entries = append(entries, name, value)
	}
	header := frame.NewHeader(entries...)
	clear(entries) // or the scratch would keep the block alive
	r.entries = entries[:0]
	return header, nil
}

func (r *Reader) unescapeBoth(name, value string) (string, string, bool) {
	plainName, nameOK := r.unescape(name)
	plainValue, valueOK := r.unescape(value)
	if nameOK && valueOK {
		return plainName, plainValue, true
	}
	return name, value, r.limits.Lenient
}

// unescape reverses the escapes of the version. Undefined ones are a fatal
// error (STOMP 1.2, Value Encoding).
func (r *Reader) unescape(s string) (string, bool) {
	i := strings.IndexByte(s, '\\')
	if i < 0 {
		return s, true
	}
	b := append(make([]byte, 0, len(s)), s[:i]...)
	for ; i < len(s); i++ {
		if s[i] != '\\' {
			b = append(b, s[i])
			continue
		}
		if i++; i == len(s) {
			return "", false
		}
		switch c := s[i]; {
		case c == '\\':
			b = append(b, '\\')
		case c == 'n':
			b = append(b, '\n')
		case c == 'c':
			b = append(b, ':')
		case c == 'r' && r.version == V12:
			b = append(b, '\r')
		default:
			return "", false
		}
	}
	return string(b), true
}

func (r *Reader) readBody(header *frame.Header) ([]byte, error) {
	text, ok := header.Contains(frame.ContentLength)
	if !ok {
		return r.readToNUL()
	}
	// ParseUint takes no sign; 63 bits keep it an int64.
	length, err := strconv.ParseUint(text, 10, 63)
	if errors.Is(err, strconv.ErrRange) {
		return nil, tooLarge("a content-length that is over any limit")
	}
	if err != nil {
		return nil, malformed("the content-length is not a whole number")
	}
	if length > uint64(r.limits.BodyBytes) {
		return nil, r.skip(int64(length))
	}
	body, err := r.readExactly(int(length))
	if err != nil {
		return nil, err
	}
	return body, r.readNUL()
}

// readNUL takes the byte that ends a frame.
func (r *Reader) readNUL() error {
	end, err := r.in.ReadByte()
	if err == nil && end != 0 {
		return malformed("no NUL byte where the content-length says that the body ends")
	}
	return err
}

// readExactly reads n bytes and never holds more than about twice of what has
// come, but for the first chunk.
func (r *Reader) readExactly(n int) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	body := make([]byte, 0, min(n, firstChunk))
	for {
		have := len(body)
		body = body[:cap(body)]
		if _, err := io.ReadFull(r.in, body[have:]); err != nil {
			return nil, err
		}
		if len(body) == n {
			return body, nil
		}
		body = append(make([]byte, 0, min(n, 2*len(body))), body...)
	}
}

// skip reads past a body of n bytes that is over the limit, if that is allowed.
func (r *Reader) skip(n int64) error {
	if n > int64(r.limits.Discard) {
		return tooLarge("a body of %d bytes; at most %d are taken", n, r.limits.BodyBytes)
	}
	if _, err := io.CopyN(io.Discard, r.in, n); err != nil {
		return err
	}
	if err := r.readNUL(); err != nil {
		return err
	}
	return skipped(n, r.limits.BodyBytes)
}

func skipped(n int64, limit int) error {
	return &Error{Code: CodeTooLarge, Size: n, Msg: "a body of " + strconv.FormatInt(n, 10) +
		" bytes was not kept; at most " + strconv.Itoa(limit) + " are taken"}
}

// readToNUL reads a body without a content-length. One that grows over the
// limit is let go at once and the rest is read past, if that is allowed.
func (r *Reader) readToNUL() ([]byte, error) {
	var body []byte
	var length int64 // with its NUL, when that has come
	for {
		part, err := r.in.ReadSlice(0)
		more := errors.Is(err, bufio.ErrBufferFull)
		if err != nil && !more {
			return nil, err
		}
		length += int64(len(part))
		content := length
		if !more {
			content--
			part = part[:len(part)-1]
		}
		switch limit := int64(r.limits.BodyBytes); {
		case content <= limit:
			body = append(body, part...)
		case content > int64(r.limits.Discard):
			return nil, tooLarge("a body without a content-length is over %d bytes", r.limits.BodyBytes)
		default:
			body = nil
		}
		if more {
			continue
		}
		if content > int64(r.limits.BodyBytes) {
			return nil, skipped(content, r.limits.BodyBytes)
		}
		return body, nil
	}
}

func trimEOL(line []byte) []byte {
	line = bytes.TrimSuffix(line, []byte{'\n'})
	return bytes.TrimSuffix(line, []byte{'\r'})
}

// noEOF turns the end of input into the one inside of a frame.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
