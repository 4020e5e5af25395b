package vpc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespaces is the driver for network namespaces, the same code for root and
// inside a user namespace: only pins and the host's own namespace are missing there.
//
// A network is a router namespace, pinned as r-<network>, and one namespace for
// each managed attachment, pinned as a-<network>.<attachment>.
type namespaces struct {
	Config
	thread *thread
	pins   *pins      // nil in a user namespace
	home   *namespace // the host's; nil in a user namespace
	life   *lifeline

	mu       sync.RWMutex // guards what is below and the fields of routers that say so
	networks map[string]*router
	running  map[int]Running // shims, by process
	closed   bool

	// Of the driver before, until somebody asks for it.
	inherited map[string]*namespace    // by the name of their pin
	resumable map[[2]string]<-chan int // exit codes of the engine's own commands, by network and attachment
}

// router is one network.
type router struct {
	id string
	ns *namespace // guarded by namespaces.mu; nil until the first pass

	places      map[string]*place     // by attachment; guarded by namespaces.mu
	attachments map[string]Attachment // of want; guarded by namespaces.mu

	redirects redirects

	pass  sync.Mutex       // held by the one who changes the network, guards what follows
	gone  bool             // removed while others waited for pass
	want  Network          // what the last pass was about
	state *state           // what is in the namespace; nil: unknown, look
	errs  map[string]error // attachments that could not be made
}

// place is an attachment that has, or shall have, a device.
type place struct {
	Attachment
	ns *namespace // Managed only
	up bool
}

func newNamespaces(cfg Config) (_ Driver, err error) {
	d := &namespaces{
		Config: cfg, networks: map[string]*router{}, running: map[int]Running{},
		inherited: map[string]*namespace{}, resumable: map[[2]string]<-chan int{},
	}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if cfg.Mode == ModeNetns {
		d.pins = &pins{prefix: "op-" + cfg.Installation + "-"}
		if d.home, err = openNamespace("/proc/self/ns/net"); err != nil {
			return nil, err
		}
	}
	if cfg.Inherited != nil {
		err = d.inherit(*cfg.Inherited)
	} else {
		d.life, err = newLifeline()
	}
	if err != nil {
		return nil, err
	}
	if d.thread, err = startThread(); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *namespaces) Capabilities() Capabilities {
	root := d.Mode == ModeNetns
	return Capabilities{Mode: d.Mode, Reason: d.Reason, Isolated: true, Exec: true, Filters: true, Adopt: root, Survives: root}
}

func (d *namespaces) Ensure(ctx context.Context, n Network) (map[string]error, error) {
	if err := n.check(); err != nil {
		return nil, err
	}
	r, err := d.lock(n.ID, true)
	if err != nil {
		return nil, err
	}
	defer r.pass.Unlock()
	if r.state != nil && len(r.errs) == 0 && same(r.want, n) {
		return nil, nil
	}
	return d.run(ctx, r, n)
}

func (d *namespaces) Repair(ctx context.Context, id string) (map[string]error, error) {
	r, err := d.lock(id, false)
	if err != nil {
		return nil, err
	}
	defer r.pass.Unlock()
	r.state = nil
	return d.run(ctx, r, r.want)
}

// run makes r what n says. After an error nothing is known of r any more.
func (d *namespaces) run(ctx context.Context, r *router, n Network) (map[string]error, error) {
	n = clone(n)
	p := &pass{d: d, r: r, old: r.want, n: n, errs: map[string]error{}}
	defer p.close()
	err := p.run(ctx)
	r.want, r.errs = n, p.errs
	d.mu.Lock()
	r.attachments = n.Attachments
	d.mu.Unlock()
	if err != nil {
		r.state = nil
		return maps.Clone(p.errs), fmt.Errorf("network %s: %w", n.ID, err)
	}
	return maps.Clone(p.errs), nil
}

func (d *namespaces) Remove(ctx context.Context, id string) error {
	if !validName(id, maxName, true) {
		return nil // nothing can be called so
	}
	r, err := d.lock(id, d.pinned(id))
	if errors.Is(err, ErrNoNetwork) {
		return nil
	} else if err != nil {
		return err
	}
	defer r.pass.Unlock()
	if r.ns != nil || d.pinned(id) {
		r.state = nil
		p := &pass{d: d, r: r, n: Network{ID: id}, errs: map[string]error{}}
		defer p.close()
		if err := p.clear(ctx); err != nil {
			return fmt.Errorf("remove network %s: %w", id, err)
		}
	}
	d.mu.Lock()
	ns := r.ns
	delete(d.networks, id)
	r.gone, r.ns = true, nil
	d.mu.Unlock()
	ns.close()
	if d.pins != nil {
		return d.pins.remove(routerPin(id))
	}
	return nil
}

func (d *namespaces) Sweep(ctx context.Context, keep map[string]Network) error {
	d.mu.RLock()
	ids := slices.Collect(maps.Keys(d.networks))
	d.mu.RUnlock()
	var errs []error
	if d.pins != nil {
		pinned, err := d.pins.names("r-")
		errs = append(errs, err)
		for _, name := range pinned {
			ids = append(ids, strings.TrimPrefix(name, "r-"))
		}
	}
	d.mu.Lock()
	for name, ns := range d.inherited {
		network, _, _ := strings.Cut(name[len("r-"):], ".")
		if _, ok := keep[network]; !ok {
			ns.close()
			delete(d.inherited, name)
		}
	}
	d.mu.Unlock()
	for _, id := range ids {
		if _, ok := keep[id]; !ok {
			d.Log.InfoContext(ctx, "remove leftover network", "network", id)
			errs = append(errs, d.Remove(ctx, id))
		}
	}
	if d.pins != nil {
		pinned, err := d.pins.names("a-")
		errs = append(errs, err)
		for _, name := range pinned {
			network, id, _ := strings.Cut(strings.TrimPrefix(name, "a-"), ".")
			if keep[network].Attachments[id].Kind != Managed {
				d.Log.InfoContext(ctx, "remove leftover attachment", "network", network, "attachment", id)
				errs = append(errs, d.dropPinned(ctx, name))
			}
		}
	}
	return errors.Join(errs...)
}

func (d *namespaces) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	d.mu.Unlock()
	for _, ns := range d.inherited {
		ns.close()
	}
	d.life.cut() // ends commands of the engine's own, and in a user namespace all
	if d.thread != nil {
		d.thread.stop()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.networks {
		for _, pl := range r.places {
			pl.ns.close()
		}
		r.ns.close()
	}
	d.home.close()
	return nil
}

func routerPin(network string) string         { return "r-" + network }
func attachmentPin(network, id string) string { return "a-" + network + "." + id }

func (d *namespaces) pinned(id string) bool {
	if d.pins == nil {
		return false
	}
	ns, err := d.pins.open(routerPin(id))
	if err == nil {
		ns.close()
	}
	return err == nil
}

// lock returns the network called id with its pass held. create opens or makes it
// if the driver does not know it; otherwise that is ErrNoNetwork.
func (d *namespaces) lock(id string, create bool) (*router, error) {
	for {
		d.mu.Lock()
		r := d.networks[id]
		if d.closed {
			d.mu.Unlock()
			return nil, net.ErrClosed
		}
		if r == nil && create {
			r = &router{id: id, places: map[string]*place{}}
			d.networks[id] = r
		}
		d.mu.Unlock()
		if r == nil {
			return nil, fmt.Errorf("network %s: %w", id, ErrNoNetwork)
		}
		r.pass.Lock()
		if !r.gone {
			return r, nil
		}
		r.pass.Unlock()
	}
}

// openNS returns the namespace pinned as name, or a new one. Without pins it is new.
func (d *namespaces) openNS(ctx context.Context, name string) (*namespace, error) {
	if d.pins != nil {
		ns, err := d.pins.open(name)
		if !errors.Is(err, fs.ErrNotExist) {
			return ns, err
		}
	}
	d.mu.Lock()
	ns := d.inherited[name]
	delete(d.inherited, name)
	d.mu.Unlock()
	if ns != nil {
		return ns, nil
	}
	err := d.thread.in(ctx, nil, func() (err error) {
		if ns, err = unshare(); err == nil && d.pins != nil {
			err = d.pins.add(name)
		}
		return err
	})
	if err != nil {
		ns.close()
		return nil, err
	}
	return ns, nil
}

// dropPinned ends a managed attachment's namespace that no router leads to.
func (d *namespaces) dropPinned(ctx context.Context, name string) error {
	ns, err := d.pins.open(name)
	if err == nil {
		err = d.evict(ctx, ns, "")
		ns.close()
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, d.pins.remove(name))
}

// pass is one run over a network: it compares what shall be with what is known,
// and makes the difference.
type pass struct {
	d    *namespaces
	r    *router
	old  Network // of the pass before
	n    Network
	errs map[string]error

	st      *state
	fresh   bool                    // st was read from the kernel in this pass
	wanted  map[netip.Addr]struct{} // n.Addresses and the lobby
	reguard bool                    // the guard may have to change
	rt      *netlink.Handle         // in the router's namespace; opened when first needed
}

type step struct {
	name string
	do   func(context.Context) error
}

// run makes the network what p.n says.
func (p *pass) run(ctx context.Context) error {
	return inOrder(ctx, []step{
		{"namespace", p.open},
		{"look", p.look},
		{"judge attachments", p.judge},
		{"take out attachments", p.detach},
		{"vswitches", p.bridges},
		{"addresses", p.addresses},
		{"guard", p.guard}, // before any port comes up
		{"redirects", p.lookRedirect},
		{"attachments", p.attach},
		{"routes", p.routes},
	})
}

// clear takes out of the network what is the host's, ends what runs in it, and
// deletes its devices all at once.
func (p *pass) clear(ctx context.Context) error {
	return inOrder(ctx, []step{
		{"namespace", p.open},
		{"look", p.look},
		{"give back devices", p.giveAllBack},
		{"end attachments", p.dropAll},
		{"delete devices", p.deleteDevices},
	})
}

func inOrder(ctx context.Context, steps []step) error {
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// open opens or makes the router's namespace.
func (p *pass) open(ctx context.Context) error {
	if p.r.ns != nil {
		return nil
	}
	ns, err := p.d.openNS(ctx, routerPin(p.r.id))
	if err != nil {
		return err
	}
	p.d.mu.Lock()
	p.r.ns = ns
	p.d.mu.Unlock()
	return nil
}

func (p *pass) close() {
	if p.rt != nil {
		p.rt.Close()
	}
}

// router returns the netlink handle of the router's namespace.
func (p *pass) router(ctx context.Context) (h *netlink.Handle, err error) {
	if p.rt == nil {
		p.rt, err = p.d.netlink(ctx, p.r.ns, nil)
	}
	return p.rt, err
}

// netlink opens a netlink handle inside ns, where it stays whoever uses it, and
// writes the sysctls, if any, on the way.
func (d *namespaces) netlink(ctx context.Context, ns *namespace, sysctls map[string]string) (h *netlink.Handle, err error) {
	err = d.thread.in(ctx, ns, func() error {
		if err := writeSysctls(sysctls); err != nil {
			return err
		}
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	return h, err
}

// request executes inside ns what the netlink package has no call for.
func (d *namespaces) request(ctx context.Context, ns *namespace, req *nl.NetlinkRequest) error {
	err := d.thread.in(ctx, ns, func() error {
		s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
		if err == nil {
			req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}
		}
		return err
	})
	if err != nil {
		return err
	}
	defer req.Sockets[unix.NETLINK_ROUTE].Close()
	_, err = req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// writeSysctls sets keys below /proc/sys/net of the calling thread's namespace, for
// which CAP_NET_ADMIN there is enough. A key that the kernel lacks is left out.
func writeSysctls(values map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(values)) {
		err := os.WriteFile("/proc/sys/net/"+key, []byte(values[key]), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (d *namespaces) Translate(_ string, seen netip.AddrPort) netip.AddrPort { return seen }

func (d *namespaces) Outside(string, netip.AddrPort) (netip.AddrPort, bool) {
	return netip.AddrPort{}, false
}
