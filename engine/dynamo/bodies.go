package dynamo

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"usher/engine"
)

// The attributes of a body; its part is hop/N, or letter/N of a dead letter.
const (
	attrPart    = "part"
	attrHeaders = "headers" // JSON
	attrBody    = "body"
	attrKeptAt  = "keptAt"
	hopPrefix   = "hop/"
)

const (
	// orphanAfter is how long a body is kept that no parked record belongs to: by then
	// its record has been written, or never will be.
	orphanAfter = time.Hour
	// orphanBatch is how many bodies a sweep reads at once; a look-up has as many.
	orphanBatch = 100
)

func bodyKey(id string, hop int) item {
	return item{attrID: text(id), attrPart: text(hopPrefix + strconv.Itoa(hop))}
}

// Keep stores the copy of a hop.
func (r *Records) Keep(ctx context.Context, id string, hop int, p engine.Parked) error {
	ctx, end, err := r.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	headers, err := json.Marshal(p.Headers)
	if err != nil {
		return fmt.Errorf("dynamo: keep the body of %q: %w", id, err)
	}
	it := bodyKey(id, hop)
	it[attrHeaders], it[attrBody], it[attrKeptAt] = binary(headers), binary(p.Body), number(toMillis(time.Now()))
	_, err = r.client.PutItem(ctx, &dynamodb.PutItemInput{TableName: aws.String(r.names.Bodies), Item: it})
	return r.explain(fmt.Sprintf("keep the body of %q", id), err)
}

// Kept reads the copy of a hop.
func (r *Records) Kept(ctx context.Context, id string, hop int) (engine.Parked, error) {
	ctx, end, err := r.begin(ctx)
	if err != nil {
		return engine.Parked{}, err
	}
	defer end()
	it, err := r.get(ctx, r.names.Bodies, bodyKey(id, hop))
	if err != nil {
		return engine.Parked{}, r.explain(fmt.Sprintf("read the body of %q", id), err)
	}
	if len(it) == 0 {
		return engine.Parked{}, engine.ErrNotFound
	}
	f := fields(it)
	p := engine.Parked{Body: f.binary(attrBody)}
	if err := json.Unmarshal(f.binary(attrHeaders), &p.Headers); err != nil {
		return engine.Parked{}, fmt.Errorf("dynamo: the body of %q has headers that are no JSON: %w", id, err)
	}
	return p, nil
}

// Drop forgets the copy of a hop.
func (r *Records) Drop(ctx context.Context, id string, hop int) error {
	ctx, end, err := r.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	_, err = r.client.DeleteItem(ctx, &dynamodb.DeleteItemInput{TableName: aws.String(r.names.Bodies), Key: bodyKey(id, hop)})
	return r.explain(fmt.Sprintf("drop the body of %q", id), err)
}

// DropOrphans reads all bodies and drops those that were kept an hour ago or more
// for a copy that is not parked: the process that was to drop them has died. It says
// how many they were. It reads what is stored, so once in some hours is enough.
func (r *Records) DropOrphans(ctx context.Context) (dropped int, err error) {
	ctx, end, err := r.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer end()
	in := &dynamodb.ScanInput{
		TableName: aws.String(r.names.Bodies), Limit: aws.Int32(orphanBatch),
		FilterExpression:          aws.String("begins_with(#part, :hop) AND #kept < :then"),
		ProjectionExpression:      aws.String("#id, #part"),
		ExpressionAttributeNames:  map[string]string{"#id": attrID, "#part": attrPart, "#kept": attrKeptAt},
		ExpressionAttributeValues: item{":hop": text(hopPrefix), ":then": number(toMillis(time.Now().Add(-orphanAfter)))},
	}
	for {
		out, err := r.client.Scan(ctx, in)
		if err != nil {
			return dropped, r.explain("look for bodies without a record", err)
		}
		n, err := r.dropOrphansOf(ctx, out.Items)
		dropped += n
		if err != nil {
			return dropped, err
		}
		if in.ExclusiveStartKey = out.LastEvaluatedKey; len(in.ExclusiveStartKey) == 0 {
			return dropped, nil
		}
	}
}

// dropOrphansOf drops those of the bodies whose records, as they are now, do not wait
// with them.
func (r *Records) dropOrphansOf(ctx context.Context, bodies []item) (dropped int, err error) {
	for _, body := range bodies {
		f := fields(body)
		id, part := f.text(attrID), f.text(attrPart)
		seen, err := r.read(ctx, id)
		if err != nil {
			return dropped, err
		}
		hop, _ := strings.CutPrefix(part, hopPrefix)
		if rec := seen.record; rec.Bucket != "" && strconv.Itoa(rec.Hop) == hop {
			continue
		}
		_, err = r.client.DeleteItem(ctx, &dynamodb.DeleteItemInput{TableName: aws.String(r.names.Bodies), Key: body})
		if err != nil {
			return dropped, r.explain(fmt.Sprintf("drop the body of %q", id), err)
		}
		dropped++
	}
	return dropped, nil
}
