package vpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The redirect leads connections to ranges of ports to one socket, at [Lobby]. It
// is a table of rules that never change over a set of ranges, which is changed in
// one transaction; the first range installs it, and it stays for as long as the
// network, because the flows that it led need it. Only then does the network's
// router remember connections: a network without ranges pays nothing.
//
//   - Nobody sends to the lobby by himself: packets to it from outside the router
//     are dropped before anything translates their destination.
//   - Only the first packet of a connection is looked at. Those that stood before
//     there was a range around their port stay where they are.
const (
	redirectTable  = "openprivatelink_ranges_" + redirectFormat
	redirectFormat = "1"   // of rules and sets; one of another is replaced
	setPorts       = "tcp" // address . range of ports
	redirectChains = 3     // with one rule each
	tcpFlags       = 0x17  // FIN, SYN, RST and ACK
	tcpOpening     = 0x02  // of those, in the first packet
	registerPort   = 9     // the second 4 bytes of a key that begins in register 1
	priorityRaw    = -300  // before connections are looked up
	priorityNAT    = -100  //
)

// redirects is the redirect of one network.
type redirects struct {
	mu   sync.Mutex
	want map[string]setEntry // by content
	has  map[string]setEntry // what the table holds; nil: there is none, or it is not known
}

func portsSet(t *nftables.Table) *nftables.Set {
	return &nftables.Set{
		Table: t, Name: setPorts, ID: 1, Concatenation: true, Interval: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService),
	}
}

func (p Ports) entry() setEntry {
	key := func(port uint16) []byte { // each part fills 4 bytes
		return append(binary.BigEndian.AppendUint16(p.At.AsSlice(), port), 0, 0)
	}
	return setEntry{Key: key(p.First), KeyEnd: key(p.Last)}
}

func (d *namespaces) Redirect(ctx context.Context, network string, open, closed []Ports) error {
	d.mu.RLock()
	r := d.networks[network]
	d.mu.RUnlock()
	ns, err := d.routerOf(network)
	if err != nil {
		return fmt.Errorf("redirect ports: %w", err)
	}
	r.redirects.mu.Lock()
	defer r.redirects.mu.Unlock()
	want := maps.Clone(r.redirects.want)
	if want == nil {
		want = map[string]setEntry{}
	}
	for _, p := range closed {
		e := p.entry()
		delete(want, string(e.Key)+string(e.KeyEnd))
	}
	for _, p := range open {
		e := p.entry()
		want[string(e.Key)+string(e.KeyEnd)] = e
	}
	was := r.redirects.want
	r.redirects.want = want
	if err := d.redirect(ctx, ns, &r.redirects); err != nil {
		if len(closed) == 0 { // what cannot be opened is not wanted; what is closed stays so
			r.redirects.want = was
		}
		return fmt.Errorf("redirect ports: %w", err)
	}
	return nil
}

// redirect brings the table to what is wanted. The caller holds mu of r.
func (d *namespaces) redirect(ctx context.Context, ns *namespace, r *redirects) error {
	if sameElements(r.has, r.want) {
		return nil
	}
	c, err := d.nftables(ctx, ns)
	if err != nil {
		return err
	}
	defer closeNftables(c)
	if r.has != nil {
		if err := changeRedirect(c, r.has, r.want); err == nil {
			r.has = r.want
			return nil
		}
		r.has = nil // somebody else has been at it
	}
	if err := d.thread.in(ctx, ns, func() error { return writeSysctls(redirectSysctls) }); err != nil {
		return err
	}
	if err := installRedirect(c, r.want); err != nil {
		return err
	}
	r.has = r.want
	return nil
}

// redirectSysctls keep packets that the kernel takes for stray from being left as
// they are, and so from meeting no socket and a reset.
var redirectSysctls = map[string]string{"netfilter/nf_conntrack_tcp_be_liberal": "1"}

// sameElements also takes no table for one without elements.
func sameElements(has, want map[string]setEntry) bool {
	return len(has) == len(want) && len(missing(want, has)) == 0
}

// lookRedirect reads the table once more, and puts right what is not as wanted.
func (p *pass) lookRedirect(ctx context.Context) error {
	if !p.fresh {
		return nil
	}
	r := &p.r.redirects
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := p.d.nftables(ctx, p.r.ns)
	if err != nil {
		return err
	}
	r.has, err = readRedirect(c)
	closeNftables(c)
	if err != nil {
		return err
	}
	return p.d.redirect(ctx, p.r.ns, r)
}

// readRedirect returns the elements of the table; nil if it is not there or has
// lost rules.
func readRedirect(c *nftables.Conn) (map[string]setEntry, error) {
	t := &nftables.Table{Name: redirectTable, Family: nftables.TableFamilyIPv4}
	chains, err := c.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	rules := 0
	for _, chain := range chains {
		if chain.Table.Name != t.Name {
			continue
		}
		list, err := c.GetRules(t, chain)
		if err != nil {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		rules += len(list)
	}
	if rules != redirectChains {
		return nil, nil
	}
	elements, err := c.GetSetElements(portsSet(t))
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list set %s: %w", setPorts, err)
	}
	has := map[string]setEntry{}
	for _, e := range elements {
		has[string(e.Key)+string(e.KeyEnd)] = setEntry{Key: e.Key, KeyEnd: e.KeyEnd}
	}
	return has, nil
}

// changeRedirect makes the difference between two contents, in one transaction.
func changeRedirect(c *nftables.Conn, has, want map[string]setEntry) error {
	s := portsSet(&nftables.Table{Name: redirectTable, Family: nftables.TableFamilyIPv4})
	if err := inChunks(missing(has, want), s, c.SetDeleteElements); err != nil {
		return err
	}
	if err := inChunks(missing(want, has), s, c.SetAddElements); err != nil {
		return err
	}
	return c.Flush()
}

// installRedirect makes the whole table in one transaction, in place of one that is
// there, of any format.
func installRedirect(c *nftables.Conn, want map[string]setEntry) error {
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	for _, t := range tables {
		if strings.HasPrefix(t.Name, "openprivatelink_") {
			c.DelTable(t)
		}
	}
	t := c.AddTable(&nftables.Table{Name: redirectTable, Family: nftables.TableFamilyIPv4})
	s := portsSet(t)
	if err := c.AddSet(s, nil); err != nil {
		return fmt.Errorf("declare set %s: %w", s.Name, err)
	}
	if err := inChunks(slices.Collect(maps.Values(want)), s, c.SetAddElements); err != nil {
		return err
	}
	chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority, rule ...expr.Any) {
		ch := c.AddChain(&nftables.Chain{Table: t, Name: name, Type: kind, Hooknum: hook, Priority: &priority})
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: rule})
	}
	lobby := Lobby.Addr().AsSlice()
	chain("strangers", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, priorityRaw, slices.Concat(
		[]expr.Any{&expr.Meta{Key: expr.MetaKeyIIF, Register: 1}, compare(expr.CmpOpNeq, binary.NativeEndian.AppendUint32(nil, loopbackIndex)...)},
		only(ipDestination), []expr.Any{compare(expr.CmpOpEq, lobby...), &expr.Verdict{Kind: expr.VerdictDrop}},
	)...)
	led := slices.Concat(
		[]expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, compare(expr.CmpOpEq, unix.IPPROTO_TCP)},
		only(tcpFlagByte), []expr.Any{
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{tcpFlags}, Xor: []byte{0}},
			compare(expr.CmpOpEq, tcpOpening),
		},
		only(ipDestination), load(transportDestination, registerPort), []expr.Any{
			&expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID},
			&expr.Immediate{Register: 1, Data: lobby},
			&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, Lobby.Port())},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
		})
	chain("arriving", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, priorityNAT, led...)
	chain("leaving", nftables.ChainTypeNAT, nftables.ChainHookOutput, priorityNAT, led...) // from the router's own addresses
	if err := c.Flush(); err != nil {
		return fmt.Errorf("install the table: %w", err)
	}
	return nil
}

var (
	ipDestination        = field{expr.PayloadBaseNetworkHeader, 16, 4}
	tcpFlagByte          = field{expr.PayloadBaseTransportHeader, 13, 1}
	transportDestination = field{expr.PayloadBaseTransportHeader, 2, 2}
)

// OriginalDestination returns where the client of a connection wanted to go that
// was redirected; the zero one if that is not known.
func OriginalDestination(fd int) netip.AddrPort {
	// As large as sockaddr_in, which no other option of this call's shape is.
	m, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, unix.SO_ORIGINAL_DST)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(m.Multiaddr[4:8])), binary.BigEndian.Uint16(m.Multiaddr[2:4]))
}
