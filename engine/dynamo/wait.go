package dynamo

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"usher/engine"
)

// DueIn lists the parked records of a bucket that are due by this machine's clock;
// the index lags.
func (r *Records) DueIn(ctx context.Context, bucket string, limit int) ([]engine.Record, error) {
	ctx, end, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if bucket == "" || limit <= 0 {
		return nil, nil
	}
	now := time.Now()
	var due []engine.Record
	err = r.shelf(ctx, bucket, 0, toMillis(now), limit, func(rec engine.Record) bool {
		if rec.Bucket == bucket && !expired(rec, now) { // what waits in the broker is on the shelf as well
			due = append(due, rec)
		}
		return len(due) < limit
	})
	slices.SortFunc(due, byPlace)
	return due, err
}

// Waiting lists the delayed and the retrying records by the time they are due: the
// first of each shelf, merged.
func (r *Records) Waiting(ctx context.Context, q engine.Waits) ([]engine.Record, error) {
	ctx, end, err := r.begin(ctx)
	if err != nil || q.Limit <= 0 {
		if err == nil {
			end()
		}
		return nil, err
	}
	defer end()
	shelves, err := r.heldShelves(ctx)
	if err != nil {
		return nil, err
	}
	for i := range engine.Buckets {
		shelves = append(shelves, strconv.Itoa(i))
	}
	until := lastPlace
	if !q.Before.IsZero() {
		until = toMillis(q.Before) - 1
	}
	byID := map[string]engine.Record{} // one that was moved meanwhile may be on two shelves
	for _, name := range shelves {
		found, err := r.waitingOn(ctx, name, until, q)
		if err != nil {
			return nil, err
		}
		for _, rec := range found {
			if old, twice := byID[rec.ID]; !twice || rec.UpdatedAt.After(old.UpdatedAt) {
				byID[rec.ID] = rec
			}
		}
	}
	all := slices.SortedFunc(maps.Values(byID), byPlace)
	return all[:min(len(all), q.Limit)], nil
}

// lastPlace is after every time that DynamoDB sorts exactly.
const lastPlace = int64(1) << 53

// waitingOn lists one shelf, up to the end of the time at which there are enough:
// what is due at the same time is in no order there.
func (r *Records) waitingOn(ctx context.Context, shelf string, until int64, q engine.Waits) ([]engine.Record, error) {
	now := time.Now()
	var found []engine.Record
	err := r.shelf(ctx, shelf, toMillis(q.After.Due), until, q.Limit, func(rec engine.Record) bool {
		if len(found) >= q.Limit && rec.Due.After(found[len(found)-1].Due) {
			return false
		}
		if asksFor(q, rec) && !expired(rec, now) {
			found = append(found, rec)
		}
		return true
	})
	return found, err
}

// asksFor says whether a listing has the record.
func asksFor(q engine.Waits, r engine.Record) bool {
	after := cmp.Or(r.Due.Compare(q.After.Due), strings.Compare(r.ID, q.After.ID)) > 0
	return after && (r.State == engine.Delayed || r.State == engine.Retrying) &&
		(q.Type == "" || r.Type == q.Type) && (q.Level == nil || r.Priority == *q.Level) && (q.Before.IsZero() || r.Due.Before(q.Before))
}

func byPlace(a, b engine.Record) int {
	return cmp.Or(a.Due.Compare(b.Due), strings.Compare(a.ID, b.ID))
}

// shelf reads a shelf of the index by processingTimestamp, from and until included,
// page by page until each has had enough.
func (r *Records) shelf(ctx context.Context, name string, from, until int64, page int, each func(engine.Record) bool) error {
	in := &dynamodb.QueryInput{
		TableName: aws.String(r.names.Records), IndexName: aws.String(indexWaiting),
		KeyConditionExpression:    aws.String("#s = :s AND #p BETWEEN :from AND :until"),
		ExpressionAttributeNames:  map[string]string{"#s": attrShelf, "#p": attrDue},
		ExpressionAttributeValues: item{":s": text(name), ":from": number(from), ":until": number(until)},
		Limit:                     aws.Int32(int32(min(max(page, 1), 1000)) + 1),
	}
	if from > until {
		return nil
	}
	for {
		out, err := r.client.Query(ctx, in)
		if err != nil {
			return r.explain("list what waits on shelf "+name, err)
		}
		now := time.Now()
		for _, it := range out.Items {
			if !each(recordOf(it, now)) {
				return nil
			}
		}
		if in.ExclusiveStartKey = out.LastEvaluatedKey; len(in.ExclusiveStartKey) == 0 {
			return nil
		}
	}
}

// shelvesID is the item that names the shelves of held types: nobody's message, for
// an id is ASCII.
const shelvesID, attrNames = "§ shelves", "names"

// noteShelf notes the shelf of a held type, so that listings find it. It is asked
// for once a process.
func (r *Records) noteShelf(ctx context.Context, bucket string) error {
	if !(engine.Record{Bucket: bucket}).Held() {
		return nil
	}
	r.mu.Lock()
	known := r.shelves[bucket]
	r.mu.Unlock()
	if known {
		return nil
	}
	_, err := r.client.UpdateItem(ctx, &dynamodb.UpdateItemInput{
		TableName: aws.String(r.names.Records), Key: item{attrID: text(shelvesID)},
		UpdateExpression:          aws.String("ADD #names :one"),
		ExpressionAttributeNames:  map[string]string{"#names": attrNames},
		ExpressionAttributeValues: item{":one": &types.AttributeValueMemberSS{Value: []string{bucket}}},
	})
	if err != nil {
		return r.explain("note the shelf "+bucket, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shelves[bucket] = true
	return nil
}

func (r *Records) heldShelves(ctx context.Context) ([]string, error) {
	it, err := r.get(ctx, r.names.Records, item{attrID: text(shelvesID)})
	if err != nil {
		return nil, r.explain("read the shelves of held types", err)
	}
	names, ok := it[attrNames].(*types.AttributeValueMemberSS)
	if !ok {
		return nil, nil
	}
	return slices.Clone(names.Value), nil
}

// The documents: one item each, nobody's message either.
const (
	leasesID    = "§ leases"
	holdsID     = "§ holds"
	attrVersion = "version"
	attrOwners  = "owners"
	attrHeld    = "held"
	attrPaused  = "paused"
	attrRemoved = "removed"
)

// Leases reads who releases which bucket.
func (r *Records) Leases(ctx context.Context) (engine.Leases, error) {
	f, err := r.document(ctx, leasesID)
	if err != nil || len(f) == 0 {
		return engine.Leases{}, err
	}
	return engine.Leases{Version: f.count(attrVersion), Owners: f.times(attrOwners), Held: f.texts(attrHeld)}, nil
}

// SetLeases replaces the leases if nobody else did.
func (r *Records) SetLeases(ctx context.Context, l engine.Leases) error {
	return r.setDocument(ctx, leasesID, l.Version, item{attrOwners: timesOf(l.Owners), attrHeld: textsOf(l.Held)})
}

// Holds reads which types are held.
func (r *Records) Holds(ctx context.Context) (engine.Holds, error) {
	f, err := r.document(ctx, holdsID)
	if err != nil || len(f) == 0 {
		return engine.Holds{}, err
	}
	h := engine.Holds{Version: f.count(attrVersion), Types: map[string]engine.Hold{}}
	for typ, at := range f.times(attrPaused) {
		h.Types[typ] = engine.Hold{Paused: at}
	}
	for typ, at := range f.times(attrRemoved) {
		hold := h.Types[typ]
		hold.Removed = at
		h.Types[typ] = hold
	}
	return h, nil
}

// SetHolds replaces the holds if nobody else did.
func (r *Records) SetHolds(ctx context.Context, h engine.Holds) error {
	paused, removed := map[string]time.Time{}, map[string]time.Time{}
	for typ, hold := range h.Types {
		if !hold.Paused.IsZero() {
			paused[typ] = hold.Paused
		}
		if !hold.Removed.IsZero() {
			removed[typ] = hold.Removed
		}
	}
	return r.setDocument(ctx, holdsID, h.Version, item{attrPaused: timesOf(paused), attrRemoved: timesOf(removed)})
}

func (r *Records) document(ctx context.Context, id string) (fields, error) {
	ctx, end, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	it, err := r.get(ctx, r.names.Records, item{attrID: text(id)})
	return fields(it), r.explain(fmt.Sprintf("read %q", id), err)
}

// setDocument replaces a document, if it has the version still.
func (r *Records) setDocument(ctx context.Context, id string, version int, it item) error {
	ctx, end, err := r.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	it[attrID], it[attrVersion] = text(id), number(int64(version)+1)
	unchanged := is(attrVersion, number(int64(version)))
	if version == 0 {
		unchanged = absent(attrVersion)
	}
	_, ok, err := r.putIf(ctx, r.names.Records, it, attrID, unchanged)
	if err != nil {
		return r.explain(fmt.Sprintf("write %q", id), err)
	}
	if !ok {
		return engine.ErrGuarded
	}
	return nil
}

func timesOf(m map[string]time.Time) types.AttributeValue {
	all := make(item, len(m))
	for key, t := range m {
		all[key] = number(toMillis(t))
	}
	return &types.AttributeValueMemberM{Value: all}
}
