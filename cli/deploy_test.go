package cli

import (
	"strings"
	"testing"
)

func TestDeployWritesTheBrokersXML(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want []string
	}{
		"Amazon MQ": {[]string{"--amazon-mq"}, []string{`<broker xmlns="http://activemq.apache.org/schema/core" schedulerSupport="true">`, `queue="usher.work.p9"`}},
		"own":       {nil, []string{`"stomp://127.0.0.1:61613"`, `"${activemq.data}/kahadb"`}},
		"a port":    {[]string{"--stomp", "7000"}, []string{`"stomp://127.0.0.1:7000"`}},
		"all": {
			[]string{"--stomp", "0.0.0.0:1", "--openwire", "[::]:2", "--data", "/srv", "--queue", "acme"},
			[]string{`"stomp://0.0.0.0:1"`, `"tcp://[::]:2"`, `"/srv/kahadb"`, `<compositeQueue name="acme"`, `queue="acme.p0"`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := here(t, append([]string{"deploy", "broker-xml"}, c.args...)...)
			if code != 0 || errs != "" {
				t.Fatalf("exit %d: %s", code, errs)
			}
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("there is no %s in\n%s", want, out)
				}
			}
		})
	}
}

func TestDeployRefusesWhatCannotBe(t *testing.T) {
	for _, args := range [][]string{
		{"--stomp", "nowhere"}, {"--stomp", "0"}, {"--queue", "a>"}, {"--amazon-mq", "--stomp", "7000"}, {"--amazon-mq", "--data", "/srv"}, {"extra"},
	} {
		code, out, errs := here(t, append([]string{"deploy", "broker-xml"}, args...)...)
		if code != exitUsage || out != "" || errs == "" {
			t.Errorf("%v: exit %d (%s), want 2 and a word, and no XML", args, code, errs)
		}
	}
}
