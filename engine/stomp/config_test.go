package stomp_test

import (
	"crypto/tls"
	"fmt"
	"strings"
	"testing"

	"usher/engine/stomp"
)

func TestConfigReportsEveryFault(t *testing.T) {
	c := stomp.Config{
		URLs:   []string{"stomp://ok", "http://x", "stomp://user:hunter2@x", "stomp://", "tcp://x:1?option=1", "ssl://x:hunter2"},
		Window: -1, MaxBodyBytes: -2, Publishers: -3, ReceiptTimeout: -4,
		Login: "user", Passcode: "hunter2\n", TLS: &tls.Config{InsecureSkipVerify: true},
	}
	err := c.Validate()
	if err == nil {
		t.Fatal("no fault found")
	}
	for _, want := range []string{
		`URLs[1]: the scheme "http"`, "URLs[2]: it has a user", "URLs[3]: it has no host", "URLs[4]: it has more than", "URLs[5]: it is no URL",
		"Window is -1", "MaxBodyBytes is -2", "Publishers is -3", "ReceiptTimeout is -4", "InsecureSkipVerify", "Passcode has a line end",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "URLs[0]") {
		t.Errorf("the error tells too much:\n%v", err)
	}
	if _, err := stomp.New(c); err == nil {
		t.Error("New took it")
	}
	if _, err := stomp.Dial(t.Context(), c); err == nil {
		t.Error("Dial took it")
	}
	if err := (stomp.Config{}).Validate(); err == nil || !strings.Contains(err.Error(), "URLs is empty") {
		t.Errorf("without URLs: %v", err)
	}
}

func TestConfigTakesEveryWayToWriteAnEndpoint(t *testing.T) {
	c := stomp.Config{URLs: []string{"stomp://h", "tcp://h:61613", "stomp+ssl://h:61614", "ssl://h/", "stomp://[::1]:7", "STOMP://h"}}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
}

func TestConfigPrintsNoSecret(t *testing.T) {
	c := stomp.Config{URLs: []string{"stomp://h"}, Login: "user", Passcode: "hunter2"}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(verb, c); strings.Contains(text, "hunter2") || !strings.Contains(text, "stomp://h") {
			t.Errorf("%s prints %s", verb, text)
		}
	}
}
