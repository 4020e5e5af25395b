package vpc

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeMetric ranks custom routes below a vSwitch of the same range.
const routeMetric = 100

// hop is where a custom route leads; the zero hop is a blackhole.
type hop struct {
	via  netip.Addr
	link int // index of the vSwitch's bridge
}

// lookRoutes reads the custom routes of the router's namespace, and its addresses.
func (p *pass) lookRoutes(st *state) error {
	filter := &netlink.Route{Protocol: ours}
	routes, err := p.rt.RouteListFiltered(netlink.FAMILY_V4, filter, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		h := hop{}
		if r.Type == unix.RTN_UNICAST {
			h.via, _ = netip.AddrFromSlice(r.Gw.To4())
			h.link = r.LinkIndex
		}
		st.routes[prefixOf(r.Dst)] = h
	}
	filter.Table = unix.RT_TABLE_LOCAL
	local, err := p.rt.RouteListFiltered(netlink.FAMILY_V4, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list local routes: %w", err)
	}
	for _, r := range local {
		st.addresses[prefixOf(r.Dst).Addr()] = struct{}{}
	}
	return nil
}

// routes programs the custom routes: by the attachment's address if it is up, and
// nowhere otherwise, so that its traffic never takes a wider route. What matches
// no vSwitch and no route is unreachable, because a router has no other routes.
func (p *pass) routes(ctx context.Context) error {
	want := make(map[netip.Prefix]hop, len(p.n.Routes))
	for _, r := range p.n.Routes {
		want[r.To.Masked()] = p.hop(r.Attachment)
	}
	for to, h := range want {
		if has, ok := p.st.routes[to]; ok && has == h {
			continue
		}
		nl, err := p.router(ctx)
		if err != nil {
			return err
		}
		if err := nl.RouteReplace(route(to, h)); err != nil {
			return fmt.Errorf("to %v: %w", to, err)
		}
		p.st.routes[to] = h
	}
	for to, h := range p.st.routes {
		if _, ok := want[to]; ok {
			continue
		}
		nl, err := p.router(ctx)
		if err != nil {
			return err
		}
		if err := nl.RouteDel(route(to, h)); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("delete route to %v: %w", to, err)
		}
		delete(p.st.routes, to)
	}
	return nil
}

// hop returns the way to an attachment.
func (p *pass) hop(attachment string) hop {
	pl := p.r.places[attachment]
	if pl == nil || !pl.up {
		return hop{}
	}
	return hop{via: pl.Address, link: p.st.links[deviceName(bridgePrefix, pl.VSwitch)].index}
}

func route(to netip.Prefix, h hop) *netlink.Route {
	r := &netlink.Route{Dst: ipNet(to), Protocol: ours, Priority: routeMetric}
	if h == (hop{}) {
		r.Type = unix.RTN_BLACKHOLE
		return r
	}
	r.Gw, r.LinkIndex = h.via.AsSlice(), h.link
	return r
}
