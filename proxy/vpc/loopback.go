//go:build unix

package vpc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
)

// loopback is the driver where there are no namespaces: address a.b.c.d of the
// network with number n is 127.n.c.d of this machine. Nothing is isolated.
type loopback struct {
	Config
	highPort bool // ports below 1024 are out of reach, and 20000 is added to them

	mu       sync.RWMutex
	networks map[string]Network
	lives    map[[2]string]*lifeline // of commands, by network and attachment
	closed   bool
}

// Limits of the mapping.
const (
	maxNumber     = 200
	lowPorts      = 1024
	lowPortOffset = 20000
)

func newLoopback(cfg Config) (Driver, error) {
	return &loopback{
		Config: cfg, highPort: !mayBindLow(),
		networks: map[string]Network{}, lives: map[[2]string]*lifeline{},
	}, nil
}

// mayBindLow reports whether this process may listen on ports below 1024. It tries
// one, because a machine has several ways to allow that.
func mayBindLow() bool {
	for port := lowPorts - 1; port > lowPorts-10; port-- { // some may be in use
		ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err == nil {
			ln.Close()
			return true
		}
		if errors.Is(err, os.ErrPermission) {
			return false
		}
	}
	return false
}

func (d *loopback) Capabilities() Capabilities {
	return Capabilities{Mode: ModeLoopback, Reason: d.Reason}
}

func (d *loopback) Ensure(_ context.Context, n Network) (map[string]error, error) {
	if err := n.check(); err != nil {
		return nil, err
	}
	if n.Number < 1 || n.Number > maxNumber {
		return nil, fmt.Errorf("network %s: loopback mode has room for %d networks, and none is left for this one", n.ID, maxNumber)
	}
	for _, c := range n.CIDRs {
		if c.Bits() < 16 || !base(n.CIDRs[0]).Contains(c.Addr()) {
			return nil, fmt.Errorf("network %s: loopback mode has room for one range of at most /16, not for %v", n.ID, n.CIDRs)
		}
	}
	refused := map[string]error{}
	for id, a := range n.Attachments {
		if a.Kind == Adopted || a.Kind == Interface {
			refused[id] = fmt.Errorf("attachment %s: namespaces and devices of the host need network mode %s", id, ModeNetns)
		}
	}
	if err := d.add(clone(n)); err != nil {
		return nil, err
	}
	d.endCommands()
	return refused, nil
}

func (d *loopback) add(n Network) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return net.ErrClosed
	}
	for id, other := range d.networks {
		if id != n.ID && other.Number == n.Number {
			return fmt.Errorf("network %s: number %d is that of network %s", n.ID, n.Number, id)
		}
	}
	d.networks[n.ID] = n
	return nil
}

// endCommands ends those of attachments that are gone, and waits for that.
func (d *loopback) endCommands() {
	var gone []*lifeline
	d.mu.Lock()
	for at, life := range d.lives {
		if _, ok := d.networks[at[0]].Attachments[at[1]]; !ok {
			gone = append(gone, life)
			delete(d.lives, at)
		}
	}
	d.mu.Unlock()
	for _, life := range gone {
		life.cut()
	}
}

func (d *loopback) Repair(ctx context.Context, id string) (map[string]error, error) {
	n, err := d.network(id)
	if err != nil {
		return nil, err
	}
	return d.Ensure(ctx, n)
}

func (d *loopback) Remove(_ context.Context, id string) error {
	d.mu.Lock()
	delete(d.networks, id)
	d.mu.Unlock()
	d.endCommands()
	return nil
}

func (d *loopback) Sweep(_ context.Context, keep map[string]Network) error {
	d.mu.Lock()
	maps.DeleteFunc(d.networks, func(id string, _ Network) bool {
		_, ok := keep[id]
		return !ok
	})
	d.mu.Unlock()
	d.endCommands()
	return nil
}

func (d *loopback) network(id string) (Network, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	n, ok := d.networks[id]
	if !ok {
		return n, fmt.Errorf("network %s: %w", id, ErrNoNetwork)
	}
	return n, nil
}

// base is the /16 that a network's addresses share.
func base(p netip.Prefix) netip.Prefix { return netip.PrefixFrom(p.Addr(), 16).Masked() }

// outside maps an address of n to this machine's.
func (d *loopback) outside(n Network, at netip.AddrPort) (netip.AddrPort, bool) {
	if len(n.CIDRs) == 0 || !base(n.CIDRs[0]).Contains(at.Addr()) {
		return netip.AddrPort{}, false
	}
	a, port := at.Addr().As4(), at.Port()
	if d.highPort && port > 0 && port < lowPorts {
		port += lowPortOffset
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(n.Number), a[2], a[3]}), port), true
}

func (d *loopback) Outside(network string, at netip.AddrPort) (netip.AddrPort, bool) {
	n, err := d.network(network)
	if err != nil {
		return netip.AddrPort{}, false
	}
	return d.outside(n, at)
}

func (d *loopback) Translate(network string, seen netip.AddrPort) netip.AddrPort {
	n, err := d.network(network)
	if err != nil || len(n.CIDRs) == 0 || !seen.Addr().Is4() {
		return seen
	}
	s, port := seen.Addr().As4(), seen.Port()
	if s[0] != 127 || s[1] != byte(n.Number) {
		return seen
	}
	if d.highPort && port > lowPortOffset && port < lowPortOffset+lowPorts {
		port -= lowPortOffset
	}
	b := base(n.CIDRs[0]).Addr().As4()
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{b[0], b[1], s[2], s[3]}), port)
}

func (d *loopback) Listen(ctx context.Context, network string, at netip.AddrPort) (net.Listener, error) {
	n, err := d.network(network)
	if err != nil {
		return nil, err
	}
	here, ok := d.outside(n, at)
	if !ok {
		return nil, fmt.Errorf("listen: %v is no address of network %s", at, network)
	}
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(ctx, "tcp4", here.String())
	return ln, d.hint(err, here.Addr())
}

func (d *loopback) Watch(context.Context, string, func(Opening)) (Watch, error) {
	return nil, fmt.Errorf("watch a network in loopback mode: %w", errors.ErrUnsupported)
}

func (d *loopback) Redirect(context.Context, string, []Ports, []Ports) error {
	return fmt.Errorf("%w: without isolation, every port of an address cannot be its own", ErrNoRanges)
}

func (d *loopback) Bind(_ context.Context, network string, at netip.AddrPort, o SocketOptions) (int, error) {
	if network == "" {
		return bindHere(at, o)
	}
	here, err := d.Reach(network, at)
	if err != nil {
		return -1, err
	}
	fd, err := bindHere(here, o)
	if err != nil {
		return -1, fmt.Errorf("bind %v: %w", at, d.hint(err, here.Addr()))
	}
	return fd, nil
}

func (d *loopback) Reach(network string, at netip.AddrPort) (netip.AddrPort, error) {
	n, err := d.network(network)
	if err != nil {
		return netip.AddrPort{}, err
	}
	here, ok := d.outside(n, at)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("%v is no address of network %s", at, network)
	}
	return here, nil
}

func (d *loopback) Thread() (Thread, error) { return anyThread{}, nil }

// anyThread makes sockets of this machine's, which is all there is.
type anyThread struct{}

func (anyThread) Enter(string) error { return nil }
func (anyThread) Leave() error       { return nil }
func (anyThread) Close()             {}

func (d *loopback) Dial(ctx context.Context, network string, local netip.Addr, to netip.AddrPort) (net.Conn, error) {
	n, err := d.network(network)
	if err != nil {
		return nil, err
	}
	from, ok := d.outside(n, netip.AddrPortFrom(local, 0))
	there, ok2 := d.outside(n, to)
	if !ok || !ok2 {
		return nil, fmt.Errorf("dial: %v or %v is no address of network %s", local, to, network)
	}
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from)}
	dialer.SetMultipathTCP(false)
	c, err := dialer.DialContext(ctx, "tcp4", there.String())
	return c, d.hint(err, from.Addr())
}

func (d *loopback) DialUDP(ctx context.Context, network string, local netip.Addr, to netip.AddrPort) (net.Conn, error) {
	n, err := d.network(network)
	if err != nil {
		return nil, err
	}
	from, ok := d.outside(n, netip.AddrPortFrom(local, 0))
	there, ok2 := d.outside(n, to)
	if !ok || !ok2 {
		return nil, fmt.Errorf("dial: %v or %v is no address of network %s", local, to, network)
	}
	c, err := (&net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(from)}).DialContext(ctx, "udp4", there.String())
	return c, d.hint(err, from.Addr())
}

// hint adds what to do where 127/8 is not all this machine's from the start.
func (d *loopback) hint(err error, a netip.Addr) error {
	if runtime.GOOS != "linux" && errors.Is(err, syscall.EADDRNOTAVAIL) {
		return fmt.Errorf("%w (try: sudo ifconfig lo0 alias %v)", err, a)
	}
	return err
}

func (d *loopback) DialFrom(ctx context.Context, network, attachment string, to netip.AddrPort) (net.Conn, error) {
	n, err := d.network(network)
	if err != nil {
		return nil, err
	}
	a, ok := n.Attachments[attachment]
	switch {
	case !ok:
		err = ErrNoAttachment
	case a.Kind != Managed && a.Kind != PublishedPort:
		err = ErrNoInside
	default:
		return d.Dial(ctx, network, a.Address, to)
	}
	return nil, fmt.Errorf("attachment %s of network %s: %w", attachment, network, err)
}

func (d *loopback) Start(_ context.Context, network, attachment string, c Command) error {
	n, err := d.network(network)
	if err != nil {
		return err
	}
	a, ok := n.Attachments[attachment]
	if !ok {
		return fmt.Errorf("attachment %s of network %s: %w", attachment, network, ErrNoAttachment)
	}
	at, ok := d.outside(n, netip.AddrPortFrom(a.Address, 0))
	if c.Control != nil || !slices.Equal(c.Args, a.Command) || !ok {
		return fmt.Errorf("attachment %s: %w", attachment, ErrNoExec)
	}
	life, ended, err := d.takeLife(network, attachment)
	if err != nil {
		return err
	}
	err = shim{
		Command: c, exec: d.Exec, directory: d.Dir, life: life,
		marks: marks(d.Installation, network, attachment, at.Addr()),
	}.start(func(int) {}, ended)
	if err != nil {
		ended()
		return fmt.Errorf("start a command in attachment %s: %w", attachment, err)
	}
	return nil
}

// Resume finds nothing: the engine is part of the control plane, and ends with it.
func (d *loopback) Resume(string, string, func(int)) bool { return false }

func (d *loopback) Inheritance() Inheritance { return Inheritance{Life: [2]int{-1, -1}} }

func (d *loopback) Close() error {
	d.mu.Lock()
	d.closed = true
	clear(d.networks)
	d.mu.Unlock()
	d.endCommands()
	return nil
}

// takeLife counts a command of an attachment that is there.
func (d *loopback) takeLife(network, attachment string) (end *os.File, ended func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.networks[network].Attachments[attachment]; !ok {
		return nil, nil, ErrNoAttachment
	}
	at := [2]string{network, attachment}
	if d.lives[at] == nil {
		if d.lives[at], err = newLifeline(); err != nil {
			delete(d.lives, at)
			return nil, nil, err
		}
	}
	return d.lives[at].take()
}
