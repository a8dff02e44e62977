package dynamo_test

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"usher/engine"
	"usher/engine/dynamo"
	"usher/engine/enginetest/dynalite"
)

// What docs/dynamodb.md says of editing the table with the tools of AWS.
func TestWhatAnOperatorWritesByHandIsObeyed(t *testing.T) {
	s := &tables{server: dynalite.Start(t)}
	r := s.open(t)
	defer r.Close()
	names := s.names()
	client := dynamo.NewClient(dynamo.Config{AWS: credentialsOfNobody(), Endpoint: s.server.Endpoint()})
	now := time.UnixMilli(time.Now().UnixMilli()).UTC()
	later := now.Add(time.Hour)
	millis := func(t time.Time) types.AttributeValue {
		return &types.AttributeValueMemberN{Value: strconv.FormatInt(t.UnixMilli(), 10)}
	}
	_, err := client.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: aws.String(names.Records), Item: map[string]types.AttributeValue{
		"id": &types.AttributeValueMemberS{Value: "order-7"}, "processingTimestamp": millis(later),
		"priority": &types.AttributeValueMemberS{Value: "urgent"}, "watchers": &types.AttributeValueMemberN{Value: "1"}, // no kind of theirs
	}})
	if err != nil {
		t.Fatal(err)
	}
	found, err := r.LookUp(t.Context(), []string{"order-7", "order-8"})
	if rec := found.Records["order-7"]; err != nil || !rec.Due.Equal(later) || rec.DueBy != engine.ByOperator || rec.State != engine.Queued {
		t.Fatalf("looked up %+v, %v", found.Records, err)
	}
	claim := engine.Claim{ID: "order-7", Type: "t", Digest: "d", Now: now, Mark: engine.ClaimMark{Token: "x-1", Until: now.Add(time.Minute)}}
	if _, err := r.Claim(t.Context(), claim); !errors.Is(err, engine.ErrGuarded) {
		t.Errorf("claimed before its time: %v", err)
	}
	gated, err := r.Gate(t.Context(), engine.Gate{ID: "order-7", Type: "t", Digest: "d", Due: now.Add(time.Minute), DueBy: engine.ByRule, Now: now})
	if err != nil || !gated.Due.Equal(later) {
		t.Errorf("the type's rule moved it to %v, %v", gated.Due, err)
	}
	bucket := engine.BucketOf("order-7")
	parked := engine.Change{ID: "order-7", Type: "t", Digest: "d", NextHop: 1, Token: "w-1", State: engine.Delayed, Bucket: bucket, Now: now}
	if _, err := r.Write(t.Context(), parked); err != nil {
		t.Fatal(err)
	}
	if due, err := r.DueIn(t.Context(), bucket, 10); err != nil || len(due) != 0 {
		t.Errorf("due before its time: %+v, %v", due, err)
	}
	_, err = client.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{
		TableName: aws.String(names.Records), Key: map[string]types.AttributeValue{"id": &types.AttributeValueMemberS{Value: "order-7"}},
		UpdateExpression: aws.String("SET processingTimestamp = :t, dueBy = :o"), ConditionExpression: aws.String("attribute_exists(id)"),
		ExpressionAttributeValues: map[string]types.AttributeValue{":t": millis(now), ":o": &types.AttributeValueMemberS{Value: "operator"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if due, err := r.DueIn(t.Context(), bucket, 10); err != nil || len(due) != 1 || due[0].ID != "order-7" {
		t.Errorf("not due after it was moved: %+v, %v", due, err)
	}
}

func TestBodiesWhoseRecordsDoNotWaitAreDropped(t *testing.T) {
	s := &tables{server: dynalite.Start(t)}
	r := s.open(t)
	defer r.Close()
	client := dynamo.NewClient(dynamo.Config{AWS: credentialsOfNobody(), Endpoint: s.server.Endpoint()})
	now := time.Now()
	for _, id := range []string{"waits", "old", "young"} {
		if err := r.Keep(t.Context(), id, 1, engine.Parked{Body: []byte("b")}); err != nil {
			t.Fatal(err)
		}
		if id == "young" {
			continue
		}
		_, err := client.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{
			TableName: aws.String(s.names().Bodies),
			Key: map[string]types.AttributeValue{
				"id": &types.AttributeValueMemberS{Value: id}, "part": &types.AttributeValueMemberS{Value: "hop/1"},
			},
			UpdateExpression: aws.String("SET keptAt = :t"), ExpressionAttributeValues: map[string]types.AttributeValue{
				":t": &types.AttributeValueMemberN{Value: strconv.FormatInt(now.Add(-2*time.Hour).UnixMilli(), 10)},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	parked := engine.Change{ID: "waits", Type: "t", Digest: "d", NextHop: 1, Token: "w-1", State: engine.Delayed, Bucket: engine.BucketOf("waits"), Now: now}
	if _, err := r.Write(t.Context(), parked); err != nil {
		t.Fatal(err)
	}
	if dropped, err := r.DropOrphans(t.Context()); err != nil || dropped != 1 {
		t.Errorf("dropped %d, %v; want the one that is old and does not wait", dropped, err)
	}
	for id, want := range map[string]error{"waits": nil, "young": nil, "old": engine.ErrNotFound} {
		if _, err := r.Kept(t.Context(), id, 1); !errors.Is(err, want) {
			t.Errorf("the body of %s: %v, want %v", id, err, want)
		}
	}
}
