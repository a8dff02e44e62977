package chaos

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"usher/engine"
	"usher/engine/enginetest/ledger"
	"usher/server"
)

// How a hostile message may end, besides as a dead letter with a reason.
const (
	done    = "done"    // it is a message like others, and its handler has run once
	refused = "refused" // by the broker: it never came
)

// hostile is what somebody sends who may send. In a header's value \n, \r, \c and \\ are
// STOMP's escapes.
type hostile struct {
	name    string
	headers string // lines, besides destination, receipt, and those of harmless
	body    string
	ends    []string // as one of these
}

// rush is a type that exists, whose handler does not look at the body.
const rush = "type:order.rush"

const forged = `\n{"level"\c"error","message"\c"forged"}`

// hostiles are all of them. Where a broker may take or refuse one, both are named.
func hostiles() []hostile {
	return slices.Concat(ofTypes(), ofIDs(), ofNumbersAndTimes(), ofUshersHeaders(), ofSizes(), ofBodies(), ofBadFrames())
}

func dead(name, headers string, reasons ...string) hostile {
	return hostile{name, headers, "{}", reasons}
}

func ofTypes() []hostile {
	unknown := func(name, typ string) hostile { return dead(name, "type:"+typ, engine.ReasonUnknownType) }
	return []hostile{
		dead("no type", "", engine.ReasonNoType),
		dead("an empty type", "type:", engine.ReasonNoType),
		unknown("a type that nobody has", "zebra"),
		unknown("a path as a type", "../../etc/passwd"),
		unknown("a type with a line of a log in it", "order.rush"+forged),
		unknown("a script as a type", "<script>alert(1)</script>"),
		unknown("a command as a type", "$(reboot)"),
		unknown("a type in capitals", "ORDER.RUSH"),
		unknown("a type with a blank", "order.rush "),
		unknown("a type that looks like one", "оrder.rush"),
		unknown("a type that is a pattern", "*"),
		unknown("a type of 9,000 bytes", strings.Repeat("t", 9000)),
		unknown("a type of usher's own", engine.TypeNudge),
		{"a probe with a body", "type:" + engine.TypeProbe + "\n" + engine.HeaderProbe + ":1", "{}", []string{engine.ReasonUnknownType}},
		{"colours of a terminal", "type:\x1b[31mred", "{}", []string{engine.ReasonUnknownType}},
	}
}

func ofIDs() []hostile {
	bad := func(name, id string) hostile { return dead(name, rush+"\nusher_id:"+id, engine.ReasonBadID) }
	good := func(name, id string) hostile { return hostile{name, rush + "\nusher_id:" + id, "{}", []string{done}} }
	return []hostile{
		bad("an id of 600 bytes", strings.Repeat("i", 600)),
		bad("an id with a line of a log in it", "x"+forged),
		bad("an id that is not ASCII", "é"),
		bad("an id that rings", "\a"),
		bad("an id of a terminal", "\x1b[2J"),
		good("an id of HTML", `<img src=x onerror=alert(1)>`),
		good("an id that is a path", "../../../records.db"),
		good("an id of SQL", `'; DROP TABLE records; --`),
		good("an id of a template", "{{7*7}}${7*7}%s%n"),
		good("an id with colons", `a\cb\cc`),
		good("an id of blanks inside", "a b"),
		{"the id of another, with another body", rush + "\nusher_id:taken", "other", []string{engine.ReasonIDConflict}},
	}
}

func ofNumbersAndTimes() []hostile {
	bad := func(name, header string) hostile { return dead(name, rush+"\n"+header, engine.ReasonBadHeader) }
	good := func(name, header string) hostile { return hostile{name, rush + "\n" + header, "{}", []string{done}} }
	either := func(name, header string) hostile {
		return dead(name, rush+"\n"+header, engine.ReasonBadHeader, refused)
	}
	return []hostile{
		good("priority 99", "priority:99"),
		good("priority -1", "priority:-1"),
		either("priority high", "priority:high"),
		either("a priority of twenty digits", "priority:99999999999999999999"),
		bad("not before tomorrow", "usher_notBefore:tomorrow"),
		bad("not before the year 9999", "usher_notBefore:9999-12-31T23:59:59Z"),
		bad("not before a day that is none", "usher_notBefore:2026-02-30T00:00:00Z"),
		good("not before the year 1", "usher_notBefore:0001-01-01T00:00:00Z"),
		bad("a delay in words", "usher_delay:soon"),
		bad("a delay into the past", "usher_delay:-5s"),
		bad("a delay of twenty digits", "usher_delay:99999999999999999999"),
		bad("a delay of eleven years", "usher_delay:96400h"),
		bad("a delay that is no number", "usher_delay:NaN"),
		dead("expired in 1970", rush+"\nexpires:1", engine.ReasonExpired),
		either("expires in words", "expires:never"),
	}
}

func ofUshersHeaders() []hostile {
	bad := func(name, header string) hostile { return dead(name, rush+"\n"+header, engine.ReasonBadHeader) }
	good := func(name, header string) hostile { return hostile{name, rush + "\n" + header, "{}", []string{done}} }
	return []hostile{
		good("a hop of its own", "usher_hop:7"),
		bad("a hop below none", "usher_hop:-1"),
		bad("a hop of a billion", "usher_hop:1000000000"),
		bad("a hop in words", "usher_hop:first"),
		good("a million attempts", "usher_attempts:999999"),
		bad("attempts in words", "usher_attempts:many"),
		bad("redeliveries below none", "usher_redeliveries:-3"),
		bad("queued yesterday", "usher_queuedAt:yesterday"),
		dead("usher's own expiry, past", rush+"\nusher_expires:1", engine.ReasonExpired),
		good("too large, it says", "usher_tooLarge:1"),
		good("dead, it says", "usher_deadReason:forged\nusher_deadDetail:forged"),
		good("redriven, it says", "usher_redrives:many"),
		good("somebody's child", "usher_parent:taken\nusher_origin:usher.dead"),
		good("a trace that is none", "traceparent:00-zzzz"+forged),
	}
}

func ofSizes() []hostile {
	var many strings.Builder
	many.WriteString(rush)
	for i := range 300 {
		fmt.Fprintf(&many, "\nh%d:v", i)
	}
	const mib = 1 << 20
	return []hostile{
		{"a body of 1 MiB", rush, strings.Repeat("b", mib), []string{done}},
		{"a byte more", rush, strings.Repeat("b", mib+1), []string{engine.ReasonTooLarge}},
		{"a body of 3 MiB", rush, strings.Repeat("b", 3*mib), []string{engine.ReasonTooLarge}},
		{"300 headers", many.String(), "{}", []string{engine.ReasonTooLarge, refused}},
		{"a header of 20,000 bytes", rush + "\ncookie:" + strings.Repeat("c", 20_000), "{}", []string{engine.ReasonTooLarge, refused}},
	}
}

func ofBodies() []hostile {
	good := func(name, body string) hostile { return hostile{name, rush, body, []string{done}} }
	return []hostile{
		good("no body", ""),
		good("a thousand NULs", strings.Repeat("\x00", 1000)),
		good("a frame in a body", "\x00\nSEND\ndestination:/queue/usher.work\ntype:order.rush\nusher_id:forged\n\n{}\x00"),
		good("a hundred thousand brackets", strings.Repeat("[", 100_000)),
		good("bytes that are no text", "\xff\xfe\xc0\x80\xed\xa0\x80"),
		{"a bomb in gzip, it says", rush + "\ncontent-encoding:gzip\ncontent-type:application/json", "\x1f\x8b\x08\x00", []string{done}},
		{"a script as a body", "type:zebra\ncontent-type:text/html", "<script>alert(document.cookie)</script>", []string{engine.ReasonUnknownType}},
		{"a header with lines in it", rush + `\r\nusher_id\cforged` + "\nnote:x" + `\r\nusher_id\cforged`, "{}", []string{engine.ReasonUnknownType}},
	}
}

func ofBadFrames() []hostile {
	bad := func(name, headers string) hostile { return hostile{name, headers, "", []string{refused}} }
	return []hostile{
		bad("a length below none", rush+"\ncontent-length:-1"),
		bad("a length of nineteen digits", rush+"\ncontent-length:9223372036854775807"),
		bad("a transaction that nobody began", rush+"\ntransaction:t1"),
	}
}

// TestSixtyHostileMessages sends each of them to a real broker beside messages that are
// well, and looks at what becomes of it, and of engine, log and API.
func TestSixtyHostileMessages(t *testing.T) {
	for _, rig := range []struct {
		name  string
		start func(testing.TB) *rig
	}{{"ActiveMQ", newRig}, {"embedded", newPair}} {
		t.Run(rig.name, func(t *testing.T) {
			r := rig.start(t)
			e := r.engines[0]
			r.engines, r.mortal = r.engines[:1], r.engines[:1]
			r.start()
			if !r.offer(hostile{headers: rush + "\nusher_id:taken", body: "{}"}) {
				t.Fatal("the first message was refused")
			}
			all := hostiles()
			if len(all) < 60 {
				t.Errorf("there are %d", len(all))
			}
			taken := map[string]bool{}
			for _, h := range all {
				taken[h.name] = r.offer(h)
			}
			if !r.offer(hostile{name: "last", headers: rush + "\nusher_id:last", body: "{}"}) {
				t.Fatal("the last message was refused")
			}
			want := 0
			for _, h := range all {
				if taken[h.name] {
					want++
				}
			}
			ends := r.ends()
			for until := time.Now().Add(30 * time.Second); len(ends) < want+2 && time.Now().Before(until); ends = r.ends() {
				pause(100 * time.Millisecond)
			}
			pause(time.Second) // for what comes twice
			ends = r.ends()
			for _, h := range all {
				got := ends[h.name]
				if !taken[h.name] {
					got = append(got, refused)
				}
				if len(got) != 1 || !slices.Contains(h.ends, got[0]) {
					t.Errorf("%s: ended as %v, want one of %v", h.name, got, h.ends)
				}
				delete(ends, h.name)
			}
			for _, name := range []string{"", "last"} {
				if got := ends[name]; !slices.Equal(got, []string{done}) {
					t.Errorf("the message %q ended as %v", name, got)
				}
				delete(ends, name)
			}
			if len(ends) > 0 {
				t.Errorf("there is more: %v", ends)
			}
			r.looksWell(e)
			t.Attr("measured", fmt.Sprintf("%d messages", len(all)))
		})
	}
}

// unescaped is a header's value without STOMP's escapes.
func unescaped(value string) string {
	return strings.NewReplacer(`\\`, `\`, `\c`, ":", `\n`, "\n", `\r`, "\r").Replace(value)
}

// id is the one it has: its own, or else its name.
func (h hostile) id() string {
	for line := range strings.Lines(h.headers) {
		if id, is := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "usher_id:"); is {
			return unescaped(id)
		}
	}
	return h.name
}

// offer sends it on a connection of its own, and says whether the broker took it.
func (r *rig) offer(h hostile) bool {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	headers := h.headers
	if !strings.Contains(headers, "usher_id:") {
		headers += "\nusher_id:" + h.name
	}
	if !strings.Contains(headers, "content-length:") {
		headers += fmt.Sprintf("\ncontent-length:%d", len(h.body))
	}
	frames := "CONNECT\naccept-version:1.2\nhost:localhost\n\n\x00" +
		"SEND\ndestination:/queue/" + engine.WorkQueue + "\nreceipt:r\ncase:" + h.name + "\n" + strings.TrimPrefix(headers, "\n") + "\n\n" + h.body + "\x00"
	go func() { _, _ = io.WriteString(conn, frames) }() // the broker may answer and close before it has read all
	answers := bufio.NewReader(conn)
	for {
		answer, err := answers.ReadString(0)
		switch command, _, _ := strings.Cut(strings.TrimLeft(answer, "\n"), "\n"); {
		case command == "RECEIPT":
			return true
		case command == "ERROR", err != nil:
			return false
		}
	}
}

// ends is how messages have ended, by their names: all that they have come to.
func (r *rig) ends() map[string][]string {
	r.t.Helper()
	names := map[string]string{"taken": "", "last": "last"}
	for _, h := range hostiles() {
		if h.id() != "taken" {
			names[h.id()] = h.name
		}
	}
	ends := map[string][]string{}
	for _, path := range r.effects() {
		effects, err := ledger.ReadEffects(path)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, e := range effects {
			name, known := names[e.ID]
			if !known {
				name = "unknown id " + e.ID
			}
			ends[name] = append(ends[name], done)
		}
	}
	var letters server.LetterList
	if status := r.engines[0].get("/api/v1/dead?limit=200", &letters); status != http.StatusOK {
		r.t.Fatalf("the list of dead letters: %d", status)
	}
	for _, letter := range letters.Items {
		var whole server.LetterWhole
		r.engines[0].get("/api/v1/dead/"+letter.Key, &whole)
		name := whole.Headers["case"]
		if name == "" {
			name = names[letter.ID]
		}
		ends[name] = append(ends[name], letter.Reason)
	}
	return ends
}

// looksWell says whether an engine has come through it: it runs, holds little, its log has
// no line that somebody else wrote, and its API no markup. It ends the engine.
func (r *rig) looksWell(e *process) {
	r.t.Helper()
	e.ready()
	if held := e.memory(); held > 256<<20 {
		r.t.Errorf("it holds %d bytes", held)
	}
	for _, path := range []string{"/api/v1/dead?limit=200", "/api/v1/queues", "/metrics"} {
		resp, err := http.Get("http://" + e.http + path)
		if err != nil {
			r.t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || bytes.Contains(body, []byte("<script")) || bytes.Contains(body, []byte("\x1b")) {
			r.t.Errorf("%s: %v: it has what a browser or a terminal would obey", path, err)
		}
	}
	e.stop()
	lines := 0
	for line := range strings.Lines(e.output.String()) {
		var entry struct {
			Message string `json:"message"`
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Message == "forged" {
			r.t.Errorf("a line of the log that is none: %v: %q", err, line)
		}
		lines++
	}
	if lines < 60 {
		r.t.Errorf("the log has %d lines", lines)
	}
}
