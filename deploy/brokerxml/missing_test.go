package brokerxml_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"usher/deploy/brokerxml"
)

// What Amazon MQ drops without a word is named.
func TestMissingNamesWhatWasDropped(t *testing.T) {
	var b bytes.Buffer
	if err := brokerxml.Write(&b, brokerxml.Options{AmazonMQ: true}); err != nil {
		t.Fatal(err)
	}
	ours := b.String()
	for name, c := range map[string]struct {
		have string
		want []string
	}{
		"nothing":              {ours, nil},
		"more than ours":       {strings.Replace(ours, "<plugins>", `<plugins><redeliveryPlugin/>`, 1), nil},
		"an element":           {strings.Replace(ours, "<statisticsBrokerPlugin/>", "", 1), []string{"<statisticsBrokerPlugin>"}},
		"an attribute":         {strings.Replace(ours, ` schedulerSupport="true"`, "", 1), []string{`<broker schedulerSupport="true">`}},
		"another value":        {strings.Replace(ours, `JMSPriority = 3`, "JMSPriority = 2", 1), []string{`<filteredDestination queue="usher.work.p3" selector="JMSPriority = 3">`}},
		"one of two alike":     {strings.Replace(ours, `queue="usher.dead"`, `queue="usher.else"`, 1), nil},
		"an element elsewhere": {strings.Replace(strings.Replace(ours, "<statisticsBrokerPlugin/>", "", 1), "</broker>", "<statisticsBrokerPlugin/></broker>", 1), []string{"<statisticsBrokerPlugin>"}},
	} {
		got, err := brokerxml.Missing([]byte(ours), []byte(c.have))
		if name == "one of two alike" {
			if err != nil || len(got) != 1 || !strings.Contains(got[0], `queue="usher.dead"`) {
				t.Errorf("%s: %q (%v)", name, got, err)
			}
			continue
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q (%v), want %q", name, got, err, c.want)
		}
	}
	if _, err := brokerxml.Missing([]byte(ours), []byte("<broker>")); err == nil {
		t.Error("half an XML is read")
	}
}
