package vpc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// managedSysctls make a managed attachment a place for any program: one without
// privilege may listen on port 80 and ping, and it may be a router for custom
// routes. It asks for neighbours with its own address only, because the guard lets
// no other pass.
var managedSysctls = map[string]string{
	"ipv4/ip_forward":                    "1",
	"ipv4/ping_group_range":              fmt.Sprintf("%d %[1]d", os.Getgid()),
	"ipv4/ip_unprivileged_port_start":    "0",
	"ipv4/conf/all/rp_filter":            "0",
	"ipv4/conf/default/rp_filter":        "0",
	"ipv4/conf/all/accept_redirects":     "0",
	"ipv4/conf/default/accept_redirects": "0",
	"ipv4/conf/all/send_redirects":       "0",
	"ipv4/conf/default/send_redirects":   "0",
	"ipv4/conf/all/arp_announce":         "2",
	"ipv6/conf/eth0/disable_ipv6":        "1",
}

// judge refuses attachments that cannot be, whatever the machine allows: they get
// no port and no place in the guard.
func (p *pass) judge(context.Context) error {
	p.wanted = make(map[netip.Addr]struct{}, len(p.n.Addresses)+1)
	p.wanted[Lobby.Addr()] = struct{}{}
	for _, a := range p.n.Addresses {
		p.wanted[a] = struct{}{}
	}
	refused := map[string]error{}
	for id, a := range p.n.Attachments {
		if !a.device() {
			continue
		}
		err := p.n.checkPlace(a)
		if _, taken := p.wanted[a.Address]; err == nil && taken {
			err = fmt.Errorf("attachment %s: %v is an address of the network itself", id, a.Address)
		}
		if err == nil && a.Kind != Managed && p.d.pins == nil {
			err = fmt.Errorf("attachment %s: namespaces and devices of the host need network mode %s", id, ModeNetns)
		}
		if err != nil {
			refused[id] = err
		}
	}
	p.reguard = p.fresh || !sameShape(p.old, p.n) || !slices.Equal(sortedKeys(refused), sortedKeys(p.st.refused))
	p.st.refused = refused
	maps.Copy(p.errs, refused)
	return nil
}

// place reports whether the attachment called id shall have a device.
func (p *pass) place(id string) (Attachment, bool) {
	a, ok := p.n.Attachments[id]
	return a, ok && a.device() && p.st.refused[id] == nil
}

// detach takes out what is not wanted any more, or not as it is.
func (p *pass) detach(ctx context.Context) error {
	for id, pl := range p.r.places {
		a, ok := p.place(id)
		if ok && a.samePlace(pl.Attachment) {
			continue
		}
		if err := p.unplug(ctx, deviceName(portPrefix, id)); err != nil {
			return err
		}
		stays := ok && a.Kind == Managed && pl.Kind == Managed // with another address, say: so do its processes
		if !stays {
			if err := p.d.drop(ctx, p.r, pl); err != nil {
				return err
			}
		}
		p.d.mu.Lock()
		if stays {
			p.r.places[id] = &place{Attachment: a, ns: pl.ns}
		} else {
			delete(p.r.places, id)
		}
		p.d.mu.Unlock()
	}
	if !p.fresh {
		return nil
	}
	ports := map[string]Attachment{}
	for id := range p.n.Attachments {
		if a, ok := p.place(id); ok {
			ports[deviceName(portPrefix, id)] = a
		}
	}
	for name, l := range p.st.links { // of an earlier engine
		a, ok := ports[name]
		if strings.HasPrefix(name, portPrefix) && (!ok || (a.Kind == Interface) != l.borrowed()) {
			if err := p.unplug(ctx, name); err != nil {
				return err
			}
		}
	}
	return p.dropLeftovers(ctx)
}

// dropLeftovers ends managed attachments of an earlier engine that are not wanted.
func (p *pass) dropLeftovers(ctx context.Context) error {
	if p.d.pins == nil {
		return nil
	}
	pinned, err := p.d.pins.names(attachmentPin(p.r.id, ""))
	if err != nil {
		return err
	}
	for _, name := range pinned {
		id := strings.TrimPrefix(name, attachmentPin(p.r.id, ""))
		if a, ok := p.place(id); !ok || a.Kind != Managed {
			if err := p.d.dropPinned(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// dropAll ends every attachment, of this engine and of earlier ones.
func (p *pass) dropAll(ctx context.Context) error {
	for id, pl := range p.r.places {
		if err := p.d.drop(ctx, p.r, pl); err != nil {
			return err
		}
		p.d.mu.Lock()
		delete(p.r.places, id)
		p.d.mu.Unlock()
	}
	return p.dropLeftovers(ctx)
}

// unplug takes a port out of the router: a device of the host's goes back, others
// are deleted with their peers.
func (p *pass) unplug(ctx context.Context, port string) error {
	l := p.st.links[port]
	if l == nil {
		return nil
	}
	if l.borrowed() {
		return p.giveBack(ctx, port, l)
	}
	return p.deleteLink(ctx, port, l)
}

// drop ends what runs in an attachment that is going away, and its namespace if it
// is ours.
func (d *namespaces) drop(ctx context.Context, r *router, pl *place) error {
	switch pl.Kind {
	case Managed:
		if pl.ns == nil {
			return nil
		}
		err := d.evict(ctx, pl.ns, "")
		pl.ns.close()
		if d.pins != nil {
			err = errors.Join(err, d.pins.remove(attachmentPin(r.id, pl.ID)))
		}
		return err
	case Adopted: // its own processes stay, ours go
		ns, err := d.adopt(pl.Attachment)
		if err != nil {
			return nil // it is gone, and they with it
		}
		defer ns.close()
		return d.evict(ctx, ns, attachmentMark(r.id, pl.ID))
	}
	return nil
}

// attach makes the devices that are missing.
func (p *pass) attach(ctx context.Context) error {
	for _, id := range slices.Sorted(maps.Keys(p.n.Attachments)) {
		a, ok := p.place(id)
		if !ok {
			continue
		}
		p.d.mu.Lock()
		pl := p.r.places[id]
		if pl == nil {
			pl = &place{Attachment: a}
			p.r.places[id] = pl
		}
		p.d.mu.Unlock()
		if pl.up && !p.fresh {
			continue
		}
		err := p.settle(ctx, pl)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		pl.up = err == nil
		if err != nil {
			p.errs[id] = fmt.Errorf("attachment %s: %w", id, err)
		}
	}
	return nil
}

// settle makes or repairs one attachment.
func (p *pass) settle(ctx context.Context, pl *place) error {
	v := must(p.n.vswitch(pl.VSwitch))
	switch pl.Kind {
	case Managed:
		if pl.ns == nil {
			ns, err := p.d.openNS(ctx, attachmentPin(p.r.id, pl.ID))
			if err != nil {
				return err
			}
			p.d.mu.Lock()
			pl.ns = ns
			p.d.mu.Unlock()
		}
		return p.wire(ctx, pl, v, pl.ns, "eth0")
	case Adopted:
		ns, err := p.d.adopt(pl.Attachment)
		if err != nil { // no longer what was offered: whoever is behind the port now, cut it off
			return errors.Join(err, p.unplug(ctx, deviceName(portPrefix, pl.ID)))
		}
		defer ns.close() // not held: it ends with its container
		return p.wire(ctx, pl, v, ns, deviceName(peerPrefix, pl.ID))
	default:
		return p.borrow(ctx, pl.Attachment, v)
	}
}

// adopt opens an offered namespace, if it still is what was offered.
func (d *namespaces) adopt(a Attachment) (*namespace, error) {
	ns, err := openNamespace(a.Path)
	if err != nil {
		return nil, err
	}
	err = nil
	switch {
	case ns.inode != a.Inode:
		err = fmt.Errorf("%s is namespace %d now, %d was offered", a.Path, ns.inode, a.Inode)
	case ns.inode == d.home.inode || ns.inode == inodeOf("/proc/1/ns/net"):
		err = fmt.Errorf("%s is the host's own namespace", a.Path)
	case d.owns(ns.inode):
		err = fmt.Errorf("%s is a namespace of this installation", a.Path)
	}
	if err != nil {
		ns.close()
		return nil, err
	}
	return ns, nil
}

// owns reports whether a namespace is one that the driver made.
func (d *namespaces) owns(inode uint64) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, r := range d.networks {
		if r.ns != nil && r.ns.inode == inode {
			return true
		}
		for _, pl := range r.places {
			if pl.ns != nil && pl.ns.inode == inode {
				return true
			}
		}
	}
	return false
}

// inodeOf returns the inode of a file, 0 if it cannot be seen.
func inodeOf(path string) uint64 {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0
	}
	return st.Ino
}

// wire joins a namespace to a vSwitch by a veth pair, whose outer end is the port
// and whose inner end is called peer. A pair that is there is repaired, or, where
// that fails, made anew.
func (p *pass) wire(ctx context.Context, pl *place, v VSwitch, ns *namespace, peer string) error {
	port := deviceName(portPrefix, pl.ID)
	if l := p.st.links[port]; l != nil {
		if p.plug(ctx, pl, l, v, ns, peer) == nil {
			return nil
		}
		if err := p.deleteLink(ctx, port, l); err != nil {
			return err
		}
	}
	h, err := p.router(ctx)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Group = port, ours
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerHardwareAddr: p.mac("attachment", pl.ID)}
	add := func() error {
		return ns.use(func(fd int) error {
			pair.PeerNamespace = netlink.NsFd(fd) // both ends are made in place: nothing is ever in the host's namespace
			return h.LinkAdd(pair)
		})
	}
	if err = add(); errors.Is(err, unix.EEXIST) { // an end left by a router that is gone
		if err = p.d.deletePeer(ctx, ns, peer); err == nil {
			err = add()
		}
	}
	if err != nil {
		return fmt.Errorf("make a veth pair: %w", err)
	}
	l := &link{index: pair.Index}
	p.st.links[port] = l
	return p.plug(ctx, pl, l, v, ns, peer)
}

// plug puts the port l into its bridge, brings it up and furnishes the inside. The
// bridge is told who is behind the port: it learns nothing there and sends nothing
// there that is for others.
func (p *pass) plug(ctx context.Context, pl *place, l *link, v VSwitch, ns *namespace, peer string) error {
	h, err := p.router(ctx)
	if err != nil {
		return err
	}
	if err := p.enslave(ctx, l, v); err != nil {
		return err
	}
	err = errors.Join(h.LinkSetLearning(byIndex(l.index), false), h.LinkSetFlood(byIndex(l.index), false))
	if err != nil {
		return fmt.Errorf("set up the port: %w", err)
	}
	station := &netlink.Neigh{
		LinkIndex: l.index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP, Flags: netlink.NTF_MASTER,
		HardwareAddr: p.mac("attachment", pl.ID),
	}
	if err := h.NeighSet(station); err != nil {
		return fmt.Errorf("tell the bridge its station: %w", err)
	}
	if err := p.up(ctx, l); err != nil {
		return err
	}
	if err := p.furnish(ctx, pl, v, ns, peer); err != nil {
		return err
	}
	if err := carries(ctx, h, l.index); err != nil {
		return err
	}
	return carries(ctx, h, l.master)
}

// carries waits until a device that is up carries packets. The kernel learns in
// the background that the other end, or a port of a bridge, is up too, within
// milliseconds; what is sent meanwhile is lost, and a lost SYN or ARP request
// comes again after a whole second.
func carries(ctx context.Context, h *netlink.Handle, index int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for {
		l, err := h.LinkByIndex(index)
		if err != nil {
			return err
		}
		if l.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if pause(ctx, time.Millisecond/2) != nil {
			return fmt.Errorf("%s does not come up", l.Attrs().Name)
		}
	}
}

func (p *pass) enslave(ctx context.Context, l *link, v VSwitch) error {
	bridge := p.st.links[deviceName(bridgePrefix, v.ID)].index
	if l.master == bridge {
		return nil
	}
	h, err := p.router(ctx)
	if err != nil {
		return err
	}
	if err := h.LinkSetMasterByIndex(byIndex(l.index), bridge); err != nil {
		return fmt.Errorf("join the bridge: %w", err)
	}
	l.master = bridge
	return nil
}

// furnish gives the inner end its address and routes: to everywhere in a managed
// namespace, to the VPC alone in an adopted one, whose own routes are not touched.
func (p *pass) furnish(ctx context.Context, pl *place, v VSwitch, ns *namespace, peer string) error {
	sysctls := map[string]string{"ipv4/conf/" + peer + "/arp_announce": "2"}
	if pl.Kind == Managed {
		sysctls = managedSysctls
	}
	h, err := p.d.netlink(ctx, ns, sysctls)
	if err != nil {
		return err
	}
	defer h.Close()
	inner, err := h.LinkByName(peer)
	if err != nil {
		return fmt.Errorf("find %s: %w", peer, err)
	}
	index := inner.Attrs().Index
	if mac := p.mac("attachment", pl.ID); !slices.Equal(inner.Attrs().HardwareAddr, mac) {
		if err := h.LinkSetHardwareAddr(inner, mac); err != nil {
			return fmt.Errorf("set the address of %s: %w", peer, err)
		}
	}
	if err := p.readdress(h, inner, netip.PrefixFrom(pl.Address, v.CIDR.Bits())); err != nil {
		return err
	}
	if err := h.LinkSetUp(inner); err != nil {
		return fmt.Errorf("bring up %s: %w", peer, err)
	}
	gateway := net.IP(v.Gateway().AsSlice())
	if pl.Kind == Managed {
		if err := h.LinkSetUp(byIndex(loopbackIndex)); err != nil {
			return fmt.Errorf("bring up lo: %w", err)
		}
		if err := h.RouteReplace(&netlink.Route{LinkIndex: index, Gw: gateway}); err != nil {
			return fmt.Errorf("default route: %w", err)
		}
		return carries(ctx, h, index)
	}
	for _, to := range p.n.CIDRs {
		if to.Masked() == v.CIDR.Masked() {
			continue // the address brings that one
		}
		err := h.RouteAdd(&netlink.Route{LinkIndex: index, Dst: ipNet(to.Masked()), Gw: gateway, Protocol: ours})
		if errors.Is(err, unix.EEXIST) {
			err = p.ownRoute(h, inner, to)
		}
		if err != nil {
			return fmt.Errorf("route to %v: %w", to, err)
		}
	}
	return carries(ctx, h, index)
}

// ownRoute checks that the route to a range, which is there, leads over link.
func (p *pass) ownRoute(h *netlink.Handle, link netlink.Link, to netip.Prefix) error {
	routes, err := h.RouteList(link, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if prefixOf(r.Dst) == to.Masked() {
			return nil
		}
	}
	return errors.New("the namespace has another way there")
}

// readdress gives link the address and takes off others of the VPC, which are of
// an earlier day. What else is on it belongs to the workload.
func (p *pass) readdress(h *netlink.Handle, link netlink.Link, want netip.Prefix) error {
	addrs, err := h.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		has := prefixOf(a.IPNet)
		if has == want {
			return nil
		}
		if slices.ContainsFunc(p.n.CIDRs, func(c netip.Prefix) bool { return c.Contains(has.Addr()) }) {
			if err := h.AddrDel(link, &a); err != nil {
				return fmt.Errorf("take off %v: %w", has, err)
			}
		}
	}
	if err := h.AddrAdd(link, address(link.Attrs().Index, want)); err != nil {
		return fmt.Errorf("address %v: %w", want, err)
	}
	return nil
}

// deletePeer deletes a device inside ns.
func (d *namespaces) deletePeer(ctx context.Context, ns *namespace, name string) error {
	h, err := d.netlink(ctx, ns, nil)
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	return h.LinkDel(l)
}

func sortedKeys(m map[string]error) []string { return slices.Sorted(maps.Keys(m)) }

// must is for lookups that an earlier check has made sure of.
func must[T any](v T, ok bool) T {
	if !ok {
		panic("vpc: lookup of what was checked failed")
	}
	return v
}
