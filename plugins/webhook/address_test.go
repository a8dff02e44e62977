package webhook

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"usher/handlers"
	"usher/handlers/handlertest"
)

// forms are the ways in which an IPv4 address reaches a dialer.
func forms(a netip.Addr) []netip.Addr {
	translated := nat64[0].Addr().As16()
	b := a.As4()
	copy(translated[12:], b[:])
	return []netip.Addr{a, netip.AddrFrom16(a.As16()), netip.AddrFrom16(translated)}
}

func TestAddressesThatAreRefusedAndAllowed(t *testing.T) {
	for text, want := range map[string]bool{
		"8.8.8.8": true, "1.1.1.1": true, "172.15.255.255": true, "172.32.0.0": true, "100.63.255.255": true, "100.128.0.0": true,
		"169.253.255.255": true, "223.255.255.255": true, "2606:4700::1111": true, "2a00:1450::1": true, "64:ff9b::8.8.8.8": true, "::ffff:8.8.8.8": true,
		"0.0.0.0": false, "0.1.2.3": false, "10.0.0.1": false, "100.64.0.1": false, "100.127.255.255": false, "127.0.0.1": false, "127.255.255.255": false,
		"169.254.169.254": false, "172.16.0.1": false, "172.31.255.255": false, "192.168.1.1": false, "192.0.0.8": false, "198.19.0.1": false,
		"224.0.0.1": false, "239.1.1.1": false, "240.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "::127.0.0.1": false, "::8.8.8.8": false, "::ffff:127.0.0.1": false, "::ffff:0:8.8.8.8": false, "64:ff9b::127.0.0.1": false,
		"64:ff9b::10.0.0.1": false, "64:ff9b:1::1": false, "fe80::1": false, "fe80::1%eth0": false, "fc00::1": false, "fd12::1": false, "fec0::1": false,
		"ff02::1": false, "2001::1": false, "2001:db8::1": false, "2002:7f00:1::": false, "100::1": false, "5f00::1": false, "3fff::1": false,
	} {
		if got := (guard{}).allows(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: allowed %v, want %v", text, got, want)
		}
	}
	if (guard{}).allows(netip.Addr{}) {
		t.Error("no address at all is allowed")
	}
}

func TestWhatTheStandardLibraryCallsSpecialIsRefusedInEveryForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], rapid.Uint32().Draw(t, "address"))
		a := netip.AddrFrom4(b)
		bad := !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() ||
			b[0] == 0 || b[0] == 100 && b[1]&0xc0 == 64
		for _, form := range forms(a) {
			got := guard{}.allows(form)
			if got && bad {
				t.Fatalf("%s (%s) is allowed", a, form)
			}
			if got != (guard{}).allows(a) {
				t.Fatalf("%s and %s are not decided alike", a, form)
			}
		}
	})
}

func TestEveryAddressOfASpecialNetworkIsRefusedUnlessItIsAllowed(t *testing.T) {
	networks := append([]netip.Prefix{
		netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"), netip.MustParsePrefix("::/96"),
		netip.MustParsePrefix("64:ff9b:1::/48"),
	}, append(special6, special...)...)
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SampledFrom(networks).Draw(t, "network")
		b := p.Addr().AsSlice()
		for bit := p.Bits(); bit < 8*len(b); bit++ {
			if rapid.Bool().Draw(t, "bit") {
				b[bit/8] |= 0x80 >> (bit % 8)
			}
		}
		a, _ := netip.AddrFromSlice(b)
		all := []netip.Addr{a}
		if a.Is4() {
			all = forms(a)
		}
		for _, form := range all {
			if (guard{}).allows(form) {
				t.Fatalf("%s of %s is allowed", form, p)
			}
			if err := (guard{}).control("tcp", netip.AddrPortFrom(form, 443).String(), nil); !errors.Is(err, errRefused) {
				t.Fatalf("%s of %s: the dialer is told %v", form, p, err)
			}
		}
		if g := (guard{[]netip.Prefix{p}}); !g.allows(a) || a.Is4() && !g.allows(netip.AddrFrom16(a.As16())) {
			t.Fatalf("%s is refused although %s is allowed", a, p)
		}
	})
}

func FuzzAddress(f *testing.F) {
	for _, seed := range []string{"127.0.0.1:80", "[::1]:443", "[::ffff:10.0.0.1]:443", "[64:ff9b::7f00:1]:1", "8.8.8.8:443", "[fe80::1%eth0]:1", "", "localhost:80"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, address string) {
		err := guard{}.control("tcp", address, nil)
		to, parseErr := netip.ParseAddrPort(address)
		if parseErr != nil {
			if err == nil {
				t.Errorf("%q, which is no address, is allowed", address)
			}
			return
		}
		a := to.Addr().Unmap()
		if err == nil && (a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() || a.Zone() != "" && a.Is4()) {
			t.Errorf("%q is allowed", address)
		}
	})
}

// nameServer answers each question for an address with the next one of the
// list, and afterwards with the last; there are no IPv6 addresses.
func nameServer(t *testing.T, addresses ...string) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		buf := make([]byte, 512)
		for n := 0; ; {
			size, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			end := 12 // of the question: its name, type and class
			for buf[end] != 0 {
				end += int(buf[end]) + 1
			}
			end += 5
			reply := append([]byte{buf[0], buf[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, buf[12:end]...)
			if isA := buf[end-3] == 1; isA && size >= end {
				ip := netip.MustParseAddr(addresses[min(n, len(addresses)-1)]).As4()
				n++
				reply[7] = 1
				reply = append(append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4), ip[:]...)
			}
			_, _ = conn.WriteTo(reply, from)
		}
	}()
	t.Cleanup(func() { conn.Close(); <-served })
	return conn.LocalAddr().String()
}

// A name that has another address when it is asked for again leads nowhere new:
// what is checked is what is dialled.
func TestRebindingLeadsNowhere(t *testing.T) {
	var good, evil atomic.Int64
	count := func(n *atomic.Int64) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			n.Add(1)
			w.Header().Set("Connection", "close") // so that the next message dials again
		})
	}
	port := serve(t, "127.0.0.2:0", count(&good))
	serve(t, "127.0.0.1:"+port, count(&evil))
	names := nameServer(t, "127.0.0.2", "127.0.0.1")
	w := open(t, "WEBHOOK_URLS=a=http://hooks.example:"+port, "WEBHOOK_ALLOW_HTTP=true", "WEBHOOK_ALLOW_NETWORKS=127.0.0.2/32")
	dialer := &net.Dialer{Control: w.guard.control, Resolver: &net.Resolver{PreferGo: true, Dial: resolveBy(names)}}
	w.transport.DialContext = dialer.DialContext

	if o := handlertest.Run(t, w, handlertest.Message("a", nil)).Outcome; o.Kind != handlers.Done {
		t.Fatalf("first: %+v", o)
	}
	o := handlertest.Run(t, w, handlertest.Message("a", nil)).Outcome
	if o.Kind != handlers.Rejected || o.Code != CodeAddress || !strings.Contains(o.Err.Error(), "127.0.0.1") {
		t.Errorf("rebound: %+v", o)
	}
	if good.Load() != 1 || evil.Load() != 0 {
		t.Errorf("the receiver was called %d times, the inner one %d", good.Load(), evil.Load())
	}
}

func TestANameOfThisMachineIsRefused(t *testing.T) {
	port := serve(t, "127.0.0.1:0", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was called") }))
	w := open(t, fmt.Sprintf("WEBHOOK_URLS=a=http://localhost:%s", port), "WEBHOOK_ALLOW_HTTP=true")
	if o := handlertest.Run(t, w, handlertest.Message("a", nil)).Outcome; o.Kind != handlers.Rejected || o.Code != CodeAddress {
		t.Errorf("%+v", o)
	}
}
