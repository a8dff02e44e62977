package check_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/apigatewayv2"
	apitypes "github.com/aws/aws-sdk-go-v2/service/apigatewayv2/types"
	"github.com/aws/aws-sdk-go-v2/service/mq"
	mqtypes "github.com/aws/aws-sdk-go-v2/service/mq/types"
	"go.uber.org/goleak"

	"usher/deploy/brokerxml"
	"usher/deploy/check"
	"usher/engine/dynamo"
	"usher/engine/enginetest/moto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// account is one with a stack of usher's, as far as moto plays it.
type account struct {
	t    *testing.T
	cfg  aws.Config
	site check.Site
}

func newAccount(t *testing.T) *account {
	t.Helper()
	a := &account{t: t, cfg: moto.Start(t).Config(), site: check.Site{Table: "usher-test", Stage: "test"}}
	tables := dynamo.Config{AWS: a.cfg, Names: dynamo.DefaultNames(a.site.Table)}
	if err := dynamo.CreateTables(t.Context(), dynamo.NewClient(tables), tables.Names); err != nil {
		t.Fatal(err)
	}
	a.site.Broker = a.broker(false, func(text string) string { return text })
	a.site.API = a.api("$connect", "$disconnect", "subscribe", "$default")
	return a
}

// broker makes one on our XML, as changed.
func (a *account) broker(public bool, change func(string) string) string {
	a.t.Helper()
	ctx, client := a.t.Context(), mq.NewFromConfig(a.cfg)
	var ours bytes.Buffer
	if err := brokerxml.Write(&ours, brokerxml.Options{AmazonMQ: true}); err != nil {
		a.t.Fatal(err)
	}
	conf, err := client.CreateConfiguration(ctx, &mq.CreateConfigurationInput{EngineType: mqtypes.EngineTypeActivemq, EngineVersion: aws.String("5.19"), Name: aws.String("usher")})
	if err != nil {
		a.t.Fatal(err)
	}
	revision, err := client.UpdateConfiguration(ctx, &mq.UpdateConfigurationInput{ConfigurationId: conf.Id, Data: aws.String(base64.StdEncoding.EncodeToString([]byte(change(ours.String()))))})
	if err != nil {
		a.t.Fatal(err)
	}
	b, err := client.CreateBroker(ctx, &mq.CreateBrokerInput{
		BrokerName: aws.String("usher-test"), EngineType: mqtypes.EngineTypeActivemq, EngineVersion: aws.String("5.19"), HostInstanceType: aws.String("mq.t3.micro"),
		DeploymentMode: mqtypes.DeploymentModeSingleInstance, PubliclyAccessible: aws.Bool(public), AutoMinorVersionUpgrade: aws.Bool(true),
		Users:         []mqtypes.User{{Username: aws.String("usher"), Password: aws.String("a password of 12 and more")}},
		Configuration: &mqtypes.ConfigurationId{Id: conf.Id, Revision: revision.LatestRevision.Revision},
	})
	if err != nil {
		a.t.Fatal(err)
	}
	return aws.ToString(b.BrokerId)
}

// api makes one with these routes, and deploys it.
func (a *account) api(routes ...string) string {
	a.t.Helper()
	ctx, client := a.t.Context(), apigatewayv2.NewFromConfig(a.cfg)
	api, err := client.CreateApi(ctx, &apigatewayv2.CreateApiInput{Name: aws.String("usher"), ProtocolType: apitypes.ProtocolTypeWebsocket, RouteSelectionExpression: aws.String("$request.body.action")})
	if err != nil {
		a.t.Fatal(err)
	}
	for _, key := range routes {
		if _, err := client.CreateRoute(ctx, &apigatewayv2.CreateRouteInput{ApiId: api.ApiId, RouteKey: aws.String(key)}); err != nil {
			a.t.Fatal(err)
		}
	}
	if _, err := client.CreateStage(ctx, &apigatewayv2.CreateStageInput{ApiId: api.ApiId, StageName: aws.String("test"), DeploymentId: aws.String("d1")}); err != nil {
		a.t.Fatal(err)
	}
	return aws.ToString(api.ApiId)
}

// found is what was wrong, by name; "" if nothing.
func (a *account) found(s check.Site) map[string]string {
	a.t.Helper()
	found := map[string]string{}
	for _, f := range check.Run(a.t.Context(), a.cfg, s) {
		switch {
		case f.Err == nil && f.Detail == "":
			a.t.Errorf("%s says nothing", f.Name)
		case f.Err == nil:
			found[f.Name] = ""
		default:
			found[f.Name] = f.Err.Error() + " → " + f.Help
		}
	}
	return found
}

func TestASiteAsTheTemplateMakesIt(t *testing.T) {
	a := newAccount(t)
	found := a.found(a.site)
	if len(found) != 5 {
		t.Errorf("%d things were looked at: %v", len(found), found)
	}
	for name, problem := range found {
		// moto keeps no deployment of a stage; TestWhatAStageServes has one.
		if none := strings.Contains(problem, "it has no deployment"); none != (name == "stage") || problem != "" && !none {
			t.Errorf("%s: %s", name, problem)
		}
	}
}

func TestWhatDiffersIsNamed(t *testing.T) {
	a := newAccount(t)
	for name, c := range map[string]struct {
		change  func(*check.Site)
		finding string
		says    []string
	}{
		"a broker that is not there": {func(s *check.Site) { s.Broker = "b-none" }, "broker", []string{"b-none", "AWS_REGION"}},
		"a broker of the Internet":   {func(s *check.Site) { s.Broker = a.broker(true, func(x string) string { return x }) }, "private", []string{"Internet"}},
		"a lane that was dropped": {func(s *check.Site) {
			s.Broker = a.broker(false, func(x string) string {
				return strings.Replace(x, `<filteredDestination selector="JMSPriority = 9" queue="usher.work.p9"/>`, "", 1)
			})
		}, "lanes", []string{"usher.work.p9", "usher deploy broker-xml --amazon-mq"}},
		"another queue":               {func(s *check.Site) { s.Queue = "orders" }, "lanes", []string{`queue="orders.p9"`, "and 9 more"}},
		"tables that are not there":   {func(s *check.Site) { s.Table = "usher-none" }, "tables", []string{"usher-none-records", "usher-none-bodies", "deploy/template.yaml"}},
		"an API that is not there":    {func(s *check.Site) { s.API = "none" }, "routes", []string{"none", "--api"}},
		"a route too few":             {func(s *check.Site) { s.API = a.api("$connect", "$default", "$disconnect") }, "routes", []string{"has no subscribe", "new deployment"}},
		"a stage that is not there":   {func(s *check.Site) { s.Stage = "prod" }, "stage", []string{`"prod"`, "--stage"}},
		"a broker on its own default": {func(s *check.Site) { s.Broker = a.broker(false, func(string) string { return "<broker/>" }) }, "lanes", []string{"lacks", "more"}},
	} {
		t.Run(name, func(t *testing.T) {
			site := a.site
			c.change(&site)
			found := a.found(site)
			for _, says := range c.says {
				if !strings.Contains(found[c.finding], says) {
					t.Errorf("%s: %q, want %q in it", c.finding, found[c.finding], says)
				}
			}
		})
	}
}

// answers are what a service says, by path.
func answers(t *testing.T, service string, byPath map[string]string) *account {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Authorization"), "/"+service+"/aws4_request") {
			t.Errorf("it is not signed for %s: %q", service, r.Header.Get("Authorization"))
		}
		w.Header().Set("Content-Type", "application/json")
		text, is := byPath[r.URL.Path]
		if !is {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		fmt.Fprint(w, text)
	}))
	t.Cleanup(server.Close)
	return &account{t: t, cfg: aws.Config{
		Region: "eu-central-1", BaseEndpoint: aws.String(server.URL), Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	}}
}

// moto knows no revision that waits for a reboot (Amazon MQ API reference, DescribeBroker).
func TestARevisionThatWaitsForAReboot(t *testing.T) {
	a := answers(t, "mq", map[string]string{
		"/v1/brokers/b-1": `{"brokerName":"usher","brokerState":"REBOOT_IN_PROGRESS","engineVersion":"5.19","configurations":{"current":{"id":"c-1","revision":2},"pending":{"id":"c-1","revision":3}}}`,
	})
	found := a.found(check.Site{Broker: "b-1"})
	for name, says := range map[string]string{
		"revision": "revision 3 of the configuration waits for a reboot; 2 is in force → aws mq reboot-broker --broker-id b-1",
		"broker":   "usher is REBOOT_IN_PROGRESS",
		"lanes":    "mq:DescribeConfigurationRevision",
	} {
		if !strings.Contains(found[name], says) {
			t.Errorf("%s: %q", name, found[name])
		}
	}
}

// moto keeps no deployment of a stage (API Gateway V2 API reference, GetStage).
func TestWhatAStageServes(t *testing.T) {
	a := answers(t, "apigateway", map[string]string{
		"/v2/apis/a1/routes":      `{"items":[{"routeKey":"$connect"},{"routeKey":"$disconnect"},{"routeKey":"$default"},{"routeKey":"subscribe"}]}`,
		"/v2/apis/a1/stages/prod": `{"stageName":"prod","deploymentId":"d7"}`,
	})
	found := check.Run(t.Context(), a.cfg, check.Site{API: "a1", Stage: "prod"})
	if len(found) != 2 || found[0].Err != nil || found[1].Err != nil || found[1].Detail != "prod serves deployment d7" {
		t.Errorf("found %+v", found)
	}
}
