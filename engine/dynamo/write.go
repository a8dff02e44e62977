package dynamo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go/middleware"

	"usher/engine"
)

// mayWrite is [engine.Change.Allowed] for the most of records, as a condition: there is
// none; or it is in no final state and at no later hop, and it is the same message's, or
// not known whose. What it refuses (a dead message's next hop, an item that an operator
// made by hand) is decided by the record itself.
const mayWrite = `attribute_not_exists(#id)
	OR #type = :type AND #digest = :digest AND ` + goesOn + `
	OR attribute_not_exists(#type) AND attribute_not_exists(#digest) AND attribute_not_exists(#priority) AND ` + goesOn

const goesOn = `#hop <= :hop AND NOT #state IN (:done, :dead, :cancelled)`

// writeAtOnce makes a change without having read the record. If its condition does
// not hold it gives the record as it is, to decide by; otherwise no sighting.
func (r *Records) writeAtOnce(ctx context.Context, c engine.Change) (engine.Record, *sighting, error) {
	u := atOnce(c)
	u.TableName = aws.String(r.names.Records)
	nonce := rand.Text()
	u.ExpressionAttributeValues[":nonce"] = text(nonce)
	attempts := 0
	out, err := r.client.UpdateItem(ctx, u, countAttempts(&attempts))
	if err == nil {
		return recordOf(out.Attributes, time.Now()), nil, nil
	}
	moved, is := errors.AsType[*types.ConditionalCheckFailedException](err)
	if !is {
		return engine.Record{}, nil, r.explain(fmt.Sprintf("write the record of %q", c.ID), err)
	}
	there := moved.Item
	if len(there) == 0 { // a store that does not give it, or an item that has gone since
		if there, err = r.get(ctx, r.names.Records, u.Key); err != nil {
			return engine.Record{}, nil, r.explain(fmt.Sprintf("read the record of %q", c.ID), err)
		}
	}
	f := fields(there)
	if attempts > 1 && (f.text(attrNonce) == nonce || f.text(attrToken) == c.Token) { // it had landed, and its answer was lost; others may have written since
		return recordOf(there, time.Now()), nil, nil
	}
	seen := sight(there)
	return engine.Record{}, &seen, nil
}

// countAttempts counts how often a request was sent.
func countAttempts(n *int) func(*dynamodb.Options) {
	count := middleware.FinalizeMiddlewareFunc("CountAttempts", func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
		*n++
		return next.HandleFinalize(ctx, in)
	})
	return dynamodb.WithAPIOptions(func(stack *middleware.Stack) error { return stack.Finalize.Insert(count, "Retry", middleware.After) })
}

// atOnce is [engine.Change.Apply] as an UpdateItem, for a change that sets no time,
// parks nothing and takes nothing back.
func atOnce(c engine.Change) *dynamodb.UpdateItemInput {
	e := expression{names: map[string]string{}, values: item{}}
	for name, value := range map[string]string{attrState: string(c.State), attrToken: c.Token, attrReason: c.Reason} {
		e.to(name, value != "", text(value))
	}
	for name, n := range map[string]int64{
		attrAttempts: int64(c.Attempts), attrRounds: int64(c.Redeliveries), attrCrashes: int64(c.Crashes), attrDeaths: int64(c.Deaths),
		attrUpdated: toMillis(c.Now),
	} {
		e.to(name, n != 0, number(n))
	}
	expires := c.ExpiresAt
	if !c.State.Final() {
		expires = time.Time{}
	}
	e.to(attrExpires, !expires.IsZero(), number(toMillis(expires)))
	e.to(attrTTL, !expires.IsZero(), number(ttlOf(expires)))
	e.to(attrHop, true, number(int64(c.NextHop)))
	for _, name := range []string{attrClaim, attrClaimOf, attrClaimEnd, attrAlone, attrBucket, attrShelf} {
		e.to(name, false, nil)
	}
	e.once(attrGatedAt, number(toMillis(c.Now)))
	e.once(attrType, text(c.Type))
	e.once(attrPriority, number(int64(c.Priority)))
	e.once(attrDigest, text(c.Digest))
	e.sets = append(e.sets, "#nonce = :nonce")
	e.names["#nonce"], e.names["#id"] = attrNonce, attrID
	for name, value := range map[string]string{":done": string(engine.Done), ":dead": string(engine.Dead), ":cancelled": string(engine.Cancelled), ":type": c.Type, ":digest": c.Digest} {
		e.values[name] = text(value)
	}
	e.values[":hop"] = number(int64(c.Hop))
	return &dynamodb.UpdateItemInput{
		Key:                       item{attrID: text(c.ID)},
		UpdateExpression:          aws.String("SET " + strings.Join(e.sets, ", ") + " REMOVE " + strings.Join(e.removes, ", ")),
		ConditionExpression:       aws.String(mayWrite),
		ExpressionAttributeNames:  e.names,
		ExpressionAttributeValues: e.values,
		ReturnValues:              types.ReturnValueAllNew,

		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	}
}

// expression gathers what an UpdateItem sets and removes.
type expression struct {
	sets, removes []string
	names         map[string]string
	values        item
}

// to sets an attribute, or removes it if it has no value.
func (e *expression) to(name string, has bool, value types.AttributeValue) {
	e.names["#"+name] = name
	if !has {
		e.removes = append(e.removes, "#"+name)
		return
	}
	e.values[":new_"+name] = value
	e.sets = append(e.sets, fmt.Sprintf("#%s = :new_%[1]s", name))
}

// once sets an attribute that is not there.
func (e *expression) once(name string, value types.AttributeValue) {
	e.names["#"+name] = name
	e.values[":first_"+name] = value
	e.sets = append(e.sets, fmt.Sprintf("#%s = if_not_exists(#%[1]s, :first_%[1]s)", name))
}

// wait is the time between two tries of what others were in the way of: it doubles,
// and half of it is random.
type wait time.Duration

const (
	firstWait = wait(4 * time.Millisecond)
	lastWait  = wait(500 * time.Millisecond)
)

func newWait() wait { return firstWait }

func (w *wait) next(ctx context.Context) error {
	half := time.Duration(*w) / 2
	*w = min(*w*2, lastWait)
	timer := time.NewTimer(half + mathrand.N(half))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
