package webhook

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
)

// special are the IPv4 addresses that no receiver on the internet has, by the
// registry of special-purpose addresses (RFC 6890) and multicast.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),       // this network, unspecified
	netip.MustParsePrefix("10.0.0.0/8"),      // private
	netip.MustParsePrefix("100.64.0.0/10"),   // carrier-grade NAT
	netip.MustParsePrefix("127.0.0.0/8"),     // loopback
	netip.MustParsePrefix("169.254.0.0/16"),  // link-local: a cloud's metadata
	netip.MustParsePrefix("172.16.0.0/12"),   // private
	netip.MustParsePrefix("192.0.0.0/24"),    // protocol assignments
	netip.MustParsePrefix("192.0.2.0/24"),    // documentation
	netip.MustParsePrefix("192.88.99.0/24"),  // 6to4 relays
	netip.MustParsePrefix("192.168.0.0/16"),  // private
	netip.MustParsePrefix("198.18.0.0/15"),   // benchmarks
	netip.MustParsePrefix("198.51.100.0/24"), // documentation
	netip.MustParsePrefix("203.0.113.0/24"),  // documentation
	netip.MustParsePrefix("224.0.0.0/4"),     // multicast
	netip.MustParsePrefix("240.0.0.0/4"),     // reserved, broadcast
}

// special6 are the addresses within unicast that are not a host's own: they are
// made of others, or of none.
var special6 = []netip.Prefix{
	netip.MustParsePrefix("2001::/23"),     // protocol assignments, Teredo
	netip.MustParsePrefix("2001:db8::/32"), // documentation
	netip.MustParsePrefix("2002::/16"),     // 6to4
	netip.MustParsePrefix("3fff::/20"),     // documentation
}

// unicast6 is all that is given out of IPv6.
var unicast6 = []netip.Prefix{netip.MustParsePrefix("2000::/3")}

// nat64 is IPv4 behind a translator (RFC 6052).
var nat64 = []netip.Prefix{netip.MustParsePrefix("64:ff9b::/96")}

// guard says which addresses may be dialled: public ones, and those in networks
// that were allowed by name.
type guard struct{ allowed []netip.Prefix }

// allows says whether an address may be dialled, in whatever form it comes.
func (g guard) allows(a netip.Addr) bool {
	a = a.WithZone("").Unmap()
	return within(g.allowed, a) || public(a)
}

// public says whether an address is one on the internet. What is not known to
// be is not.
func public(a netip.Addr) bool {
	switch {
	case !a.IsValid():
		return false
	case a.Is4():
		return !within(special, a)
	case within(nat64, a):
		b := a.As16()
		return public(netip.AddrFrom4([4]byte(b[12:])))
	}
	return within(unicast6, a) && !within(special6, a)
}

func within(networks []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// errRefused says that an address may not be dialled.
var errRefused = errors.New("the address is not a public one")

// control is a net.Dialer's Control: it sees the address that is dialled, after
// every resolution.
func (g guard) control(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", errRefused, address, err)
	}
	if !g.allows(to.Addr()) {
		return fmt.Errorf("%w: %s (%s allows more)", errRefused, to.Addr(), networksVariable)
	}
	return nil
}
