package cli

import (
	"testing"

	"usher/engine/dynamo"
	"usher/engine/enginetest/moto"
)

func TestDeployCheckSaysWhatDiffers(t *testing.T) {
	m := moto.Start(t)
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": m.Endpoint(), "AWS_REGION": m.Config().Region, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
	} {
		t.Setenv(name, value)
	}
	u := newUsher(t)
	u.wantCLI(exitUsage, "--broker, --table, --api", "deploy", "check")
	u.wantCLI(exitUsage, "--api and --stage go together", "deploy", "check", "--api", "a")
	u.wantCLI(exitFailed, "usher-prod-letters", "deploy", "check", "--table", "usher-prod")
	tables := dynamo.Config{AWS: m.Config(), Names: dynamo.DefaultNames("usher-prod")}
	if err := dynamo.CreateTables(t.Context(), dynamo.NewClient(tables), tables.Names); err != nil {
		t.Fatal(err)
	}
	u.wantCLI(0, "ok    tables", "deploy", "check", "--table", "usher-prod")
	u.wantCLI(0, `"state": "ok"`, "deploy", "check", "--table", "usher-prod", "--json")
	u.wantCLI(exitFailed, "FAIL  broker", "deploy", "check", "--table", "usher-prod", "--broker", "b-none")
}
