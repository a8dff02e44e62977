package dynamo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"usher/engine"
)

// Names are the three tables.
type Names struct{ Records, Bodies, Letters string }

// DefaultNames are the tables of a prefix: prefix-records and so on.
func DefaultNames(prefix string) Names {
	return Names{prefix + "-records", prefix + "-bodies", prefix + "-letters"}
}

// The indexes.
const (
	indexWaiting = "waiting" // records that wait: by shelf, then processingTimestamp
	indexListed  = "listed"  // letters: by shelf, then place
)

// Schemas describes the tables, in the order of [Names]; deploy/template.yaml makes
// the same. They are billed by request.
func Schemas(n Names) []*dynamodb.CreateTableInput {
	return []*dynamodb.CreateTableInput{
		schema(n.Records, keys{attrID, ""}, indexWaiting, keys{attrShelf, attrDue}, types.ScalarAttributeTypeN),
		schema(n.Bodies, keys{attrID, attrPart}, "", keys{}, ""),
		schema(n.Letters, keys{attrKey, ""}, indexListed, keys{attrShelf, attrPlace}, types.ScalarAttributeTypeS),
	}
}

// keys are the names of a hash and of a range attribute; "" if there is none.
type keys struct{ hash, by string }

func (k keys) schema() []types.KeySchemaElement {
	all := []types.KeySchemaElement{{AttributeName: aws.String(k.hash), KeyType: types.KeyTypeHash}}
	if k.by != "" {
		all = append(all, types.KeySchemaElement{AttributeName: aws.String(k.by), KeyType: types.KeyTypeRange})
	}
	return all
}

func schema(table string, key keys, index string, indexKey keys, sortedBy types.ScalarAttributeType) *dynamodb.CreateTableInput {
	in := &dynamodb.CreateTableInput{TableName: aws.String(table), BillingMode: types.BillingModePayPerRequest, KeySchema: key.schema()}
	kinds := map[string]types.ScalarAttributeType{key.hash: types.ScalarAttributeTypeS}
	if key.by != "" {
		kinds[key.by] = types.ScalarAttributeTypeS
	}
	if index != "" {
		kinds[indexKey.hash], kinds[indexKey.by] = types.ScalarAttributeTypeS, sortedBy
		in.GlobalSecondaryIndexes = []types.GlobalSecondaryIndex{{
			IndexName: aws.String(index), KeySchema: indexKey.schema(),
			Projection: &types.Projection{ProjectionType: types.ProjectionTypeAll},
		}}
	}
	for name, kind := range kinds {
		in.AttributeDefinitions = append(in.AttributeDefinitions, types.AttributeDefinition{AttributeName: aws.String(name), AttributeType: kind})
	}
	slices.SortFunc(in.AttributeDefinitions, func(a, b types.AttributeDefinition) int {
		return strings.Compare(*a.AttributeName, *b.AttributeName)
	})
	return in
}

// tablesTimeout is how long new tables have until they can be used.
const tablesTimeout = time.Minute

// CreateTables makes the tables that are missing and waits until all can be used.
// On AWS the template makes them: this is for stores that stand in for it.
func CreateTables(ctx context.Context, client *dynamodb.Client, n Names) error {
	for _, in := range Schemas(n) {
		var there *types.ResourceInUseException
		if _, err := client.CreateTable(ctx, in); err != nil && !errors.As(err, &there) {
			return fmt.Errorf("dynamo: create table %s: %w", *in.TableName, err)
		}
		active := dynamodb.NewTableExistsWaiter(client, func(o *dynamodb.TableExistsWaiterOptions) { o.MinDelay = 20 * time.Millisecond })
		if err := active.Wait(ctx, &dynamodb.DescribeTableInput{TableName: in.TableName}, tablesTimeout); err != nil {
			return fmt.Errorf("dynamo: table %s does not become active: %w", *in.TableName, err)
		}
	}
	return nil
}

// Check says what is wrong with the tables, naming each and the remedy; nil if all
// are there, with their indexes.
func (r *Records) Check(ctx context.Context) error {
	var wrong []error
	for _, want := range Schemas(r.names) {
		out, err := r.client.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: want.TableName})
		if err != nil {
			wrong = append(wrong, r.explain("look at table "+*want.TableName, err))
			continue
		}
		wrong = append(wrong, differs(want, out.Table)...)
	}
	return errors.Join(wrong...)
}

func differs(want *dynamodb.CreateTableInput, have *types.TableDescription) (wrong []error) {
	name := *want.TableName
	if have.TableStatus != types.TableStatusActive && have.TableStatus != types.TableStatusUpdating {
		wrong = append(wrong, fmt.Errorf("dynamo: table %s is %s, not ACTIVE: wait until it is", name, have.TableStatus))
	}
	if !sameKeys(want.KeySchema, have.KeySchema) {
		wrong = append(wrong, fmt.Errorf("dynamo: table %s has other keys than usher's: is it another one's? Choose another name, or create it with deploy/template.yaml", name))
	}
	for _, index := range want.GlobalSecondaryIndexes {
		i := slices.IndexFunc(have.GlobalSecondaryIndexes, func(d types.GlobalSecondaryIndexDescription) bool { return *d.IndexName == *index.IndexName })
		switch {
		case i < 0:
			wrong = append(wrong, fmt.Errorf("dynamo: table %s has no index %s: create it as deploy/template.yaml does", name, *index.IndexName))
		case !sameKeys(index.KeySchema, have.GlobalSecondaryIndexes[i].KeySchema):
			wrong = append(wrong, fmt.Errorf("dynamo: index %s of table %s has other keys than usher's: create it as deploy/template.yaml does", *index.IndexName, name))
		case have.GlobalSecondaryIndexes[i].IndexStatus != types.IndexStatusActive:
			wrong = append(wrong, fmt.Errorf("dynamo: index %s of table %s is %s, not ACTIVE: wait until it is", *index.IndexName, name, have.GlobalSecondaryIndexes[i].IndexStatus))
		}
	}
	return wrong
}

func sameKeys(a, b []types.KeySchemaElement) bool {
	return slices.EqualFunc(a, b, func(x, y types.KeySchemaElement) bool {
		return *x.AttributeName == *y.AttributeName && x.KeyType == y.KeyType
	})
}

// shelfOf is where an item that waits is in the index; "": it does not wait.
func shelfOf(r engine.Record) string {
	switch {
	case r.Bucket != "":
		return r.Bucket
	case r.State == engine.Delayed || r.State == engine.Retrying:
		return engine.BucketOf(r.ID)
	}
	return ""
}
