package dynamo

import (
	"context"
	"crypto/rand"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// condition is what must hold of the item that is there, or that there is none.
type condition struct {
	expression string
	names      map[string]string
	values     item
}

// absent holds if there is no item: no attribute of a key.
func absent(key string) condition {
	return condition{"attribute_not_exists(#key)", map[string]string{"#key": key}, nil}
}

// is holds if an attribute has a value.
func is(name string, value types.AttributeValue) condition {
	return condition{"#is = :is", map[string]string{"#is": name}, item{":is": value}}
}

// stays holds if nobody wrote the record since it was read.
func (s sighting) stays() condition {
	switch {
	case !s.there:
		return absent(attrID)
	case s.nonce == "":
		return absent(attrNonce)
	}
	return is(attrNonce, text(s.nonce))
}

// putIf puts an item whose key is one attribute, if the condition holds. If it does
// not, it gives the item that is there, or none, and ok only if that is this very one:
// the put was repeated after an answer that was lost.
func (r *Records) putIf(ctx context.Context, table string, it item, key string, c condition) (there item, ok bool, err error) {
	nonce := rand.Text()
	it[attrNonce] = text(nonce)
	_, err = r.client.PutItem(ctx, &dynamodb.PutItemInput{
		TableName: aws.String(table), Item: it,
		ConditionExpression: aws.String(c.expression), ExpressionAttributeNames: c.names, ExpressionAttributeValues: c.values,
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	})
	moved, refused := errors.AsType[*types.ConditionalCheckFailedException](err)
	if !refused {
		return nil, err == nil, err
	}
	if there = moved.Item; len(there) == 0 { // a store that does not give it, or there is none
		if there, err = r.get(ctx, table, item{key: it[key]}); err != nil {
			return nil, false, err
		}
	}
	return there, fields(there).text(attrNonce) == nonce, nil
}

// get reads an item, never stale.
func (r *Records) get(ctx context.Context, table string, key item) (item, error) {
	out, err := r.client.GetItem(ctx, &dynamodb.GetItemInput{TableName: aws.String(table), Key: key, ConsistentRead: aws.Bool(true)})
	if err != nil {
		return nil, err
	}
	return out.Item, nil
}
