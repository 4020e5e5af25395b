package domain

import (
	"net/netip"
	"strings"
	"testing"
)

func FuzzParsePorts(f *testing.F) {
	for _, s := range []string{"", "443", "1000-2000", " 80 - 81 ", "0", "65535", "65536", "2-1", "-", "1-", "+80", "8_0", "0x50", "٣", "1-2-3", "99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		from, to, err := parsePorts("ports", s)
		if err != nil {
			if from != 0 || to != 0 || len(Fields(err)) != 1 || KindOf(err) != Invalid {
				t.Fatalf("%q: %d to %d and %v", s, from, to, err)
			}
			return
		}
		every := from == 0 && to == 0
		if every != (strings.TrimSpace(s) == "") || !every && (from < 1 || from > to || to > 65535) {
			t.Fatalf("%q is %d to %d", s, from, to)
		}
		if from2, to2, err := parsePorts("ports", formatPorts(from, to)); from2 != from || to2 != to || err != nil {
			t.Fatalf("%q is %d to %d, written and read again %d to %d: %v", s, from, to, from2, to2, err)
		}
	})
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"10.0.0.1", " 10.0.0.1\n", "10.0.0.256", "010.0.0.1", "10.0.0", "::1", "::ffff:10.0.0.1", "fe80::1%eth0", "10.0.0.1/32", "1.2.3.4\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseAddress("address", s)
		if err != nil {
			if a.IsValid() || Fields(err)[0].Field != "address" {
				t.Fatalf("%q: %v and %v", s, a, err)
			}
			return
		}
		if !a.Is4() || a.String() != strings.TrimSpace(s) {
			t.Fatalf("%q is %v", s, a)
		}
	})
}

func FuzzParseCIDR(f *testing.F) {
	for _, s := range []string{"10.0.0.0/16", " 0.0.0.0/0 ", "10.0.0.1/16", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/08", "fd00::/8", "::ffff:10.0.0.0/112", "10.0.0.0", "/8", "192.168.255.255/32"} {
		f.Add(s)
	}
	vpc := &VPC{Name: "core", CIDR: "10.0.0.0/16"}
	others := []VSwitch{{Name: "vsw-h", CIDR: "10.0.1.0/24"}}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseCIDR("cidr", s)
		if (err == nil) != p.IsValid() {
			t.Fatalf("%q: %v and %v", s, p, err)
		}
		if err != nil {
			return
		}
		if p != p.Masked() || !p.Addr().Is4() || p.String() != strings.TrimSpace(s) {
			t.Fatalf("%q is %v", s, p)
		}
		if !p.Contains(broadcastOf(p)) || p.Bits() > 0 && p.Contains(broadcastOf(p).Next()) {
			t.Fatalf("the last address of %v is not %v", p, broadcastOf(p))
		}
		if q, err := parseVPCRange(s); err == nil && (!q.Addr().IsPrivate() || q.Bits() < 8 || q.Bits() > 28) {
			t.Fatalf("%v became a VPC", q)
		}
		if q, err := parseVSwitchRange(s, vpc, others); err == nil && (!inside(q, stored(vpc.CIDR)) || q.Overlaps(stored(others[0].CIDR)) || q.Bits() > 29) {
			t.Fatalf("%v became a vSwitch", q)
		}
		r := routing{vpc: *vpc, switches: others}
		if q, err := r.destination(s); err == nil && (q.Addr().IsLoopback() || q.Addr().IsLinkLocalUnicast() || q == stored(vpc.CIDR)) {
			t.Fatalf("%v became a destination", q)
		}
	})
}

func TestRangeArithmetic(t *testing.T) {
	for cidr, want := range map[string]struct {
		gateway, broadcast string
		hosts              int
	}{
		"10.0.1.0/24":     {"10.0.1.1", "10.0.1.255", 253},
		"10.0.0.8/29":     {"10.0.0.9", "10.0.0.15", 5},
		"192.168.0.0/16":  {"192.168.0.1", "192.168.255.255", 65533},
		"172.31.240.0/20": {"172.31.240.1", "172.31.255.255", 4093},
	} {
		p := netip.MustParsePrefix(cidr)
		if gatewayOf(p).String() != want.gateway || broadcastOf(p).String() != want.broadcast || hostsOf(p) != want.hosts {
			t.Errorf("%s: %v, %v, %d, want %v", p, gatewayOf(p), broadcastOf(p), hostsOf(p), want)
		}
	}
}
