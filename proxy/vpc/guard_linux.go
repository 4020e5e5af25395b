package vpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The guard lets a frame into the network only if its port may send it. Security
// groups, the PROXY protocol and the views of DNS trust source addresses; this is
// why they can. It is a table of the bridge family whose rules never change, over
// sets that say what each port may do; they are changed in one transaction.
//
//   - A frame's hardware address is the one its port was given. Behind a host
//     interface it may be any but those, because who is there is not known.
//   - An ARP message claims the attachment's own address, and asks for one of its
//     own vSwitch: a gateway or endpoint answers on its own bridge only.
//   - An IPv4 source is the attachment's own address. An attachment that custom
//     routes lead to may also send from what lies behind it, which is the routes'
//     destinations, but never from a vSwitch's range: not as another attachment,
//     not as a gateway, not as an endpoint.
//   - Everything else is dropped, IPv6 too.
//
// The prerouting hook sees frames of ports before the bridge learns from them;
// what the router itself sends takes other hooks. Frames to link-local groups skip
// prerouting, and are dropped at the input hook.
const (
	guardTable  = "openprivatelink_" + guardFormat
	guardFormat = "1" // of rules and sets; an adopted network with another one gets them anew
)

// The sets of the guard.
const (
	setStations = "stations" // port . hardware address
	setTrunks   = "trunks"   // ports with unknown hardware addresses behind them
	setReserved = "reserved" // hardware addresses that those must not use
	setOwners   = "owners"   // port . address it may claim
	setSubnets  = "subnets"  // port . range it may ask for
	setSources  = "sources"  // port . range it may send from
)

// neverSources are no host's address.
var neverSources = []span{
	spanOf(netip.MustParsePrefix("0.0.0.0/8")),
	spanOf(netip.MustParsePrefix("127.0.0.0/8")),
	spanOf(netip.MustParsePrefix("169.254.0.0/16")),
	spanOf(netip.MustParsePrefix("224.0.0.0/3")),
}

// guardSets returns the sets as declared to the kernel, in a fixed order.
func guardSets(t *nftables.Table) []*nftables.Set {
	portMAC := nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr)
	portIP := nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr)
	sets := []*nftables.Set{
		{Table: t, Name: setStations, KeyType: portMAC, Concatenation: true},
		{Table: t, Name: setTrunks, KeyType: nftables.TypeIFName},
		{Table: t, Name: setReserved, KeyType: nftables.TypeEtherAddr},
		{Table: t, Name: setOwners, KeyType: portIP, Concatenation: true},
		{Table: t, Name: setSubnets, KeyType: portIP, Concatenation: true, Interval: true},
		{Table: t, Name: setSources, KeyType: portIP, Concatenation: true, Interval: true},
	}
	for i, s := range sets {
		s.ID = uint32(i + 1) // within a transaction; left to the library, it comes from an unguarded counter
	}
	return sets
}

// guard brings the guard to what the network says now.
func (p *pass) guard(ctx context.Context) error {
	if !p.reguard {
		return nil
	}
	want := p.guardEntries()
	if p.st.guard != nil && maps.EqualFunc(want, p.st.guard, sameKeys) {
		return nil
	}
	c, err := p.d.nftables(ctx, p.r.ns)
	if err != nil {
		return err
	}
	defer closeNftables(c)
	if p.st.guard == nil {
		err = installGuard(c, want)
	} else {
		err = changeGuard(c, p.st.guard, want)
	}
	if err == nil {
		p.st.guard = want
	}
	return err
}

// guardEntries says what each port may do.
func (p *pass) guardEntries() map[string]map[string]setEntry {
	entries := map[string]map[string]setEntry{}
	for _, s := range guardSets(nil) {
		entries[s.Name] = map[string]setEntry{}
	}
	add := func(set string, key, end []byte) {
		entries[set][string(key)+string(end)] = setEntry{Key: key, KeyEnd: end}
	}
	behind := map[string][]span{} // destinations of custom routes, by attachment
	for _, r := range p.n.Routes {
		behind[r.Attachment] = append(behind[r.Attachment], spanOf(r.To))
	}
	never := slices.Clone(neverSources)
	for _, v := range p.n.VSwitches {
		never = append(never, spanOf(v.CIDR))
		add(setReserved, p.mac("gateway", v.ID), nil)
	}
	for a := range p.st.stray {
		never = append(never, spanOf(netip.PrefixFrom(a, 32)))
	}
	for id := range p.n.Attachments {
		a, ok := p.place(id)
		if !ok {
			continue
		}
		port, v := portName(id), must(p.n.vswitch(a.VSwitch))
		if a.Kind == Interface {
			add(setTrunks, port, nil)
		} else {
			hw := p.mac("attachment", id)
			add(setStations, slices.Concat(port, hw, []byte{0, 0}), nil)
			add(setReserved, hw, nil)
		}
		add(setOwners, slices.Concat(port, a.Address.AsSlice()), nil)
		subnet := spanOf(v.CIDR)
		add(setSubnets, portAddr(port, subnet.from), portAddr(port, subnet.to))
		own := number(a.Address)
		for _, s := range append(without(behind[id], never), span{own, own}) {
			add(setSources, portAddr(port, s.from), portAddr(port, s.to))
		}
	}
	return entries
}

// portName is the key of an attachment's port in the sets.
func portName(attachment string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, deviceName(portPrefix, attachment))
	return b
}

func portAddr(port []byte, a uint32) []byte {
	return binary.BigEndian.AppendUint32(slices.Clone(port), a)
}

// lookGuard reads the sets of a guard that is there already.
func (p *pass) lookGuard(ctx context.Context, st *state) error {
	c, err := p.d.nftables(ctx, p.r.ns)
	if err != nil {
		return err
	}
	defer closeNftables(c)
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyBridge)
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	at := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == guardTable })
	if at < 0 {
		return nil
	}
	entries := map[string]map[string]setEntry{}
	for _, s := range guardSets(tables[at]) {
		elements, err := c.GetSetElements(s)
		if err != nil {
			return fmt.Errorf("list set %s: %w", s.Name, err)
		}
		entries[s.Name] = map[string]setEntry{}
		for _, e := range elements {
			entries[s.Name][string(e.Key)+string(e.KeyEnd)] = setEntry{Key: e.Key, KeyEnd: e.KeyEnd}
		}
	}
	st.guard = entries
	return nil
}

// installGuard makes the whole guard in one transaction, in place of any other
// format's.
func installGuard(c *nftables.Conn, want map[string]map[string]setEntry) error {
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyBridge)
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	for _, t := range tables {
		if strings.HasPrefix(t.Name, "openprivatelink_") {
			c.DelTable(t)
		}
	}
	t := c.AddTable(&nftables.Table{Name: guardTable, Family: nftables.TableFamilyBridge})
	sets := map[string]*nftables.Set{}
	for _, s := range guardSets(t) {
		sets[s.Name] = s
		if err := c.AddSet(s, nil); err != nil {
			return fmt.Errorf("declare set %s: %w", s.Name, err)
		}
		if err := inChunks(slices.Collect(maps.Values(want[s.Name])), s, c.SetAddElements); err != nil {
			return err
		}
	}
	drop, accept := nftables.ChainPolicyDrop, nftables.ChainPolicyAccept
	base := func(name string, hook *nftables.ChainHook, policy *nftables.ChainPolicy) *nftables.Chain {
		return c.AddChain(&nftables.Chain{
			Table: t, Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook,
			Priority: nftables.ChainPriorityRef(-300), Policy: policy,
		})
	}
	frames := base("frames", nftables.ChainHookPrerouting, &drop)
	groups := base("groups", nftables.ChainHookInput, &accept)
	stations := c.AddChain(&nftables.Chain{Table: t, Name: "from_stations"})
	trunks := c.AddChain(&nftables.Chain{Table: t, Name: "from_trunks"})
	rule := func(chain *nftables.Chain, verdict *expr.Verdict, parts ...[]expr.Any) {
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: append(slices.Concat(parts...), verdict)})
	}
	in := func(set string, not bool) []expr.Any {
		return []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: set, SetID: sets[set].ID, Invert: not}}
	}
	ok := &expr.Verdict{Kind: expr.VerdictAccept}

	rule(frames, jump(stations), fromPort, then(etherSource), in(setStations, false))
	rule(frames, jump(trunks), fromPort, in(setTrunks, false), only(etherSource), in(setReserved, true))
	for _, chain := range []*nftables.Chain{stations, trunks} {
		rule(chain, ok, etherType(unix.ETH_P_IP), fromPort, then(ipSource), in(setSources, false))
	}
	arp := slices.Concat(etherType(unix.ETH_P_ARP), arpHeader,
		fromPort, then(arpSenderIP), in(setOwners, false), fromPort, then(arpTargetIP), in(setSubnets, false))
	rule(stations, ok, arp, fromPort, then(arpSenderMAC), in(setStations, false))
	rule(trunks, ok, arp, only(arpSenderMAC), in(setReserved, true))
	rule(groups, &expr.Verdict{Kind: expr.VerdictDrop}, linkLocalGroup)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("install the guard: %w", err)
	}
	return nil
}

// changeGuard makes the difference between two contents, in one transaction.
func changeGuard(c *nftables.Conn, has, want map[string]map[string]setEntry) error {
	t := &nftables.Table{Name: guardTable, Family: nftables.TableFamilyBridge}
	for _, s := range guardSets(t) {
		if err := inChunks(missing(has[s.Name], want[s.Name]), s, c.SetDeleteElements); err != nil {
			return err
		}
		if err := inChunks(missing(want[s.Name], has[s.Name]), s, c.SetAddElements); err != nil {
			return err
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("change the guard: %w", err)
	}
	return nil
}

// inChunks calls do for as many entries as one message holds: its attribute is
// measured in 16 bits.
func inChunks(entries []setEntry, s *nftables.Set, do func(*nftables.Set, []nftables.SetElement) error) error {
	const most = 500
	for chunk := range slices.Chunk(entries, most) {
		if err := do(s, chunk); err != nil {
			return fmt.Errorf("set %s: %w", s.Name, err)
		}
	}
	return nil
}

func sameKeys(a, b map[string]setEntry) bool { return len(a) == len(b) && len(missing(a, b)) == 0 }

// missing returns the entries of a that b lacks.
func missing(a, b map[string]setEntry) (out []setEntry) {
	for k, e := range a {
		if _, ok := b[k]; !ok {
			out = append(out, e)
		}
	}
	return out
}

// nftables opens a connection inside ns, where it stays.
func (d *namespaces) nftables(ctx context.Context, ns *namespace) (c *nftables.Conn, err error) {
	err = d.thread.in(ctx, ns, func() error {
		c, err = nftables.New(nftables.AsLasting())
		return err
	})
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		err = fmt.Errorf("the kernel has no nf_tables: %w", err)
	}
	return c, err
}

func closeNftables(c *nftables.Conn) { _ = c.CloseLasting() } // a socket: there is nothing to lose

// The expressions of the rules. Key parts lie in registers of 16 bytes, the port in
// the first and what follows it in the second.

// field is a part of a frame.
type field struct {
	base        expr.PayloadBase
	offset, len uint32
}

var (
	etherDest    = field{expr.PayloadBaseLLHeader, 0, 6}
	etherSource  = field{expr.PayloadBaseLLHeader, 6, 6}
	ipSource     = field{expr.PayloadBaseNetworkHeader, 12, 4}
	arpFixed     = field{expr.PayloadBaseNetworkHeader, 0, 6}
	arpOperation = field{expr.PayloadBaseNetworkHeader, 6, 2}
	arpSenderMAC = field{expr.PayloadBaseNetworkHeader, 8, 6}
	arpSenderIP  = field{expr.PayloadBaseNetworkHeader, 14, 4}
	arpTargetIP  = field{expr.PayloadBaseNetworkHeader, 24, 4}
)

func load(f field, register uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: register, Base: f.base, Offset: f.offset, Len: f.len}}
}

func only(f field) []expr.Any { return load(f, 1) }
func then(f field) []expr.Any { return load(f, 2) }

func compare(op expr.CmpOp, value ...byte) expr.Any {
	return &expr.Cmp{Op: op, Register: 1, Data: value}
}

func jump(to *nftables.Chain) *expr.Verdict {
	return &expr.Verdict{Kind: expr.VerdictJump, Chain: to.Name}
}

func etherType(t uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1},
		compare(expr.CmpOpEq, binaryutil.BigEndian.PutUint16(t)...),
	}
}

var (
	fromPort = []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}}

	// Ethernet, IPv4, their lengths, and a request or a reply.
	arpHeader = append(
		append(only(arpFixed), compare(expr.CmpOpEq, 0, 1, 8, 0, 6, 4)),
		append(only(arpOperation), compare(expr.CmpOpGte, 0, 1), compare(expr.CmpOpLte, 0, 2))...)

	// 01:80:c2:00:00:00 to 0f.
	linkLocalGroup = append(only(etherDest),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 6, Mask: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xf0}, Xor: make([]byte, 6)},
		compare(expr.CmpOpEq, 0x01, 0x80, 0xc2, 0, 0, 0))
)
