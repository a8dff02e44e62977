package dynamo

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"usher/engine"
)

// The attributes of a dead letter, beside those that a record has as well.
const (
	attrKey         = "key"
	attrPlace       = "place" // DeadAt and key, so that listings are in their order
	attrLevel       = "level"
	attrDetail      = "detail"
	attrFingerprint = "fingerprint"
	attrHandler     = "handler"
	attrFirstFailed = "firstFailedAt"
	attrQueue       = "queue"
	attrOrigin      = "origin"
	attrDeadAt      = "deadAt"
	attrSize        = "size"
	attrStays       = "stays"
	attrRedrives    = "redrives"
	attrChangedAt   = "changedAt"
	letterPrefix    = "letter/"
)

// maxPart is how much of a content one item has: DynamoDB takes 400 KB (400,000 bytes
// or more, with the names of attributes).
const maxPart = 350_000

func letterItem(l engine.DeadLetter) item {
	it := item{
		attrKey: text(l.Key), attrShelf: text(engine.BucketOf(l.Key)), attrPlace: text(letterPlace(l.DeadAt, l.Key)),
		attrHop: number(int64(l.Hop)),
	}
	for name, value := range map[string]string{
		attrID: l.ID, attrType: l.Type, attrReason: l.Why.Reason, attrDetail: l.Why.Detail, attrFingerprint: l.Why.Fingerprint,
		attrHandler: l.Why.Handler, attrQueue: l.Queue, attrOrigin: l.Origin, attrState: string(l.State),
	} {
		set(it, name, value)
	}
	for name, n := range map[string]int64{
		attrLevel: int64(l.Level), attrAttempts: int64(l.Why.Attempts), attrRounds: int64(l.Why.Redeliveries), attrSize: int64(l.Size),
		attrRedrives: int64(l.Redrives), attrFirstFailed: toMillis(l.Why.FirstFailedAt), attrDeadAt: toMillis(l.DeadAt),
		attrChangedAt: toMillis(l.ChangedAt), attrExpires: toMillis(l.ExpiresAt), attrTTL: ttlOf(l.ExpiresAt),
	} {
		count(it, name, n)
	}
	if l.Stays {
		it[attrStays] = &types.AttributeValueMemberBOOL{Value: true}
	}
	return it
}

func letterOf(it item) engine.DeadLetter {
	f := fields(it)
	return engine.DeadLetter{
		Key: f.text(attrKey), ID: f.text(attrID), Type: f.text(attrType), Level: f.count(attrLevel), Hop: f.count(attrHop),
		Why: engine.Failure{
			Reason: f.text(attrReason), Detail: f.text(attrDetail), Fingerprint: f.text(attrFingerprint), Attempts: f.count(attrAttempts),
			Redeliveries: f.count(attrRounds), Handler: f.text(attrHandler), FirstFailedAt: f.time(attrFirstFailed),
		},
		Queue: f.text(attrQueue), Origin: f.text(attrOrigin), DeadAt: f.time(attrDeadAt), Size: f.count(attrSize), Stays: f.yes(attrStays),
		Redrives: f.count(attrRedrives), State: engine.LetterState(f.text(attrState)), ChangedAt: f.time(attrChangedAt), ExpiresAt: f.time(attrExpires),
	}
}

func forgotten(l engine.DeadLetter, now time.Time) bool {
	return l.Key == "" || !l.ExpiresAt.IsZero() && !l.ExpiresAt.After(now)
}

// letterPlace sorts as text by time, then key.
func letterPlace(at time.Time, key string) string {
	return fmt.Sprintf("%015d#%s", max(toMillis(at), 0), key)
}

// Put keeps a dead letter, unless one of its key is there: its content first, so that
// a letter that is listed has one.
func (r *Records) Put(ctx context.Context, l engine.DeadLetter, c engine.Content) (engine.DeadLetter, bool, error) {
	ctx, end, err := r.begin(ctx)
	if err != nil {
		return engine.DeadLetter{}, false, err
	}
	defer end()
	if old, err := r.letter(ctx, l.Key); !errors.Is(err, engine.ErrNotFound) {
		return old, false, err
	}
	l.State, l.ExpiresAt = engine.LetterKept, time.Time{}
	if !l.Stays {
		if err := r.putContent(ctx, l.Key, c); err != nil {
			return engine.DeadLetter{}, false, err
		}
	}
	it := letterItem(l)
	nobody := condition{
		"attribute_not_exists(#key) OR #expires <= :now", map[string]string{"#key": attrKey, "#expires": attrExpires},
		item{":now": number(toMillis(time.Now()))},
	}
	there, added, err := r.putIf(ctx, r.names.Letters, it, attrKey, nobody)
	if err != nil {
		return engine.DeadLetter{}, false, r.explain(fmt.Sprintf("archive %q", l.ID), err)
	}
	if added {
		there = it
	}
	return letterOf(there), added, nil
}

func (r *Records) putContent(ctx context.Context, key string, c engine.Content) error {
	headers, err := json.Marshal(c.Headers)
	if err != nil {
		return fmt.Errorf("dynamo: archive %s: %w", key, err)
	}
	for i, rest := 0, slices.Concat(headers, c.Body); i == 0 || len(rest) > 0; i++ {
		part := rest[:min(len(rest), maxPart)]
		rest = rest[len(part):]
		it := item{attrID: text(key), attrPart: text(fmt.Sprintf("%s%06d", letterPrefix, i)), attrBody: binary(part)}
		if i == 0 {
			it[attrHeaders] = number(int64(len(headers))) // how much of the whole they are
		}
		if _, err := r.client.PutItem(ctx, &dynamodb.PutItemInput{TableName: aws.String(r.names.Bodies), Item: it}); err != nil {
			return r.explain("archive the content of "+key, err)
		}
	}
	return nil
}

// contentParts reads the items of a content, in order.
func (r *Records) contentParts(ctx context.Context, key string) ([]item, error) {
	in := &dynamodb.QueryInput{
		TableName: aws.String(r.names.Bodies), ConsistentRead: aws.Bool(true),
		KeyConditionExpression:    aws.String("#id = :id AND begins_with(#part, :letter)"),
		ExpressionAttributeNames:  map[string]string{"#id": attrID, "#part": attrPart},
		ExpressionAttributeValues: item{":id": text(key), ":letter": text(letterPrefix)},
	}
	var parts []item
	for {
		out, err := r.client.Query(ctx, in)
		if err != nil {
			return nil, r.explain("read the content of "+key, err)
		}
		parts = append(parts, out.Items...)
		if in.ExclusiveStartKey = out.LastEvaluatedKey; len(in.ExclusiveStartKey) == 0 {
			return parts, nil
		}
	}
}

// letter reads one, never stale.
func (r *Records) letter(ctx context.Context, key string) (engine.DeadLetter, error) {
	it, err := r.get(ctx, r.names.Letters, item{attrKey: text(key)})
	if err != nil {
		return engine.DeadLetter{}, r.explain("read the dead letter "+key, err)
	}
	l := letterOf(it)
	if forgotten(l, time.Now()) {
		return engine.DeadLetter{}, engine.ErrNotFound
	}
	return l, nil
}

// Letter reads one with its content.
func (r *Records) Letter(ctx context.Context, key string) (engine.DeadLetter, engine.Content, error) {
	ctx, end, err := r.begin(ctx)
	if err != nil {
		return engine.DeadLetter{}, engine.Content{}, err
	}
	defer end()
	l, err := r.letter(ctx, key)
	if err != nil || l.Stays || l.State == engine.LetterDropped {
		return l, engine.Content{}, err
	}
	parts, err := r.contentParts(ctx, key)
	if err != nil {
		return l, engine.Content{}, err
	}
	var whole []byte
	headers := 0
	for _, part := range parts {
		f := fields(part)
		whole = append(whole, f.binary(attrBody)...)
		headers += f.count(attrHeaders)
	}
	if len(whole) < headers {
		return l, engine.Content{}, fmt.Errorf("dynamo: the content of %s is not whole", key)
	}
	c := engine.Content{Body: whole[headers:]}
	if headers > 0 {
		if err := json.Unmarshal(whole[:headers], &c.Headers); err != nil {
			return l, c, fmt.Errorf("dynamo: the content of %s has headers that are no JSON: %w", key, err)
		}
	}
	return l, c, nil
}

// Settle ends the care for a letter that is kept.
func (r *Records) Settle(ctx context.Context, c engine.LetterChange) (engine.DeadLetter, error) {
	ctx, end, err := r.begin(ctx)
	if err != nil {
		return engine.DeadLetter{}, err
	}
	defer end()
	old, err := r.letter(ctx, c.Key)
	if err != nil {
		return engine.DeadLetter{}, err
	}
	if !c.Allowed(old) {
		return old, engine.ErrGuarded
	}
	it := letterItem(c.Apply(old))
	there, ok, err := r.putIf(ctx, r.names.Letters, it, attrKey, is(attrState, text(string(engine.LetterKept))))
	if err != nil {
		return engine.DeadLetter{}, r.explain("settle the dead letter "+c.Key, err)
	}
	if !ok {
		return letterOf(there), engine.ErrGuarded
	}
	l := letterOf(it)
	return l, r.endContent(ctx, l)
}

// endContent forgets the content of a letter that was dropped, and has the store
// forget that of one that was redriven when the letter is.
func (r *Records) endContent(ctx context.Context, l engine.DeadLetter) error {
	parts, err := r.contentParts(ctx, l.Key)
	if err != nil {
		return err
	}
	for _, part := range parts {
		key := item{attrID: part[attrID], attrPart: part[attrPart]}
		if l.State == engine.LetterDropped {
			_, err = r.client.DeleteItem(ctx, &dynamodb.DeleteItemInput{TableName: aws.String(r.names.Bodies), Key: key})
		} else {
			_, err = r.client.UpdateItem(ctx, &dynamodb.UpdateItemInput{
				TableName: aws.String(r.names.Bodies), Key: key, UpdateExpression: aws.String("SET #ttl = :ttl"),
				ExpressionAttributeNames: map[string]string{"#ttl": attrTTL}, ExpressionAttributeValues: item{":ttl": number(ttlOf(l.ExpiresAt))},
			})
		}
		if err != nil {
			return r.explain("forget the content of "+l.Key, err)
		}
	}
	return nil
}

// Letters lists letters, the youngest first: those of each shelf, merged.
func (r *Records) Letters(ctx context.Context, q engine.LetterQuery) ([]engine.DeadLetter, error) {
	ctx, end, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if q.Limit <= 0 {
		return nil, nil
	}
	from, until := letterPlace(q.Since, ""), "~"
	if !q.Until.IsZero() {
		until = letterPlace(q.Until, "")
	}
	if q.After != (engine.LetterPlace{}) {
		until = min(until, letterPlace(q.After.DeadAt, q.After.Key))
	}
	now := time.Now()
	var all []engine.DeadLetter
	for i := range engine.Buckets {
		found := 0
		err := r.letterShelf(ctx, strconv.Itoa(i), from, until, func(l engine.DeadLetter) bool {
			after := q.After == engine.LetterPlace{} || letterPlace(l.DeadAt, l.Key) < letterPlace(q.After.DeadAt, q.After.Key)
			if after && q.Matches(l) && !forgotten(l, now) {
				all, found = append(all, l), found+1
			}
			return found < q.Limit
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(all, func(a, b engine.DeadLetter) int {
		return cmp.Or(b.DeadAt.Compare(a.DeadAt), strings.Compare(b.Key, a.Key))
	})
	return all[:min(len(all), q.Limit)], nil
}

// letterShelf reads the letters of a shelf, the youngest first, until each has had
// enough.
func (r *Records) letterShelf(ctx context.Context, shelf, from, until string, each func(engine.DeadLetter) bool) error {
	if from > until {
		return nil
	}
	in := &dynamodb.QueryInput{
		TableName: aws.String(r.names.Letters), IndexName: aws.String(indexListed), ScanIndexForward: aws.Bool(false),
		KeyConditionExpression:    aws.String("#s = :s AND #p BETWEEN :from AND :until"),
		ExpressionAttributeNames:  map[string]string{"#s": attrShelf, "#p": attrPlace},
		ExpressionAttributeValues: item{":s": text(shelf), ":from": text(from), ":until": text(until)},
	}
	for {
		out, err := r.client.Query(ctx, in)
		if err != nil {
			return r.explain("list dead letters", err)
		}
		for _, it := range out.Items {
			if !each(letterOf(it)) {
				return nil
			}
		}
		if in.ExclusiveStartKey = out.LastEvaluatedKey; len(in.ExclusiveStartKey) == 0 {
			return nil
		}
	}
}

// Tally counts what is kept, by reason. It reads the whole index.
func (r *Records) Tally(ctx context.Context) ([]engine.Tally, error) {
	ctx, end, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	counts := map[string]engine.Tally{}
	now := time.Now()
	for i := range engine.Buckets {
		err := r.letterShelf(ctx, strconv.Itoa(i), letterPlace(time.Time{}, ""), "~", func(l engine.DeadLetter) bool {
			if l.State != engine.LetterKept || forgotten(l, now) {
				return true
			}
			t := engine.Tally{Reason: l.Why.Reason, Count: counts[l.Why.Reason].Count + 1, Oldest: l.DeadAt} // the youngest come first
			if before := counts[l.Why.Reason]; before.Count > 0 && before.Oldest.Before(t.Oldest) {
				t.Oldest = before.Oldest
			}
			counts[l.Why.Reason] = t
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	all := make([]engine.Tally, 0, len(counts))
	for _, t := range counts {
		all = append(all, t)
	}
	return all, nil
}
