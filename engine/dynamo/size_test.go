package dynamo_test

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"usher/engine"
	"usher/engine/dynamo"
	"usher/engine/enginetest/dynalite"
)

// TestARecordIsUnder1KB: a write of more costs another unit. The id and the type have
// 100 bytes each, which is long; the others are as long as the engine makes them.
func TestARecordIsUnder1KB(t *testing.T) {
	s := &tables{server: dynalite.Start(t)}
	r := s.open(t)
	defer r.Close()
	now := time.Now()
	id, typ, digest := strings.Repeat("i", 100), strings.Repeat("t", 100), engine.DigestOf([]byte("a body"))
	const token, brokerID = "ABCDEFGHIJKL-1234567890", "ID:ip-10-0-1-23.eu-central-1.compute.internal-40217-1764221234567-4:12:-1:1:123456"
	steps := []struct {
		name string
		do   func() error
	}{
		{"watched", func() error {
			_, err := r.Watch(t.Context(), id, engine.Watcher{Connection: "gw:L0SM9cOFvHcCIhw=", Until: now.Add(time.Hour)})
			return err
		}},
		{"claimed", func() error {
			mark := engine.ClaimMark{Token: token, BrokerID: brokerID, Until: now.Add(time.Minute), Alone: true}
			_, err := r.Claim(t.Context(), engine.Claim{ID: id, Type: typ, Digest: digest, Priority: 9, Mark: mark, Now: now})
			return err
		}},
		{"parked", func() error {
			_, err := r.Write(t.Context(), engine.Change{
				ID: id, Type: typ, Digest: digest, Priority: 9, NextHop: 1, Token: token, State: engine.Retrying, Bucket: engine.HeldBucket(typ), Due: now.Add(time.Hour),
				DueBy: engine.ByRetry, Attempts: 3, Redeliveries: 2, Crashes: 1, Deaths: 1, Now: now,
			})
			return err
		}},
		{"dead", func() error {
			_, err := r.Write(t.Context(), engine.Change{
				ID: id, Type: typ, Digest: digest, Priority: 9, Hop: 1, NextHop: 1, Token: token, State: engine.Dead, Reason: engine.ReasonIDConflict,
				Attempts: 3, Redeliveries: 2, Crashes: 1, Deaths: 1, Now: now, ExpiresAt: now.Add(time.Hour),
			})
			return err
		}},
	}
	client := dynamo.NewClient(dynamo.Config{AWS: credentialsOfNobody(), Endpoint: s.server.Endpoint()})
	for _, step := range steps {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		out, err := client.GetItem(t.Context(), &dynamodb.GetItemInput{
			TableName: aws.String(s.names().Records), Key: map[string]types.AttributeValue{"id": &types.AttributeValueMemberS{Value: id}}, ConsistentRead: aws.Bool(true),
		})
		if err != nil || len(out.Item) < 6 {
			t.Fatalf("%s: read %v, %v", step.name, out, err)
		}
		size := sizeOf(t, &types.AttributeValueMemberM{Value: out.Item}) - 3
		t.Logf("%s: %d bytes", step.name, size)
		if size > 1024 {
			t.Errorf("%s: the record is %d bytes: %v", step.name, size, out.Item)
		}
	}
}

// sizeOf counts as DynamoDB does ("Item sizes and formats" of its developer guide): the
// bytes of texts and names, a byte for two digits and one more, a byte for true; three
// for a list or a map, and one for each element of it.
func sizeOf(t *testing.T, value types.AttributeValue) (n int) {
	t.Helper()
	switch v := value.(type) {
	case *types.AttributeValueMemberS:
		return len(v.Value)
	case *types.AttributeValueMemberN:
		return (len(v.Value)+1)/2 + 1
	case *types.AttributeValueMemberBOOL:
		return 1
	case *types.AttributeValueMemberL:
		for _, each := range v.Value {
			n += 1 + sizeOf(t, each)
		}
		return n + 3
	case *types.AttributeValueMemberM:
		for name, each := range v.Value {
			n += 1 + len(name) + sizeOf(t, each)
		}
		return n + 3
	}
	t.Fatalf("an attribute of the kind %T", value)
	return 0
}

// The tables forget only what is finished: nothing that waits has a time to live.
func TestTheTablesForgetOnlyWhatIsFinished(t *testing.T) {
	s := &tables{server: dynalite.Start(t)}
	r := s.open(t)
	defer r.Close()
	now := time.Now()
	if err := r.Keep(t.Context(), "waits", 1, engine.Parked{Headers: map[string]string{"type": "t"}, Body: []byte("b")}); err != nil {
		t.Fatal(err)
	}
	waits := engine.Change{ID: "waits", Type: "t", Digest: "d", NextHop: 1, Token: "w-1", State: engine.Delayed, Bucket: engine.BucketOf("waits"), Now: now, ExpiresAt: now.Add(time.Hour)}
	for _, c := range []engine.Change{waits, done("over", now)} {
		if _, err := r.Write(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	client := dynamo.NewClient(dynamo.Config{AWS: credentialsOfNobody(), Endpoint: s.server.Endpoint()})
	for table, want := range map[string]map[string]bool{s.names().Bodies: {"waits": false}, s.names().Records: {"waits": false, "over": true}} {
		out, err := client.Scan(t.Context(), &dynamodb.ScanInput{TableName: aws.String(table)})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]bool{}
		for _, it := range out.Items {
			_, lives := it["ttl"]
			got[it["id"].(*types.AttributeValueMemberS).Value] = lives
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: what has a time to live: %v, want %v", table, got, want)
		}
	}
}
