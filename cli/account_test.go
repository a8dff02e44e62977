package cli

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"usher/engine"
	"usher/engine/apigateway"
	"usher/engine/enginetest/moto"
	"usher/engine/watchtoken"
	"usher/server"
)

// pushes stands for API Gateway's connections: it keeps what they are told.
type pushes struct {
	*httptest.Server

	mu   sync.Mutex
	told []engine.Status // guarded by mu
}

func newPushes(t *testing.T) *pushes {
	t.Helper()
	p := &pushes{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var s engine.Status
		if err != nil || json.Unmarshal(body, &s) != nil || r.URL.Path != "/prod/@connections/c1=" {
			t.Errorf("%s %s: %s (%v)", r.Method, r.URL.EscapedPath(), body, err)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.told = append(p.told, s)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *pushes) last() (last engine.Status) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.told); n > 0 {
		last = p.told[n-1]
	}
	return last
}

func putParameter(t *testing.T, m *moto.Server, value string) {
	t.Helper()
	_, err := ssm.NewFromConfig(m.Config()).PutParameter(t.Context(), &ssm.PutParameterInput{
		Name: aws.String("/usher/prod"), Value: aws.String(value), Type: ssmtypes.ParameterTypeString, Overwrite: aws.Bool(true),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// An engine with its configuration in a parameter of an account is watched over API
// Gateway, by those who may; and follows the parameter.
func TestAnEngineOfAnAccount(t *testing.T) {
	m := moto.Start(t)
	gateway := newPushes(t)
	u := newUsher(t)
	text, err := os.ReadFile(u.dir + "/usher.yaml")
	if err != nil {
		t.Fatal(err)
	}
	put := func(slots int) {
		t.Helper()
		putParameter(t, m, strings.Replace(string(text), "slots: 16", fmt.Sprintf("slots: %d", slots), 1)+fmt.Sprintf(
			"server: {listen: %q}\nembedded: {stomp: %q}\nnotify: {stage: prod, origins: [https://shop.example], apigateway: {endpoint: %s/prod}}\n", u.http, u.stomp, gateway.URL))
	}
	put(16)
	watchKey := "shop:" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))
	const shown = "what the API shows"
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": m.Endpoint(), "AWS_REGION": m.Config().Region, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
		"USHER_WATCH_KEYS": watchKey, "USHER_GATEWAY_SECRET": shown,
	} {
		t.Setenv(name, value)
	}
	u.args = []string{"run", "--config", "ssm:/usher/prod"}
	u.start()

	keys, err := watchtoken.ParseKeys(watchKey)
	if err != nil {
		t.Fatal(err)
	}
	token, err := keys.Make("shop", "prod", "order-7", time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	call := func(route, secret, body string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+u.http+"/apigateway/"+route, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{
			apigateway.SecretHeader: secret, apigateway.ConnectionHeader: "c1=", apigateway.OriginHeader: "https://shop.example",
			apigateway.IDHeader: "order-7", apigateway.TokenHeader: token,
		} {
			req.Header.Set(name, value)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if code := call("connect", "what anybody shows", ""); code != http.StatusUnauthorized {
		t.Errorf("a forged $connect is answered %d", code)
	}
	if n := u.metric(`usher_watch_refused_total{cause="bad_secret"}`); n != "1" {
		t.Errorf("%q forged requests are counted", n)
	}
	if code := call("connect", shown, ""); code != http.StatusOK {
		t.Fatalf("$connect is answered %d", code)
	}
	if code := call("frame", shown, `{"action":"subscribe","id":"order-7","token":"`+token+`"}`); code != http.StatusOK {
		t.Fatalf("subscribe is answered %d", code)
	}
	u.eventually(patience, "the snapshot pushed", func() bool { return gateway.last().State == engine.Queued })
	u.wantCLI(0, "order-7", "send", "order.rush", "--id", "order-7")
	u.eventually(patience, "done pushed", func() bool { return gateway.last().State == engine.Done })

	put(17)
	if err := u.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	u.eventually(patience, "reading its configuration again", func() bool {
		var report server.ConfigReport
		u.get("/api/v1/config", &report)
		return strings.Contains(string(report.Config), `"slots":17`)
	})
	u.stop()
}
