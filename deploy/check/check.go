// Package check reads what an AWS account has for usher, and says what of it is not as
// deploy/template.yaml makes it.
package check

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/apigatewayv2"
	"github.com/aws/aws-sdk-go-v2/service/mq"
	mqtypes "github.com/aws/aws-sdk-go-v2/service/mq/types"

	"usher/deploy/brokerxml"
	"usher/engine/dynamo"
)

// Site says what to look at; what is empty is not looked at. The outputs of the stack
// have the names.
type Site struct {
	Broker string // its id
	Queue  string // where producers send; "": usher.work
	Table  string // what the tables' names begin with
	API    string // the WebSocket API's id
	Stage  string // its stage
}

// Finding is one thing that was looked at.
type Finding struct {
	Name   string
	Detail string
	// Help says what to do; empty if all is well.
	Help string
	// Err is why it could not be looked at, or what is wrong; nil if all is well.
	Err error
}

// Run looks at a site. It blocks until the account has answered, or ctx ends.
func Run(ctx context.Context, account aws.Config, s Site) []Finding {
	var all []Finding
	if s.Broker != "" {
		all = append(all, broker(ctx, mq.NewFromConfig(account), s)...)
	}
	if s.Table != "" {
		all = append(all, tables(ctx, account, s))
	}
	if s.API != "" {
		all = append(all, webSocket(ctx, apigatewayv2.NewFromConfig(account), s)...)
	}
	return all
}

func wrong(name, help, format string, args ...any) Finding {
	return Finding{Name: name, Help: help, Err: fmt.Errorf(format, args...)}
}

// broker looks at the broker, and at the configuration that is in force.
func broker(ctx context.Context, client *mq.Client, s Site) []Finding {
	b, err := client.DescribeBroker(ctx, &mq.DescribeBrokerInput{BrokerId: aws.String(s.Broker)})
	if err != nil {
		return []Finding{wrong("broker", "check --broker, AWS_REGION, and that you may mq:DescribeBroker", "the broker %s cannot be looked at: %w", s.Broker, err)}
	}
	name := aws.ToString(b.BrokerName)
	all := []Finding{{Name: "broker", Detail: fmt.Sprintf("%s is %s, ActiveMQ %s", name, b.BrokerState, aws.ToString(b.EngineVersion))}}
	if b.BrokerState != mqtypes.BrokerStateRunning {
		all[0] = wrong("broker", "wait, or look at it in the Amazon MQ console", "%s is %s", name, b.BrokerState)
	}
	if aws.ToBool(b.PubliclyAccessible) {
		all = append(all, wrong("private", "make a broker that is not; this cannot be changed", "%s can be reached from the Internet", name))
	}
	if b.Configurations == nil || b.Configurations.Current == nil {
		return append(all, wrong("lanes", "give the broker the configuration of deploy/template.yaml, and reboot it", "%s has no configuration of usher's", name))
	}
	current := b.Configurations.Current
	if p := b.Configurations.Pending; p != nil && (aws.ToString(p.Id) != aws.ToString(current.Id) || aws.ToInt32(p.Revision) != aws.ToInt32(current.Revision)) {
		all = append(all, wrong("revision", "aws mq reboot-broker --broker-id "+s.Broker,
			"revision %d of the configuration waits for a reboot; %d is in force", aws.ToInt32(p.Revision), aws.ToInt32(current.Revision)))
	}
	return append(all, lanes(ctx, client, s, current))
}

// lanes compares the configuration in force with ours: Amazon MQ drops what it does not
// permit and says nothing.
func lanes(ctx context.Context, client *mq.Client, s Site, c *mqtypes.ConfigurationId) Finding {
	where := fmt.Sprintf("%s, revision %d", aws.ToString(c.Id), aws.ToInt32(c.Revision))
	out, err := client.DescribeConfigurationRevision(ctx, &mq.DescribeConfigurationRevisionInput{
		ConfigurationId: c.Id, ConfigurationRevision: aws.String(strconv.Itoa(int(aws.ToInt32(c.Revision)))),
	})
	if err != nil {
		return wrong("lanes", "check that you may mq:DescribeConfigurationRevision", "the configuration %s cannot be read: %w", where, err)
	}
	have, err := base64.StdEncoding.DecodeString(aws.ToString(out.Data))
	if err != nil {
		return wrong("lanes", "give the broker the configuration of deploy/template.yaml", "the configuration %s cannot be read: %w", where, err)
	}
	var want bytes.Buffer
	if err := brokerxml.Write(&want, brokerxml.Options{AmazonMQ: true, Queue: s.Queue}); err != nil {
		return wrong("lanes", "check --queue", "%w", err)
	}
	missing, err := brokerxml.Missing(want.Bytes(), have)
	const help = "write it anew with usher deploy broker-xml --amazon-mq, give it to the broker, and reboot it"
	switch {
	case err != nil:
		return wrong("lanes", help, "the configuration %s cannot be read: %w", where, err)
	case len(missing) > 0:
		more := ""
		if n := len(missing); n > 3 {
			missing, more = missing[:3], fmt.Sprintf(", and %d more", n-3)
		}
		return wrong("lanes", help, "the configuration %s lacks %s%s", where, strings.Join(missing, "; "), more)
	}
	return Finding{Name: "lanes", Detail: "all of usher's configuration is in force: " + where}
}

func tables(ctx context.Context, account aws.Config, s Site) Finding {
	records := dynamo.Open(dynamo.Config{AWS: account, Names: dynamo.DefaultNames(s.Table)})
	defer records.Close()
	if err := records.Check(ctx); err != nil {
		return Finding{Name: "tables", Err: err}
	}
	return Finding{Name: "tables", Detail: s.Table + "-records, -bodies and -letters are active, with their indexes"}
}

// routes are what the template gives the API.
var routes = []string{"$connect", "$default", "$disconnect", "subscribe"}

// webSocket looks at the API's routes, and at what its stage serves.
func webSocket(ctx context.Context, client *apigatewayv2.Client, s Site) []Finding {
	const help = "deploy deploy/template.yaml; a changed route needs a new deployment"
	got, err := client.GetRoutes(ctx, &apigatewayv2.GetRoutesInput{ApiId: aws.String(s.API)})
	if err != nil {
		return []Finding{wrong("routes", "check --api, AWS_REGION, and that you may apigateway:GET", "the API %s cannot be looked at: %w", s.API, err)}
	}
	var keys, missing []string
	for _, r := range got.Items {
		keys = append(keys, aws.ToString(r.RouteKey))
	}
	for _, key := range routes {
		if !slices.Contains(keys, key) {
			missing = append(missing, key)
		}
	}
	all := []Finding{{Name: "routes", Detail: strings.Join(routes, ", ") + " are there"}}
	if len(missing) > 0 {
		all[0] = wrong("routes", help, "the API %s has no %s", s.API, strings.Join(missing, ", "))
	}
	stage, err := client.GetStage(ctx, &apigatewayv2.GetStageInput{ApiId: aws.String(s.API), StageName: aws.String(s.Stage)})
	switch {
	case err != nil:
		return append(all, wrong("stage", "check --stage, and that the stack has one (on App Runner, with an image)", "the stage %q of %s cannot be looked at: %w", s.Stage, s.API, err))
	case aws.ToString(stage.DeploymentId) == "":
		return append(all, wrong("stage", help, "the stage %s serves nothing: it has no deployment", s.Stage))
	}
	return append(all, Finding{Name: "stage", Detail: fmt.Sprintf("%s serves deployment %s", s.Stage, aws.ToString(stage.DeploymentId))})
}
