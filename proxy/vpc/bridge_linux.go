package vpc

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// state is what a router's namespace is known to hold. It is read from the kernel
// once, by look, and kept up to date by those who change the kernel.
type state struct {
	links     map[string]*link               // all but lo, by name
	gateways  map[int][]netip.Prefix         // addresses of bridges, by index
	addresses map[netip.Addr]struct{}        // that the router answers for
	stray     map[netip.Addr]struct{}        // those in no vSwitch
	routes    map[netip.Prefix]hop           // custom routes
	guard     map[string]map[string]setEntry // elements of the guard's sets, by set and content; nil: no guard
	refused   map[string]error               // attachments that get no device
}

type setEntry = nftables.SetElement

type link struct {
	index, master int
	up            bool
	alias         string
}

const (
	loopbackIndex = 1  // of lo, the only device that every namespace has
	ours          = 79 // marks our devices, as their group, and our routes, as their protocol
)

// Prefixes of device names. What follows is a hash, because ids are too long.
const (
	bridgePrefix = "b-" // of a vSwitch
	portPrefix   = "p-" // of an attachment
	peerPrefix   = "opl-"
)

func deviceName(prefix, id string) string {
	h := sha256.Sum256([]byte(id))
	return fmt.Sprintf("%s%x", prefix, h[:5])
}

// mac returns the hardware address of a thing in the network, locally administered.
// It stays the same for life, so nobody's neighbour tables go stale.
func (p *pass) mac(kind, id string) net.HardwareAddr {
	h := sha256.Sum256([]byte(p.d.Installation + "/" + p.n.ID + "/" + kind + "/" + id))
	return append(net.HardwareAddr{0x02}, h[:5]...)
}

// routerSysctls make the router's namespace a router: it forwards whatever the
// guard lets in, tells nobody of better ways, speaks no IPv6, asks for neighbours
// with the gateway's address, says at once what is unreachable, and has many ports
// to dial from.
var routerSysctls = map[string]string{
	"bridge/bridge-nf-call-arptables":       "0", // what is bridged is not routed
	"bridge/bridge-nf-call-iptables":        "0",
	"bridge/bridge-nf-call-ip6tables":       "0",
	"ipv4/ip_forward":                       "1",
	"ipv4/icmp_ratelimit":                   "0",
	"ipv4/ip_local_port_range":              "1024 65535",
	"ipv4/tcp_tw_reuse":                     "1",
	"ipv4/conf/all/rp_filter":               "0",
	"ipv4/conf/default/rp_filter":           "0",
	"ipv4/conf/all/send_redirects":          "0",
	"ipv4/conf/default/send_redirects":      "0",
	"ipv4/conf/all/accept_source_route":     "0",
	"ipv4/conf/default/accept_source_route": "0",
	"ipv4/conf/all/arp_announce":            "2",
	"ipv6/conf/all/disable_ipv6":            "1",
	"ipv6/conf/default/disable_ipv6":        "1",
}

// look reads the state of the router's namespace if it is not known.
func (p *pass) look(ctx context.Context) (err error) {
	if p.st = p.r.state; p.st != nil {
		return nil
	}
	if p.rt, err = p.d.netlink(ctx, p.r.ns, routerSysctls); err != nil {
		return err
	}
	st := &state{
		links: map[string]*link{}, gateways: map[int][]netip.Prefix{}, routes: map[netip.Prefix]hop{},
		addresses: map[netip.Addr]struct{}{}, stray: map[netip.Addr]struct{}{},
	}
	links, err := p.rt.LinkList()
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	for _, l := range links {
		if a := l.Attrs(); a.Index != loopbackIndex {
			st.links[a.Name] = &link{index: a.Index, master: a.MasterIndex, up: a.Flags&net.FlagUp != 0, alias: a.Alias}
		} else if a.Flags&net.FlagUp == 0 {
			if err := p.rt.LinkSetUp(l); err != nil {
				return fmt.Errorf("lo: %w", err)
			}
		}
	}
	addrs, err := p.rt.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if a.LinkIndex != loopbackIndex {
			st.gateways[a.LinkIndex] = append(st.gateways[a.LinkIndex], prefixOf(a.IPNet))
		}
	}
	if err := p.lookRoutes(st); err != nil {
		return err
	}
	if err := p.lookGuard(ctx, st); err != nil {
		return err
	}
	p.st, p.r.state, p.fresh = st, st, true
	return nil
}

// bridges makes one bridge for each vSwitch, with the gateway's address.
func (p *pass) bridges(ctx context.Context) error {
	want := map[string]VSwitch{}
	for _, v := range p.n.VSwitches {
		want[deviceName(bridgePrefix, v.ID)] = v
	}
	for name, l := range p.st.links {
		if _, ok := want[name]; !ok && strings.HasPrefix(name, bridgePrefix) {
			if err := p.deleteLink(ctx, name, l); err != nil {
				return err
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if err := p.bridge(ctx, name, want[name]); err != nil {
			return fmt.Errorf("vswitch %s: %w", want[name].ID, err)
		}
	}
	return nil
}

func (p *pass) bridge(ctx context.Context, name string, v VSwitch) error {
	l := p.st.links[name]
	if l == nil {
		h, err := p.router(ctx)
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.Group = name, ours
		attrs.HardwareAddr = p.mac("gateway", v.ID) // else it would follow its ports
		br := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: new(false)}
		if err := h.LinkAdd(br); err != nil {
			return fmt.Errorf("make a bridge: %w", err)
		}
		l = &link{index: br.Index}
		p.st.links[name] = l
	}
	if err := p.up(ctx, l); err != nil {
		return err
	}
	gateway := netip.PrefixFrom(v.Gateway(), v.CIDR.Bits())
	if has := p.st.gateways[l.index]; len(has) == 1 && has[0] == gateway {
		return nil
	}
	h, err := p.router(ctx)
	if err != nil {
		return err
	}
	for _, old := range p.st.gateways[l.index] {
		if err := h.AddrDel(nil, address(l.index, old)); err != nil {
			return fmt.Errorf("take off %v: %w", old, err)
		}
	}
	p.st.gateways[l.index] = nil
	if err := h.AddrAdd(nil, address(l.index, gateway)); err != nil {
		return fmt.Errorf("gateway %v: %w", gateway, err)
	}
	p.st.gateways[l.index] = []netip.Prefix{gateway}
	return nil
}

// addresses makes the router answer for Network.Addresses and for no others, asking
// the kernel for nothing but the difference. Each is a local route, which is all
// that an address on lo would be good for: with thousands of them the kernel finds
// and adds a route in 20 microseconds, but walks the list of a device's addresses.
func (p *pass) addresses(ctx context.Context) error {
	if p.reguard { // the vSwitches may be others
		clear(p.st.stray)
		for a := range p.st.addresses {
			p.noteStray(a)
		}
	}
	for a := range p.wanted {
		if _, ok := p.st.addresses[a]; ok {
			continue
		}
		h, err := p.router(ctx)
		if err != nil {
			return err
		}
		if err := h.RouteReplace(localRoute(a)); err != nil {
			return fmt.Errorf("add %v: %w", a, err)
		}
		p.st.addresses[a] = struct{}{}
		p.noteStray(a)
	}
	if len(p.wanted) == len(p.st.addresses) {
		return nil
	}
	for a := range p.st.addresses {
		if _, ok := p.wanted[a]; ok {
			continue
		}
		h, err := p.router(ctx)
		if err != nil {
			return err
		}
		if err := h.RouteDel(localRoute(a)); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove %v: %w", a, err)
		}
		delete(p.st.addresses, a)
		delete(p.st.stray, a) // the guard goes on denying it until it changes next
	}
	return nil
}

func localRoute(a netip.Addr) *netlink.Route {
	return &netlink.Route{
		Dst: ipNet(netip.PrefixFrom(a, a.BitLen())), LinkIndex: loopbackIndex,
		Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Protocol: ours,
	}
}

// noteStray remembers an address that is in no vSwitch, for the guard.
func (p *pass) noteStray(a netip.Addr) {
	if !slices.ContainsFunc(p.n.VSwitches, func(v VSwitch) bool { return v.CIDR.Contains(a) }) {
		p.st.stray[a], p.reguard = struct{}{}, true
	}
}

func (p *pass) up(ctx context.Context, l *link) error {
	if l.up {
		return nil
	}
	h, err := p.router(ctx)
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(byIndex(l.index)); err != nil {
		return fmt.Errorf("bring up: %w", err)
	}
	l.up = true
	return nil
}

// deleteLink deletes a device of the router, and with it what depends on it.
func (p *pass) deleteLink(ctx context.Context, name string, l *link) error {
	h, err := p.router(ctx)
	if err != nil {
		return err
	}
	if err := h.LinkDel(byIndex(l.index)); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	p.forget(name, l)
	return nil
}

// deleteDevices deletes every device of ours in the router's namespace. The kernel
// takes some 40 ms for one and hardly more for all.
func (p *pass) deleteDevices(ctx context.Context) error {
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(ours)))
	if err := p.d.request(ctx, p.r.ns, req); err != nil && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}

// forget drops a device that left the namespace from the state.
func (p *pass) forget(name string, l *link) {
	delete(p.st.links, name)
	delete(p.st.gateways, l.index)
	maps.DeleteFunc(p.st.routes, func(_ netip.Prefix, h hop) bool { return h.link == l.index })
}

// byIndex names a device to netlink.
func byIndex(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

func address(index int, p netip.Prefix) *netlink.Addr {
	return &netlink.Addr{IPNet: ipNet(p), LinkIndex: index}
}

// prefixOf is the inverse of ipNet; nil is everywhere.
func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	a, _ := netip.AddrFromSlice(n.IP.To4())
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a, bits)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
