// Package activemq runs a real ActiveMQ for tests: a process of its own, on a free
// port of the loopback, with its files in a temporary folder. Only tests import it.
package activemq

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3/frame"

	"usher/engine/enginetest/process"
	"usher/engine/stompframe"
)

// HomeVariable names the environment variable with the folder of an unpacked
// ActiveMQ. Without it the tests run on .cache/activemq, which tools/prepare makes.
const HomeVariable = "ACTIVEMQ_TEST_HOME"

const (
	// startTimeout is how long the broker has until it answers CONNECT.
	startTimeout = 2 * time.Minute
	// stopTimeout is how long it has to end after SIGTERM.
	stopTimeout = time.Minute
	// shownOutput is how much of what it wrote is shown of a test that failed.
	shownOutput = 16 << 10
)

// logging makes the broker write to its standard output what an operator sees.
const logging = `rootLogger.level = INFO
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ABSOLUTE} %-5p %c{1} %m%n
`

// Server is one ActiveMQ. Its methods fail the test; one goroutine calls them.
type Server struct {
	home, dir string
	data      string // the folder with what it keeps
	address   string
	xml       func(w io.Writer, stomp, data string) error
	process   *process.Process
}

// Start starts a broker with nothing in it and returns when it takes STOMP. xml
// writes its configuration, for STOMP at the given host:port and files in the given
// folder. The broker is killed by t.Cleanup, and what it wrote is logged if the
// test has failed. The test fails if there is no ActiveMQ or no Java.
func Start(t testing.TB, xml func(w io.Writer, stomp, data string) error) *Server {
	t.Helper()
	dir := t.TempDir()
	s := prepare(t, &Server{dir: dir, data: filepath.Join(dir, "data"), xml: xml})
	s.Run(t)
	return s
}

// Standby starts another broker on the files of this one, as Amazon MQ does: it takes
// nothing until this one has ended. It ends as this one does. See [Server.Opens].
func (s *Server) Standby(t testing.TB) *Server {
	t.Helper()
	other := prepare(t, &Server{dir: t.TempDir(), data: s.data, xml: s.xml})
	other.launch(t)
	return other
}

// prepare gives a server its address and its configuration, and ends it in the end.
func prepare(t testing.TB, s *Server) *Server {
	t.Helper()
	s.home, s.address = home(t), process.FreeAddress(t)
	s.Configure(t, s.xml)
	if err := os.WriteFile(filepath.Join(s.dir, "log4j2.properties"), []byte(logging), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Kill(t)
		if t.Failed() {
			t.Logf("the end of what ActiveMQ wrote:\n%s", s.output())
		}
	})
	return s
}

// Configure writes another configuration, for when the broker is started next.
func (s *Server) Configure(t testing.TB, xml func(w io.Writer, stomp, data string) error) {
	t.Helper()
	var config bytes.Buffer
	if err := xml(&config, s.address, s.data); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "activemq.xml"), config.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Address is the host:port where it speaks STOMP; it stays the same.
func (s *Server) Address() string { return s.address }

// PID is the process that runs, or ran last.
func (s *Server) PID() int { return s.process.Pid }

// Version is the release, for example 5.18.3, or empty if that cannot be told.
func (s *Server) Version() string {
	jars, err := filepath.Glob(filepath.Join(s.home, "lib", "activemq-broker-*.jar"))
	if err != nil || len(jars) == 0 {
		return ""
	}
	return strings.TrimSuffix(strings.TrimPrefix(filepath.Base(jars[0]), "activemq-broker-"), ".jar")
}

// Run starts the process, on the files that are there, and waits until it takes
// STOMP.
func (s *Server) Run(t testing.TB) {
	t.Helper()
	s.launch(t)
	s.Opens(t)
}

// launch starts the process.
func (s *Server) launch(t testing.TB) {
	t.Helper()
	out, err := os.OpenFile(filepath.Join(s.dir, "output"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close() // the process has its own
	cmd := exec.Command("java", "-Xmx512m", "-XX:+UseSerialGC",
		"-Dactivemq.home="+s.home, "-Dactivemq.base="+s.dir, "-Dactivemq.conf="+s.dir, "-Dactivemq.data="+s.data,
		"-Dlog4j2.configurationFile="+filepath.Join(s.dir, "log4j2.properties"),
		"-jar", filepath.Join(s.home, "bin", "activemq.jar"),
		"start", "xbean:file:"+filepath.Join(s.dir, "activemq.xml"))
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, out, out
	if s.process, err = process.Start(cmd); err != nil {
		t.Fatalf("start ActiveMQ: %v", err)
	}
}

// Opens waits until CONNECT is answered.
func (s *Server) Opens(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.connect(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-s.process.Ended:
			t.Fatal("ActiveMQ ended while it started")
		case <-ctx.Done():
			t.Fatalf("ActiveMQ takes no STOMP after %v: %v", startTimeout, err)
		}
	}
}

// connect says hello and goes.
func (s *Server) connect(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", s.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	w := stompframe.NewWriter(conn)
	if err := w.Write(frame.New(frame.CONNECT, frame.AcceptVersion, "1.2", frame.Host, "localhost")); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	answer, err := stompframe.NewReader(conn, stompframe.Limits{}).Read()
	if err == nil && (answer == nil || answer.Command != frame.CONNECTED) {
		err = fmt.Errorf("CONNECT was answered with %v", answer)
	}
	return err
}

// Stop ends the broker as an operator does, with SIGTERM.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	if err := s.process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("SIGTERM to ActiveMQ: %v", err)
	}
	select {
	case <-s.process.Ended:
	case <-time.After(stopTimeout):
		t.Fatalf("ActiveMQ runs %v after SIGTERM", stopTimeout)
	}
}

// Kill ends the broker as a crash does, if it runs.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	if err := s.process.Kill(); err != nil {
		t.Errorf("kill ActiveMQ: %v", err)
	}
}

// Restart kills the broker and starts it again on the same files.
func (s *Server) Restart(t *testing.T) {
	t.Helper()
	s.Kill(t)
	s.Run(t)
}

// output is the end of what the broker wrote.
func (s *Server) output() []byte {
	text, err := os.ReadFile(filepath.Join(s.dir, "output"))
	if err != nil {
		return []byte(err.Error())
	}
	return text[max(0, len(text)-shownOutput):]
}

// home is the folder of the ActiveMQ to test on.
func home(t testing.TB) string {
	t.Helper()
	folder := os.Getenv(HomeVariable)
	if folder == "" {
		folder = filepath.Join(process.ModuleRoot(t), ".cache", "activemq")
	}
	if _, err := os.Stat(filepath.Join(folder, "bin", "activemq.jar")); err != nil {
		t.Fatalf("there is no ActiveMQ: run tools/prepare, as make test does, or name one in %s: %v", HomeVariable, err)
	}
	return folder
}
