package webhook

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestWhatIsWrongIsSaidAtOnceAndShowsNoSecret(t *testing.T) {
	dir := t.TempDir()
	empty, long := filepath.Join(dir, "empty"), filepath.Join(dir, "long")
	for name, text := range map[string]string{empty: "\n", long: strings.Repeat("x", maxSecretFile+1)} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	signed := "WEBHOOK_SECRET=" + secret
	good := "WEBHOOK_URLS=a=https://hooks.example/hidden"
	for _, c := range []struct {
		environ []string
		want    string
	}{
		{[]string{signed}, "WEBHOOK_URLS: there is nowhere to send to"},
		{[]string{good}, "WEBHOOK_SECRET: there is no secret to sign with"},
		{[]string{good, "WEBHOOK_SECRET=hidden"}, "WEBHOOK_SECRET: secret 1 is not whsec_"},
		{[]string{good, "WEBHOOK_SECRET=" + secret + " whsec_aGlkZGVu"}, "WEBHOOK_SECRET: secret 2 is not whsec_"},
		{[]string{good, signed, "WEBHOOK_SECRET_FILE=" + empty}, "WEBHOOK_SECRET_FILE: WEBHOOK_SECRET is set as well"},
		{[]string{good, "WEBHOOK_SECRET_FILE=" + empty}, "WEBHOOK_SECRET_FILE: there is no secret"},
		{[]string{good, "WEBHOOK_SECRET_FILE=" + long}, "is over 4096 bytes"},
		{[]string{good, "WEBHOOK_SECRET_FILE=/no/such/file"}, "WEBHOOK_SECRET_FILE: open /no/such/file"},
		{[]string{good, signed, "WEBHOOK_UNSIGNED=true"}, "WEBHOOK_UNSIGNED: there is a secret as well"},
		{[]string{good, "WEBHOOK_UNSIGNED=yes"}, `WEBHOOK_UNSIGNED: "yes" is neither true nor false`},
		{[]string{good, signed, "WEBHOOK_TIMEOUTS=1s"}, "WEBHOOK_TIMEOUTS: there is no such variable"},
		{[]string{good, signed, "WEBHOOK_TIMEOUT=5"}, `WEBHOOK_TIMEOUT: "5" is not a duration of 1ms to 1h0m0s`},
		{[]string{good, signed, "WEBHOOK_CONNECT_TIMEOUT=0s"}, "WEBHOOK_CONNECT_TIMEOUT"},
		{[]string{good, signed, "WEBHOOK_MAX_RETRY_AFTER=25h"}, "WEBHOOK_MAX_RETRY_AFTER"},
		{[]string{good, signed, "WEBHOOK_MAX_RESPONSE=-1"}, "WEBHOOK_MAX_RESPONSE"},
		{[]string{good, signed, "WEBHOOK_CONCURRENCY=many"}, `WEBHOOK_CONCURRENCY: "many" is not a whole number of 1 to 1024`},
		{[]string{good, signed, "WEBHOOK_ALLOW_NETWORKS=10.0.0.0"}, `WEBHOOK_ALLOW_NETWORKS: "10.0.0.0" is not a network`},
		{[]string{good, signed, "WEBHOOK_ALLOW_NETWORKS=10.0.0.1/8"}, "write 10.0.0.0/8"},
		{[]string{good, signed, "WEBHOOK_ALLOW_NETWORKS=::ffff:10.0.0.0/104"}, "is IPv4 in IPv6"},
		{[]string{signed, "WEBHOOK_URLS=https://hooks.example/hidden"}, "WEBHOOK_URLS: entry 1 is not name=URL"},
		{[]string{signed, "WEBHOOK_URLS=a=https://x.example/hidden a=https://y.example"}, "WEBHOOK_URLS: a occurs twice"},
		{[]string{signed, "WEBHOOK_URLS=a=http://hooks.example/hidden"}, "WEBHOOK_URLS: a: http://hooks.example is not encrypted"},
		{[]string{signed, "WEBHOOK_URLS=a=ftp://hooks.example/hidden"}, "begins with neither https:// nor http://"},
		{[]string{signed, "WEBHOOK_URLS=a=/hidden"}, "this is not a URL"},
		{[]string{signed, "WEBHOOK_URLS=a=https:hidden"}, "this is not a URL"},
		{[]string{signed, "WEBHOOK_URLS=a=https://%zz/hidden"}, "this is not a URL"},
		{[]string{signed, "WEBHOOK_URLS=a=https://hidden@hooks.example/"}, "a login does not belong into a URL (on hooks.example)"},
		{[]string{signed, "WEBHOOK_URLS=a=https://hooks.example/#hidden"}, "has a fragment"},
		{[]string{good, signed, "WEBHOOK_HOSTS=other.example more.example"}, "WEBHOOK_URLS: a: the host hooks.example is not in WEBHOOK_HOSTS (other.example more.example)"},
		{[]string{good, signed, "WEBHOOK_CHOICES=b=https://10.0.0.1/hidden"}, "WEBHOOK_CHOICES: b: the address is not a public one: 10.0.0.1"},
		{[]string{signed, "WEBHOOK_URLS=a=https://[::ffff:127.0.0.1]/hidden"}, "the address is not a public one: ::ffff:127.0.0.1"},
		{[]string{signed, "WEBHOOK_URL=https://hooks.example/hidden"}, "WEBHOOK_URL: no type is sent there"},
		{[]string{signed, "WEBHOOK_TYPES=a b"}, "WEBHOOK_TYPES: these types have no URL"},
		{[]string{good, signed, "WEBHOOK_URL=https://hooks.example/hidden", "WEBHOOK_TYPES=a"}, "WEBHOOK_TYPES: a has a URL in WEBHOOK_URLS already"},
	} {
		_, err := read(c.environ)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %s", c.environ, err, c.want)
			continue
		}
		if strings.Contains(err.Error(), "hidden") || strings.Contains(err.Error(), "MDEyMzQ1") {
			t.Errorf("%q: the error shows what is secret: %v", c.environ, err)
		}
	}
	_, err := read([]string{"WEBHOOK_URLS=a=ftp://x", "WEBHOOK_TIMEOUT=x", "WEBHOOK_NONE=1", "WEBHOOK_SECRET=x"})
	if lines := strings.Split(err.Error(), "\n"); len(lines) != 4 {
		t.Errorf("not all is said at once: %v", err)
	}
}

func TestSettingsAreThoseOfTheEnvironment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret+"\n"+secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := read([]string{
		"PATH=/bin", "WEBHOOK_URLS=\n  order.placed=https://a.example/x?y=z\n  order.paid=https://b.example", "WEBHOOK_URL=https://B.example/rest",
		"WEBHOOK_TYPES=c d", "WEBHOOK_CHOICES=crm=https://a.example/crm", "WEBHOOK_HOSTS=a.example b.example", "WEBHOOK_SECRET_FILE=" + file,
		"WEBHOOK_TIMEOUT=3s", "WEBHOOK_CONNECT_TIMEOUT=1s", "WEBHOOK_MAX_RESPONSE=1000", "WEBHOOK_MAX_RETRY_AFTER=5m", "WEBHOOK_CONCURRENCY=4",
		"WEBHOOK_ALLOW_NETWORKS=10.0.0.0/8 fd00::/8",
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.urls["order.placed"].String() != "https://a.example/x?y=z" || s.urls["d"].Path != "/rest" || s.choices["crm"].Path != "/crm" || len(s.urls) != 4 ||
		len(s.secrets) != 2 || s.timeout != 3*time.Second || s.connect != time.Second || s.response != 1000 || s.retryAfter != 5*time.Minute ||
		s.concurrency != 4 || len(s.guard.allowed) != 2 {
		t.Errorf("%+v", s)
	}
	if types := newWebhook(s).Types(); !slices.Equal(types, []string{"c", "d", "order.paid", "order.placed"}) {
		t.Errorf("the types are %v", types)
	}
	s, err = read([]string{"WEBHOOK_URLS=a=https://a.example", "WEBHOOK_UNSIGNED=true"})
	if err != nil || s.timeout != 15*time.Second || s.connect != 5*time.Second || s.response != 64<<10 || s.retryAfter != time.Hour || s.concurrency != 16 || s.secrets != nil {
		t.Errorf("the defaults are %+v, %v", s, err)
	}
}

// The page names every variable, and no others.
func TestThePageHasEveryVariable(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		urlsVariable, urlVariable, typesVariable, choicesVariable, hostsVariable, secretVariable, secretFileVariable, unsignedVariable, httpVariable,
		networksVariable, connectVariable, timeoutVariable, responseVariable, retryAfterVariable, concurrencyVariable,
	} {
		if !strings.Contains(string(text), "| `"+name+"` |") {
			t.Errorf("docs/webhook.md has no row for %s", name)
		}
	}
	for _, code := range []string{CodeRedirect, CodeAddress, CodeChoice, CodeHeader} {
		if !strings.Contains(string(text), "`permanent:"+code+"`") {
			t.Errorf("docs/webhook.md has no word of %s", code)
		}
	}
}
