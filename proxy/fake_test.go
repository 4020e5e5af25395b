package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// fake is a driver on 127/8 that can be told to fail. A network is one of 127.N,
// so that networks with the same ranges stay apart.
type fake struct {
	fail func(op, id string) error // nil result: go on

	start func(network, attachment string, c vpc.Command) error // nil: no command can be run

	mu       sync.Mutex
	networks map[string]vpc.Network
	numbers  map[string]byte
	repaired []string
}

// numbers of fake networks, apart from those that the loopback driver uses.
var nextNumber atomic.Int32

func newFake() *fake {
	return &fake{networks: map[string]vpc.Network{}, numbers: map[string]byte{}}
}

func (d *fake) fault(op, id string) error {
	d.mu.Lock()
	fail := d.fail
	d.mu.Unlock()
	if fail == nil {
		return nil
	}
	return fail(op, id)
}

func (d *fake) failing(fail func(op, id string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = fail
}

func (d *fake) Ensure(_ context.Context, n vpc.Network) (map[string]error, error) {
	if err := d.fault("ensure", n.ID); err != nil {
		return nil, err
	}
	faults := map[string]error{}
	for id := range n.Attachments {
		if err := d.fault("attach", id); err != nil {
			faults[id] = err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.networks[n.ID] = n
	if d.numbers[n.ID] == 0 {
		d.numbers[n.ID] = byte(201 + (nextNumber.Add(1)-1)%54)
	}
	return faults, nil
}

func (d *fake) Repair(ctx context.Context, id string) (map[string]error, error) {
	d.mu.Lock()
	n := d.networks[id]
	d.repaired = append(d.repaired, id)
	d.mu.Unlock()
	return d.Ensure(ctx, n)
}

func (d *fake) Remove(_ context.Context, id string) error {
	if err := d.fault("remove", id); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.networks, id)
	return nil
}

func (d *fake) Sweep(context.Context, map[string]vpc.Network) error { return nil }

func (d *fake) outside(network string, a netip.Addr) (netip.Addr, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.networks[network]; !ok {
		return netip.Addr{}, fmt.Errorf("network %q was not made", network)
	}
	b := a.As4()
	return netip.AddrFrom4([4]byte{127, d.numbers[network], b[2], b[3]}), nil
}

func (d *fake) Listen(ctx context.Context, network string, at netip.AddrPort) (net.Listener, error) {
	if err := d.fault("listen", at.String()); err != nil {
		return nil, err
	}
	a, err := d.outside(network, at.Addr())
	if err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, "tcp4", netip.AddrPortFrom(a, at.Port()).String())
}

func (d *fake) Bind(ctx context.Context, network string, at netip.AddrPort, o vpc.SocketOptions) (int, error) {
	if network == "" {
		return host.Bind(ctx, network, at, o)
	}
	if err := d.fault("listen", at.String()); err != nil {
		return -1, err
	}
	here, err := d.Reach(network, at)
	if err != nil {
		return -1, err
	}
	return host.Bind(ctx, "", here, o)
}

func (d *fake) Redirect(context.Context, string, []vpc.Ports, []vpc.Ports) error {
	return vpc.ErrNoRanges
}

// host makes sockets on 127/8.
var host = func() vpc.Driver {
	d, err := vpc.New(vpc.Config{Installation: "fake", Mode: vpc.ModeLoopback})
	if err != nil {
		panic(err)
	}
	return d
}()

func (d *fake) Reach(network string, at netip.AddrPort) (netip.AddrPort, error) {
	if at.Port() != 0 {
		if err := d.fault("dial", at.String()); err != nil {
			return netip.AddrPort{}, err
		}
	}
	a, err := d.outside(network, at.Addr())
	return netip.AddrPortFrom(a, at.Port()), err
}

func (d *fake) Thread() (vpc.Thread, error) { return host.Thread() }

func (d *fake) Dial(ctx context.Context, network string, local netip.Addr, to netip.AddrPort) (net.Conn, error) {
	if err := d.fault("dial", to.String()); err != nil {
		return nil, err
	}
	from, err := d.outside(network, local)
	if err != nil {
		return nil, err
	}
	there, err := d.outside(network, to.Addr())
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	return dialer.DialContext(ctx, "tcp4", netip.AddrPortFrom(there, to.Port()).String())
}

func (d *fake) DialUDP(ctx context.Context, network string, local netip.Addr, to netip.AddrPort) (net.Conn, error) {
	from, err := d.outside(network, local)
	if err != nil {
		return nil, err
	}
	there, err := d.outside(network, to.Addr())
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	return dialer.DialContext(ctx, "udp4", netip.AddrPortFrom(there, to.Port()).String())
}

func (d *fake) DialFrom(ctx context.Context, network, attachment string, to netip.AddrPort) (net.Conn, error) {
	d.mu.Lock()
	a, ok := d.networks[network].Attachments[attachment]
	d.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("no attachment %q in %q", attachment, network)
	}
	return d.Dial(ctx, network, a.Address, to)
}

func (d *fake) Watch(context.Context, string, func(vpc.Opening)) (vpc.Watch, error) {
	return nil, errors.ErrUnsupported
}

func (d *fake) Translate(_ string, seen netip.AddrPort) netip.AddrPort {
	b := seen.Addr().As4()
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, b[2], b[3]}), seen.Port())
}

func (d *fake) Outside(network string, at netip.AddrPort) (netip.AddrPort, bool) {
	a, err := d.outside(network, at.Addr())
	return netip.AddrPortFrom(a, at.Port()), err == nil
}

func (d *fake) Start(_ context.Context, network, attachment string, c vpc.Command) error {
	if d.start == nil {
		return vpc.ErrNoExec
	}
	return d.start(network, attachment, c)
}

func (d *fake) Resume(string, string, func(int)) bool { return false }

func (d *fake) Inheritance() vpc.Inheritance { return host.Inheritance() }

func (d *fake) Capabilities() vpc.Capabilities {
	return vpc.Capabilities{Mode: "fake", Reason: "a test"}
}

func (d *fake) Close() error { return nil }

func (d *fake) made() map[string]vpc.Network {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.networks)
}
