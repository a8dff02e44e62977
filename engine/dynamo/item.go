package dynamo

import (
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"usher/engine"
)

// item is what DynamoDB keeps: attributes by their names. What is zero is absent.
type item = map[string]types.AttributeValue

// The attributes of a record. Operators see them.
const (
	attrID       = "id"
	attrType     = "type"
	attrDigest   = "digest"
	attrPriority = "priority"
	attrState    = "state"
	attrHop      = "hop"
	attrDue      = "processingTimestamp"
	attrDueBy    = "dueBy"
	attrGatedAt  = "gatedAt"
	attrBucket   = "bucket"
	attrAttempts = "attempts"
	attrRounds   = "redeliveries"
	attrCrashes  = "crashes"
	attrDeaths   = "deaths"
	attrClaim    = "claim" // token
	attrClaimOf  = "claimBrokerId"
	attrClaimEnd = "claimUntil"
	attrAlone    = "claimAlone"
	attrClaims   = "claims"
	attrToken    = "token"
	attrReason   = "reason"
	attrWatchers = "watchers"
	attrUpdated  = "updatedAt"
	attrExpires  = "expiresAt"
	attrTTL      = "ttl"   // expiresAt in seconds, rounded up, for DynamoDB
	attrNonce    = "nonce" // of the last write
	attrShelf    = "shelf" // of the index "waiting"
	attrConn     = "connection"
	attrUntil    = "until"
)

func text(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }
func number(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}
func binary(b []byte) types.AttributeValue { return &types.AttributeValueMemberB{Value: b} }

// set and count add an attribute that is not zero.
func set(it item, name, value string) {
	if value != "" {
		it[name] = text(value)
	}
}

func count(it item, name string, n int64) {
	if n != 0 {
		it[name] = number(n)
	}
}

// itemOf is a record as an item, without its nonce.
func itemOf(r engine.Record) item {
	it := item{attrID: text(r.ID), attrState: text(string(r.State))}
	for name, value := range map[string]string{
		attrType: r.Type, attrDigest: r.Digest, attrDueBy: string(r.DueBy), attrBucket: r.Bucket,
		attrClaim: r.Claim.Token, attrClaimOf: r.Claim.BrokerID, attrToken: r.Token, attrReason: r.Reason,
		attrShelf: shelfOf(r),
	} {
		set(it, name, value)
	}
	for name, n := range map[string]int64{
		attrDue: toMillis(r.Due), attrGatedAt: toMillis(r.GatedAt), attrClaimEnd: toMillis(r.Claim.Until),
		attrUpdated: toMillis(r.UpdatedAt), attrExpires: toMillis(r.ExpiresAt), attrTTL: ttlOf(r.ExpiresAt),
		attrAttempts: int64(r.Attempts), attrRounds: int64(r.Redeliveries), attrCrashes: int64(r.Crashes),
		attrDeaths: int64(r.Deaths), attrClaims: int64(r.Claims),
	} {
		count(it, name, n)
	}
	it[attrHop] = number(int64(r.Hop)) // conditions compare it
	if r.Digest != "" || r.Priority != 0 {
		it[attrPriority] = number(int64(r.Priority))
	}
	if r.Claim.Alone {
		it[attrAlone] = &types.AttributeValueMemberBOOL{Value: true}
	}
	if shelfOf(r) != "" {
		it[attrDue] = number(toMillis(r.Due)) // the shelf is sorted by it
	}
	if len(r.Watchers) > 0 {
		all := make([]types.AttributeValue, len(r.Watchers))
		for i, w := range r.Watchers {
			all[i] = &types.AttributeValueMemberM{Value: item{attrConn: text(w.Connection), attrUntil: number(toMillis(w.Until))}}
		}
		it[attrWatchers] = &types.AttributeValueMemberL{Value: all}
	}
	return it
}

// recordOf reads an item, with the watchers whose time is not over. An operator may
// have edited it by hand: an attribute of another kind than usher's is as absent, so
// that it holds up nobody's message.
func recordOf(it item, now time.Time) engine.Record {
	f := fields(it)
	r := engine.Record{
		ID: f.text(attrID), Type: f.text(attrType), Digest: f.text(attrDigest), Priority: f.count(attrPriority),
		State: engine.State(f.text(attrState)), Hop: f.count(attrHop),
		Due: f.time(attrDue), DueBy: engine.DueBy(f.text(attrDueBy)), GatedAt: f.time(attrGatedAt), Bucket: f.text(attrBucket),
		Attempts: f.count(attrAttempts), Redeliveries: f.count(attrRounds), Crashes: f.count(attrCrashes), Deaths: f.count(attrDeaths),
		Claim: engine.ClaimMark{
			Token: f.text(attrClaim), BrokerID: f.text(attrClaimOf), Until: f.time(attrClaimEnd), Alone: f.yes(attrAlone),
		},
		Claims: f.count(attrClaims), Token: f.text(attrToken), Reason: f.text(attrReason),
		UpdatedAt: f.time(attrUpdated), ExpiresAt: f.time(attrExpires),
	}
	for _, w := range f.list(attrWatchers) {
		if until := w.time(attrUntil); until.After(now) {
			r.Watchers = append(r.Watchers, engine.Watcher{Connection: w.text(attrConn), Until: until})
		}
	}
	if r.State == "" && r.ID != "" { // an operator's own item: an id and a time is all that he has to write
		r.State = engine.Queued
		if !r.Due.IsZero() && r.DueBy == engine.ByNone {
			r.DueBy = engine.ByOperator
		}
	}
	return r
}

// expired says whether the store may have forgotten the record.
func expired(r engine.Record, now time.Time) bool {
	return !r.ExpiresAt.IsZero() && !r.ExpiresAt.After(now)
}

// fields reads attributes. One that is absent, or of another kind, is zero.
type fields item

func (f fields) text(name string) string {
	v, _ := f[name].(*types.AttributeValueMemberS)
	if v == nil {
		return ""
	}
	return v.Value
}

func (f fields) number(name string) int64 {
	v, _ := f[name].(*types.AttributeValueMemberN)
	if v == nil {
		return 0
	}
	n, err := strconv.ParseFloat(v.Value, 64) // whole up to 2^53, and somebody may have written a fraction
	if err != nil {
		return 0
	}
	return int64(n)
}

func (f fields) count(name string) int      { return int(f.number(name)) }
func (f fields) time(name string) time.Time { return fromMillis(f.number(name)) }

func (f fields) yes(name string) bool {
	v, _ := f[name].(*types.AttributeValueMemberBOOL)
	return v != nil && v.Value
}

func (f fields) binary(name string) []byte {
	v, _ := f[name].(*types.AttributeValueMemberB)
	if v == nil {
		return nil
	}
	return v.Value
}

// list gives the maps of a list.
func (f fields) list(name string) []fields {
	v, _ := f[name].(*types.AttributeValueMemberL)
	if v == nil {
		return nil
	}
	all := make([]fields, 0, len(v.Value))
	for _, e := range v.Value {
		if m, is := e.(*types.AttributeValueMemberM); is {
			all = append(all, m.Value)
		}
	}
	return all
}

// in gives a map.
func (f fields) in(name string) fields {
	v, _ := f[name].(*types.AttributeValueMemberM)
	if v == nil {
		return nil
	}
	return v.Value
}

func (f fields) texts(name string) map[string]string {
	in := f.in(name)
	all := make(map[string]string, len(in))
	for key := range in {
		all[key] = in.text(key)
	}
	return all
}

func (f fields) times(name string) map[string]time.Time {
	in := f.in(name)
	all := make(map[string]time.Time, len(in))
	for key := range in {
		all[key] = in.time(key)
	}
	return all
}

func textsOf(m map[string]string) types.AttributeValue {
	all := make(item, len(m))
	for key, value := range m {
		all[key] = text(value)
	}
	return &types.AttributeValueMemberM{Value: all}
}

func toMillis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// ttlOf is a time as DynamoDB takes it: not before it, in seconds.
func ttlOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Add(time.Second - time.Millisecond).Unix()
}
