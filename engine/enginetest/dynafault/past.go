package dynafault

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// document is a JSON object.
type document = map[string]any

// in is an object in an object; nil if it is none.
func in(of document, name string) document {
	inner, _ := of[name].(document)
	return inner
}

// past is what items were before they were written lately, by table and key.
type past map[string][]before

// before is an item until a write of a time; nil if there was none.
type before struct {
	table, key string
	item       document
	written    time.Time
}

// at is what a reader who lags sees of an item: what it was before the first write
// that is too young for him. It is false if there is no such write.
func (p past) at(table, key string, now time.Time, lag time.Duration) (document, bool) {
	for _, b := range p[table+"\x00"+key] {
		if now.Sub(b.written) < lag {
			return b.item, true
		}
	}
	return nil, false
}

// kept is how long a past is remembered.
const kept = time.Minute

// remember reads an item before it is written.
func (p *Proxy) remember(r *http.Request, operation string, request document) error {
	table, _ := request["TableName"].(string)
	key := keyOf(operation, request)
	body, err := json.Marshal(document{"TableName": table, "Key": key, "ConsistentRead": true})
	if err != nil {
		return err
	}
	_, text, err := p.pass(r, "GetItem", body)
	if err != nil {
		return err
	}
	var answer document
	if err := json.Unmarshal(text, &answer); err != nil {
		return err
	}
	b := before{table: table, key: keyText(key), written: time.Now()}
	b.item, _ = answer["Item"].(document)
	p.mu.Lock()
	defer p.mu.Unlock()
	all := slices.DeleteFunc(p.past[table+"\x00"+b.key], func(b before) bool { return time.Since(b.written) > kept })
	p.past[table+"\x00"+b.key] = append(all, b)
	return nil
}

// stale answers a batch as it was a while ago.
func (p *Proxy) stale(request, answer document, lag time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for table, of := range in(request, "RequestItems") {
		asked, _ := of.(document)
		keys, _ := asked["Keys"].([]any)
		items, _ := in(answer, "Responses")[table].([]any)
		for _, k := range keys {
			key, _ := k.(document)
			old, is := p.past.at(table, keyText(key), now, lag)
			if !is {
				continue
			}
			items = slices.DeleteFunc(items, func(i any) bool {
				have, _ := i.(document)
				return keyText(document{"id": have["id"]}) == keyText(key)
			})
			if old != nil {
				items = append(items, old)
			}
		}
		in(answer, "Responses")[table] = items
	}
}

// lagging answers a query of the index of what waits as it was a while ago.
func (p *Proxy) lagging(request document, text []byte, lag time.Duration) ([]byte, error) {
	var answer document
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, err
	}
	table, _ := request["TableName"].(string)
	values := in(request, "ExpressionAttributeValues")
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	items, _ := answer["Items"].([]any)
	items = slices.DeleteFunc(items, func(i any) bool {
		have, _ := i.(document)
		_, is := p.past.at(table, keyText(document{"id": have["id"]}), now, lag)
		return is
	})
	for _, all := range p.past {
		if len(all) == 0 || all[0].table != table || request["ExclusiveStartKey"] != nil { // what was is on the first page
			continue
		}
		old, is := p.past.at(table, all[0].key, now, lag)
		if is && old != nil && value(old, "shelf", "S") == value(values, ":s", "S") &&
			whole(old, "processingTimestamp") >= whole(values, ":from") && whole(old, "processingTimestamp") <= whole(values, ":until") {
			items = append(items, old)
		}
	}
	slices.SortStableFunc(items, func(a, b any) int {
		x, _ := a.(document)
		y, _ := b.(document)
		return int(whole(x, "processingTimestamp") - whole(y, "processingTimestamp"))
	})
	answer["Items"], answer["Count"] = items, len(items)
	return json.Marshal(answer)
}

// keyOf is the key of the item that a request names.
func keyOf(operation string, request document) document {
	if operation != "PutItem" {
		return in(request, "Key")
	}
	key := document{}
	for _, name := range []string{"id", "key", "part"} {
		if k, is := in(request, "Item")[name]; is {
			key[name] = k
		}
	}
	return key
}

// keyText names an item.
func keyText(key document) string {
	return value(key, "id", "S") + value(key, "key", "S") + "\x00" + value(key, "part", "S")
}

// value is an attribute of a kind, as DynamoDB writes it in JSON.
func value(of document, name, kind string) string {
	attribute, _ := of[name].(document)
	text, _ := attribute[kind].(string)
	return text
}

func whole(of document, name string) int64 {
	n, err := strconv.ParseInt(value(of, name, "N"), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
