package deploy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"go.yaml.in/yaml/v3"

	"usher/deploy/brokerxml"
	"usher/engine"
	"usher/engine/dynamo"
	"usher/engine/enginetest/process"
)

// template is deploy/template.yaml, with a function of CloudFormation, as !Ref X, as the
// mapping {Ref: X}.
type template struct {
	parameters, outputs map[string]any
	Resources           map[string]resource
}

type resource struct {
	Type           string
	DeletionPolicy string
	DependsOn      any
	Properties     map[string]any
}

func read(t *testing.T) template {
	t.Helper()
	text, err := os.ReadFile("template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		t.Fatal(err)
	}
	longForm(&root)
	var all map[string]any
	if err := root.Decode(&all); err != nil {
		t.Fatal(err)
	}
	var read template
	read.parameters, _ = all["Parameters"].(map[string]any)
	read.outputs, _ = all["Outputs"].(map[string]any)
	read.Resources = map[string]resource{}
	resources, _ := all["Resources"].(map[string]any)
	for name, v := range resources {
		r := resource{DependsOn: at(v, "DependsOn")}
		r.Type, _ = at(v, "Type").(string)
		r.DeletionPolicy, _ = at(v, "DeletionPolicy").(string)
		r.Properties, _ = at(v, "Properties").(map[string]any)
		read.Resources[name] = r
	}
	if len(read.parameters) == 0 || len(read.outputs) == 0 || len(read.Resources) == 0 {
		t.Fatal("the template is empty")
	}
	return read
}

// longForm puts {Ref: X} in the place of !Ref X.
func longForm(n *yaml.Node) {
	for _, child := range n.Content {
		longForm(child)
	}
	if !strings.HasPrefix(n.Tag, "!") || strings.HasPrefix(n.Tag, "!!") {
		return
	}
	name := strings.TrimPrefix(n.Tag, "!")
	if name != "Ref" && name != "Condition" {
		name = "Fn::" + name
	}
	inner := *n
	inner.Tag = ""
	*n = yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{{Kind: yaml.ScalarNode, Value: name}, &inner}}
}

// of lists the resources of a type, by name.
func (t template) of(kind string) map[string]resource {
	found := map[string]resource{}
	for name, r := range t.Resources {
		if r.Type == kind {
			found[name] = r
		}
	}
	return found
}

// at follows names through mappings; nil if there is nothing.
func at(v any, names ...string) any {
	for _, name := range names {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	return v
}

// many is one thing, or the things of a list.
func many(v any) []any {
	if list, is := v.([]any); is {
		return list
	}
	return []any{v}
}

func TestTheTemplateIsClean(t *testing.T) {
	root := process.ModuleRoot(t)
	lint := filepath.Join(root, ".cache", "aws", "bin", "cfn-lint")
	for _, stage := range []string{"dev", "staging", "prod"} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(root, ".cache", "aws", "bin", "python"), lint,
			"--regions", "us-east-1,eu-central-1", "--parameter-files", "params/"+stage+".json", "--", "template.yaml")
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("cfn-lint with %s (run tools/prepare if it is not there): %v\n%s", stage, err, out)
		}
	}
}

// Each stage's file names parameters that there are, with values that may be.
func TestParametersOfEachStage(t *testing.T) {
	parameters := read(t).parameters
	for _, stage := range []string{"dev", "staging", "prod"} {
		text, err := os.ReadFile("params/" + stage + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var list []map[string]string
		if err := json.Unmarshal(text, &list); err != nil || len(list) == 0 {
			t.Fatalf("%s: %v", stage, err)
		}
		given := map[string]string{}
		for _, p := range list {
			given[p["ParameterKey"]] = p["ParameterValue"]
		}
		for name, value := range given {
			known, is := parameters[name]
			if !is {
				t.Errorf("%s: there is no parameter %s", stage, name)
			}
			if allowed := at(known, "AllowedValues"); allowed != nil && !slices.ContainsFunc(many(allowed), func(v any) bool { return fmt.Sprint(v) == value }) {
				t.Errorf("%s: %s may not be %s", stage, name, value)
			}
		}
		if given["Stage"] != stage {
			t.Errorf("%s says that it is %s", stage, given["Stage"])
		}
		for name, p := range parameters {
			if _, is := given[name]; !is && at(p, "Default") == nil {
				t.Errorf("%s does not give %s, which has no default", stage, name)
			}
		}
	}
}

func TestTheBrokersXMLIsOurs(t *testing.T) {
	var ours bytes.Buffer
	if err := brokerxml.Write(&ours, brokerxml.Options{AmazonMQ: true}); err != nil {
		t.Fatal(err)
	}
	got, _ := at(read(t).Resources["BrokerConfiguration"].Properties, "Data", "Fn::Base64").(string)
	// YAML takes away the indent that the first line has.
	if strings.TrimSpace(got) != strings.TrimSpace(ours.String()) {
		t.Errorf("BrokerConfiguration is not what usher deploy broker-xml --amazon-mq writes:\n%s", got)
	}
}

// The tables are those that the engine wants to find.
func TestTheTablesAreOurs(t *testing.T) {
	tables := read(t).of("AWS::DynamoDB::Table")
	schemas := dynamo.Schemas(dynamo.DefaultNames("${AWS::StackName}"))
	if len(tables) != len(schemas) {
		t.Errorf("there are %d tables, want %d", len(tables), len(schemas))
	}
	for _, want := range schemas {
		var have map[string]any
		for _, table := range tables {
			if at(table.Properties, "TableName", "Fn::Sub") == *want.TableName {
				have = table.Properties
			}
		}
		if have == nil {
			t.Errorf("there is no table %s", *want.TableName)
			continue
		}
		var keys, attributes, indexes []string
		for _, k := range want.KeySchema {
			keys = append(keys, *k.AttributeName+" "+string(k.KeyType))
		}
		for _, a := range want.AttributeDefinitions {
			attributes = append(attributes, *a.AttributeName+" "+string(a.AttributeType))
		}
		for _, i := range want.GlobalSecondaryIndexes {
			text := *i.IndexName + " " + string(i.Projection.ProjectionType)
			for _, k := range i.KeySchema {
				text += " " + *k.AttributeName + " " + string(k.KeyType)
			}
			indexes = append(indexes, text)
		}
		if got := pairs(have["KeySchema"], "AttributeName", "KeyType"); !slices.Equal(got, keys) {
			t.Errorf("%s: keys %v, want %v", *want.TableName, got, keys)
		}
		if got := pairs(have["AttributeDefinitions"], "AttributeName", "AttributeType"); !slices.Equal(got, attributes) {
			t.Errorf("%s: attributes %v, want %v", *want.TableName, got, attributes)
		}
		var got []string
		if have["GlobalSecondaryIndexes"] != nil {
			for _, i := range many(have["GlobalSecondaryIndexes"]) {
				got = append(got, strings.Join(append([]string{fmt.Sprint(at(i, "IndexName"), " ", at(i, "Projection", "ProjectionType"))},
					pairs(at(i, "KeySchema"), "AttributeName", "KeyType")...), " "))
			}
		}
		if !slices.Equal(got, indexes) {
			t.Errorf("%s: indexes %q, want %q", *want.TableName, got, indexes)
		}
		if want.BillingMode != "PAY_PER_REQUEST" || have["BillingMode"] != aws.ToString((*string)(&want.BillingMode)) {
			t.Errorf("%s: billed %v, want %v", *want.TableName, have["BillingMode"], want.BillingMode)
		}
	}
	// Records alone are forgotten.
	for name, table := range tables {
		if ttl := at(table.Properties, "TimeToLiveSpecification", "AttributeName"); (name == "RecordsTable") != (ttl == "ttl") {
			t.Errorf("%s is forgotten by %v", name, ttl)
		}
	}
}

func pairs(list any, a, b string) []string {
	var texts []string
	for _, v := range many(list) {
		texts = append(texts, fmt.Sprint(at(v, a), " ", at(v, b)))
	}
	return texts
}

// statements lists those of all policies of roles and resources.
func (t template) statements() map[string][]map[string]any {
	found := map[string][]map[string]any{}
	add := func(name string, document any) {
		for _, s := range many(at(document, "Statement")) {
			if s, is := s.(map[string]any); is {
				found[name] = append(found[name], s)
			}
		}
	}
	for name, r := range t.Resources {
		for _, p := range many(r.Properties["Policies"]) {
			add(name, at(p, "PolicyDocument"))
		}
		document := r.Properties["PolicyDocument"]
		if text, is := at(document, "Fn::Sub").(string); is && json.Unmarshal([]byte(text), &document) != nil {
			document = nil // and the statements are missed below
		}
		add(name, document)
		add(name, r.Properties["KeyPolicy"])
		add(name, r.Properties["AssumeRolePolicyDocument"])
	}
	return found
}

// whole are the actions that AWS knows no resource level for; in a key's own policy the
// star is that key.
var whole = []string{"ecr:GetAuthorizationToken"}

func TestNobodyMayMoreThanNeeded(t *testing.T) {
	template := read(t)
	statements := template.statements()
	if len(statements) < 6 {
		t.Fatalf("there are %d policies", len(statements))
	}
	for name, list := range statements {
		for _, s := range list {
			for _, action := range many(s["Action"]) {
				if strings.Contains(fmt.Sprint(action), "*") {
					t.Errorf("%s: Action %v", name, action)
				}
			}
			if s["Effect"] == "Allow" && fmt.Sprint(s["Principal"]) == "*" {
				t.Errorf("%s is for everybody", name)
			}
			ofKey := template.Resources[name].Type == "AWS::KMS::Key"
			for _, r := range many(s["Resource"]) {
				if r == "*" && !ofKey && !slices.ContainsFunc(many(s["Action"]), func(a any) bool { return slices.Contains(whole, fmt.Sprint(a)) }) {
					t.Errorf("%s: Resource * for %v", name, s["Action"])
				}
			}
		}
	}
	for name, role := range template.of("AWS::IAM::Role") {
		if role.Properties["ManagedPolicyArns"] != nil {
			t.Errorf("%s has policies of AWS, which are wider", name)
		}
	}
	// Contents are a right of their own.
	for _, s := range statements["EngineRole"] {
		text := fmt.Sprint(s["Resource"])
		if strings.Contains(text, "BodiesTable") && strings.Contains(text, "RecordsTable") {
			t.Errorf("bodies and records are one right: %v", s)
		}
	}
}

func TestAllIsEncryptedKeptAndPrivate(t *testing.T) {
	template := read(t)
	for name, r := range template.Resources {
		p := r.Properties
		wants := map[string]map[string]any{
			"AWS::DynamoDB::Table": {
				"SSESpecification/SSEEnabled": true, "PointInTimeRecoverySpecification/PointInTimeRecoveryEnabled": true,
			},
			"AWS::AmazonMQ::Broker": {
				"PubliclyAccessible": false, "EngineVersion": "5.19", "Logs/General": true, "Configuration/Id/Ref": "BrokerConfiguration",
			},
			"AWS::S3::Bucket": {
				"PublicAccessBlockConfiguration/BlockPublicAcls": true, "PublicAccessBlockConfiguration/RestrictPublicBuckets": true,
				"PublicAccessBlockConfiguration/BlockPublicPolicy": true, "PublicAccessBlockConfiguration/IgnorePublicAcls": true,
			},
			"AWS::SNS::Topic":                           {"KmsMasterKeyId/Ref": "OpsKey"},
			"AWS::KMS::Key":                             {"EnableKeyRotation": true},
			"AWS::ECR::Repository":                      {"ImageScanningConfiguration/ScanOnPush": true, "ImageTagMutability": "IMMUTABLE"},
			"AWS::Logs::LogGroup":                       {"RetentionInDays/Ref": "LogRetentionDays"},
			"AWS::ECS::Service":                         {"EnableExecuteCommand": false, "NetworkConfiguration/AwsvpcConfiguration/AssignPublicIp": "DISABLED"},
			"AWS::ElasticLoadBalancingV2::LoadBalancer": {"Scheme": "internal"},
		}[r.Type]
		for path, want := range wants {
			if got := at(p, strings.Split(path, "/")...); got != want {
				t.Errorf("%s: %s is %v, want %v", name, path, got, want)
			}
		}
		if slices.Contains([]string{"AWS::DynamoDB::Table", "AWS::AmazonMQ::Broker", "AWS::S3::Bucket", "AWS::Logs::LogGroup", "AWS::ECR::Repository"}, r.Type) && r.DeletionPolicy != "RetainExceptOnCreate" {
			t.Errorf("%s goes with the stack", name)
		}
		for _, rule := range many(p["SecurityGroupIngress"]) {
			if fmt.Sprint(at(rule, "CidrIp")) == "0.0.0.0/0" {
				t.Errorf("%s lets everybody in", name)
			}
		}
	}
	if n := len(template.of("AWS::AmazonMQ::Broker")); n != 1 {
		t.Errorf("there are %d brokers", n)
	}
}

// No password stands in it, and the broker's has no character that Amazon MQ refuses.
func TestSecretsAreGenerated(t *testing.T) {
	template := read(t)
	exclude, _ := at(template.Resources["BrokerUser"].Properties, "GenerateSecretString", "ExcludeCharacters").(string)
	for _, c := range ",:=" {
		if !strings.ContainsRune(exclude, c) {
			t.Errorf("the broker's password may have a %q", c)
		}
	}
	for name, s := range template.of("AWS::SecretsManager::Secret") {
		text := fmt.Sprint(at(s.Properties, "SecretString", "Fn::Sub"))
		if s.Properties["GenerateSecretString"] == nil && !strings.Contains(text, "{{resolve:secretsmanager:") {
			t.Errorf("%s is not generated: %s", name, text)
		}
	}
	for _, u := range many(template.Resources["Broker"].Properties["Users"]) {
		if text := fmt.Sprint(at(u, "Password", "Fn::Sub")); !strings.HasPrefix(text, "{{resolve:secretsmanager:") {
			t.Errorf("the broker's password is %s", text)
		}
	}
}

// Somebody is told of each thing that an operator has to know.
func TestAlarms(t *testing.T) {
	alarms := read(t).of("AWS::CloudWatch::Alarm")
	watched := map[string]bool{}
	for name, a := range alarms {
		text := fmt.Sprint(a.Properties["Namespace"], " ", a.Properties["MetricName"])
		for _, d := range many(a.Properties["Dimensions"]) {
			if at(d, "Name") == "Lane" || at(d, "Name") == "Queue" {
				text += fmt.Sprint(" ", at(d, "Value"))
			}
		}
		watched[text] = true
		if got := at(many(a.Properties["AlarmActions"])[0], "Ref"); got != "OpsTopic" {
			t.Errorf("%s tells %v", name, got)
		}
		if a.Properties["AlarmDescription"] == nil {
			t.Errorf("%s does not say what it means", name)
		}
	}
	want := []string{"usher DeadLetters", "usher ParkedOverdue", "usher Connected", "AWS/AmazonMQ QueueSize " + engine.DeadQueue, "AWS/AmazonMQ StorePercentUsage"}
	for level := range engine.Levels {
		want = append(want, fmt.Sprintf("usher OldestMessage p%d", level))
	}
	for _, name := range want {
		if !watched[name] {
			t.Errorf("nobody watches %s", name)
		}
	}
}

// The stage serves the routes that there were when its deployment was made.
func TestADeploymentWaitsForItsRoutes(t *testing.T) {
	template := read(t)
	for _, compute := range []string{"Fargate", "AppRunner"} {
		depends := fmt.Sprint(template.Resources["WebSocketDeployment"+compute+"1"].DependsOn)
		keys := map[string]bool{}
		for name, r := range template.of("AWS::ApiGatewayV2::Route") {
			if strings.HasSuffix(name, compute) {
				keys[fmt.Sprint(r.Properties["RouteKey"])] = true
				if !strings.Contains(depends, name) {
					t.Errorf("the deployment for %s does not wait for %s", compute, name)
				}
			}
		}
		for _, key := range []string{"$connect", "$disconnect", "subscribe", "$default"} {
			if !keys[key] {
				t.Errorf("%s has no route %s", compute, key)
			}
		}
	}
}

// What the engine answers to is what the integrations send.
func TestIntegrationsShowWhatCallbacksAsk(t *testing.T) {
	for name, i := range read(t).of("AWS::ApiGatewayV2::Integration") {
		parameters, _ := i.Properties["RequestParameters"].(map[string]any)
		want := map[string]string{"X-Usher-Secret": `^map\[Fn::Sub:'\{\{resolve:secretsmanager:\$\{GatewaySecret\}\}\}'\]$`, "X-Usher-Connection": `^context\.connectionId$`}
		if strings.HasPrefix(name, "Connect") {
			want["X-Usher-Origin"], want["X-Usher-Id"], want["X-Usher-Token"] = `^route\.request\.header\.Origin$`, `^route\.request\.querystring\.id$`, `^route\.request\.querystring\.token$`
		}
		for header, pattern := range want {
			if got := fmt.Sprint(parameters["integration.request.header."+header]); !regexp.MustCompile(pattern).MatchString(got) {
				t.Errorf("%s: %s is %s", name, header, got)
			}
		}
		if len(parameters) != len(want) {
			t.Errorf("%s sends %v", name, parameters)
		}
	}
}
