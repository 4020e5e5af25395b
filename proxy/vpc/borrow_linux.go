package vpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A device of the host that is an attachment is moved into the router's namespace
// under the name of its port. What it was is written on the device itself, as its
// alias, so that whoever finds it there later can give it back as it was.

const aliasMark = "openprivatelink"

// origin is what a borrowed device was in the host's namespace.
type origin struct {
	index int
	up    bool
	name  string
	alias string
}

func (o origin) String() string {
	return strings.Join([]string{aliasMark, strconv.Itoa(o.index), strconv.FormatBool(o.up), o.name, o.alias}, ":")
}

// parseOrigin reads an alias; false means it is not one of ours.
func parseOrigin(alias string) (o origin, ok bool) {
	f := strings.SplitN(alias, ":", 5)
	if len(f) != 5 || f[0] != aliasMark {
		return o, false
	}
	index, err := strconv.Atoi(f[1])
	return origin{index: index, up: f[2] == "true", name: f[3], alias: f[4]}, err == nil
}

func (l *link) borrowed() bool {
	_, ok := parseOrigin(l.alias)
	return ok
}

// borrow moves an offered device of the host into the vSwitch.
func (p *pass) borrow(ctx context.Context, a Attachment, v VSwitch) error {
	port := deviceName(portPrefix, a.ID)
	if p.st.links[port] == nil {
		o, err := p.d.offered(ctx, a)
		if err != nil {
			return err
		}
		if err := p.d.moveLink(ctx, p.d.home, p.r.ns, a.Index, port, 0); err != nil {
			return fmt.Errorf("move %s: %w", a.Name, err)
		}
		h, err := p.router(ctx)
		if err != nil {
			return err
		}
		moved, err := h.LinkByName(port)
		if err != nil {
			return fmt.Errorf("find %s: %w", port, err)
		}
		p.st.links[port] = &link{index: moved.Attrs().Index, alias: o.String()}
	}
	l := p.st.links[port]
	if err := p.enslave(ctx, l, v); err != nil {
		return err
	}
	return p.up(ctx, l)
}

// offered checks that a device of the host is what was offered and that the host
// does without it, marks it and returns what it is.
func (d *namespaces) offered(ctx context.Context, a Attachment) (o origin, err error) {
	h, err := d.netlink(ctx, d.home, nil)
	if err != nil {
		return o, err
	}
	defer h.Close()
	l, err := h.LinkByIndex(a.Index)
	if err != nil {
		return o, fmt.Errorf("device %d: %w", a.Index, err)
	}
	at := l.Attrs()
	if o, ok := parseOrigin(at.Alias); ok && o.name == a.Name { // marked, then interrupted
		return o, nil
	}
	o = origin{index: at.Index, up: at.Flags&net.FlagUp != 0, name: at.Name, alias: at.Alias}
	switch {
	case at.Name != a.Name:
		return o, fmt.Errorf("device %d is %s now, %s was offered", a.Index, at.Name, a.Name)
	case at.Flags&net.FlagLoopback != 0:
		return o, fmt.Errorf("%s is the host's loopback", a.Name)
	case at.MasterIndex != 0:
		return o, fmt.Errorf("%s is a port of another device of the host", a.Name)
	}
	if err := hostNeeds(h, l); err != nil {
		return o, err
	}
	if err := h.LinkSetAlias(l, o.String()); err != nil {
		return o, fmt.Errorf("mark %s: %w", a.Name, err)
	}
	return o, nil
}

// hostNeeds says what the host would lose with a device.
func hostNeeds(h *netlink.Handle, l netlink.Link) error {
	at := l.Attrs()
	addrs, err := h.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if !a.IP.IsLinkLocalUnicast() {
			return fmt.Errorf("%s carries the host's address %v", at.Name, a.IP)
		}
	}
	routes, err := h.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		over := r.LinkIndex == at.Index
		for _, n := range r.MultiPath {
			over = over || n.LinkIndex == at.Index
		}
		if over && (r.Dst == nil || r.Dst.IP.IsUnspecified()) {
			return fmt.Errorf("%s carries the host's default route", at.Name)
		}
	}
	links, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	for _, other := range links {
		if o := other.Attrs(); o.ParentIndex == at.Index && o.NetNsID < 0 && other.Type() != "veth" {
			return fmt.Errorf("%s is what the host's %s stands on", at.Name, o.Name)
		}
	}
	return nil
}

// giveAllBack is giveBack for every borrowed device.
func (p *pass) giveAllBack(ctx context.Context) error {
	for name, l := range p.st.links {
		if l.borrowed() {
			if err := p.giveBack(ctx, name, l); err != nil {
				return err
			}
		}
	}
	return nil
}

// giveBack returns a borrowed device to the host, as it was if that can be: its
// name or index may have been taken meanwhile.
func (p *pass) giveBack(ctx context.Context, port string, l *link) error {
	o, _ := parseOrigin(l.alias)
	err := p.d.moveLink(ctx, p.r.ns, p.d.home, l.index, o.name, o.index)
	if errors.Is(err, unix.EBUSY) {
		err = p.d.moveLink(ctx, p.r.ns, p.d.home, l.index, o.name, 0)
	}
	name := o.name
	if errors.Is(err, unix.EEXIST) {
		name = port
		err = p.d.moveLink(ctx, p.r.ns, p.d.home, l.index, port, 0)
	}
	if errors.Is(err, unix.ENODEV) { // unplugged meanwhile
		p.forget(port, l)
		return nil
	}
	if err != nil {
		return fmt.Errorf("give %s back: %w", o.name, err)
	}
	p.forget(port, l)
	h, err := p.d.netlink(ctx, p.d.home, nil)
	if err != nil {
		return err
	}
	defer h.Close()
	back, err := h.LinkByName(name)
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
		return nil // unplugged just now
	} else if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := h.LinkSetAlias(back, o.alias); err != nil {
		return fmt.Errorf("restore the alias of %s: %w", name, err)
	}
	if o.up {
		err = h.LinkSetUp(back)
	}
	if got := back.Attrs(); got.Name != o.name || got.Index != o.index {
		p.d.Log.WarnContext(ctx, "device came back changed", "was", o.name, "was_index", o.index, "name", got.Name, "index", got.Index)
	}
	return err
}

// moveLink moves a device from one namespace to another under a name, and as
// newIndex if that is not 0.
func (d *namespaces) moveLink(ctx context.Context, from, to *namespace, index int, name string, newIndex int) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	if newIndex != 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_NEW_IFINDEX, nl.Uint32Attr(uint32(newIndex))))
	}
	return to.use(func(fd int) error {
		req.AddData(nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(fd))))
		return d.request(ctx, from, req)
	})
}
