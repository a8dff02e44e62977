package dynalite_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"usher/engine/enginetest/dynalite"
)

// An engine that was killed in the middle of a request ended the tables of another.
func TestAClientThatDiesInTheMiddleOfARequestEndsNoServer(t *testing.T) {
	s := dynalite.Start(t)
	for range 5 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.Endpoint(), "http://"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: DynamoDB_20120810.GetItem\r\nContent-Length: 1000\r\n\r\n{"); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.TCPConn).SetLinger(0); err != nil { // a reset, as of a process that is killed
			t.Fatal(err)
		}
		conn.Close()
		// What answers now has been told of the one that is gone.
		resp, err := http.Get(s.Endpoint())
		if err != nil {
			t.Fatalf("it answers no more: %v", err)
		}
		resp.Body.Close()
	}
}
