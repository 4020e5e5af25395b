package verdict_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"
	"pgregory.net/rapid"

	"github.com/openprivatelink/openprivatelink/proxy/verdict"
)

// load makes a program run on packets that begin with an IP header of 20 bytes, to
// this host. What the kernel gives a listener's program begins at the TCP header,
// and the IP header is far behind it.
func load(tb interface{ Fatal(...any) }, raw []bpf.RawInstruction) *bpf.VM {
	code, ok := bpf.Disassemble(raw)
	if !ok {
		tb.Fatal("not a program")
	}
	const networkHeader = 1<<32 - 0x100000
	for i, c := range code {
		switch c := c.(type) {
		case bpf.LoadAbsolute:
			if c.Off >= networkHeader {
				c.Off -= networkHeader
			}
			code[i] = c
		case bpf.LoadExtension: // the kind of the packet
			code[i] = bpf.LoadConstant{Dst: bpf.RegA, Val: 0}
		}
	}
	vm, err := bpf.NewVM(code)
	if err != nil {
		tb.Fatal(err)
	}
	return vm
}

// syn is a packet that opens a flow.
func syn(source netip.Addr, to netip.AddrPort) []byte {
	p := make([]byte, 40)
	p[0], p[9] = 0x45, 6
	s, d := source.As4(), to.Addr().As4()
	copy(p[12:], s[:])
	copy(p[16:], d[:])
	binary.BigEndian.PutUint16(p[20:], 40000)
	binary.BigEndian.PutUint16(p[22:], to.Port())
	p[32], p[33] = 5<<4, 0x02
	return p
}

// large returns n rules of random prefixes and ports.
func large(n int, seed uint64) verdict.Group {
	random := rand.New(rand.NewPCG(seed, 1))
	g := verdict.Group{ID: "large"}
	for i := range n {
		a := netip.AddrFrom4([4]byte{10, byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32())})
		r := verdict.Rule{
			ID: fmt.Sprint(i), Priority: 1 + random.IntN(100), Policy: verdict.Accept, Protocol: verdict.TCP,
			Peer: netip.PrefixFrom(a, 16+random.IntN(17)),
		}
		if random.IntN(2) == 0 {
			r.Policy = verdict.Drop
		}
		if random.IntN(2) == 0 {
			r.From = uint16(random.IntN(1000))
			r.To = r.From + uint16(random.IntN(1000))
		}
		g.Rules = append(g.Rules, r)
	}
	return g
}

// Programs of many rules equal the reference at and beside the edges of prefixes,
// and are left out where they would be too long.
func TestLargePrograms(t *testing.T) {
	for _, n := range []int{1, 60, 200, 500, 1000, 5000} {
		groups := []verdict.Group{large(n, uint64(n))}
		raw := verdict.Compile(groups, nil).Program(verdict.TCP, 443)
		t.Logf("%d rules: %d instructions", n, len(raw))
		if want := n <= 500; raw != nil != want {
			t.Fatalf("%d rules: a program: %v, want %v", n, raw != nil, want)
		}
		if raw == nil {
			continue
		}
		vm := load(t, raw)
		for _, r := range groups[0].Rules {
			first := r.Peer.Masked().Addr()
			b := first.As4()
			last := binary.BigEndian.Uint32(b[:]) | uint32(1<<(32-r.Peer.Bits())-1)
			end := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, last)))
			for _, source := range []netip.Addr{first, first.Prev(), end, end.Next(), r.Peer.Addr()} {
				flow := verdict.Flow{Source: source, Protocol: verdict.TCP, Port: 443}
				got, err := vm.Run(syn(source, netip.AddrPortFrom(source, 443)))
				if want := verdict.Explain(groups, nil, flow).Accept; err != nil || got > 0 != want {
					t.Fatalf("%d rules: %v passes: %v %v, want %v", n, source, got > 0, err, want)
				}
			}
		}
	}
}

// The packet socket's program keeps what a door refuses, and nothing else.
func TestRefusedSeesWhatDoorsRefuse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type rules struct {
			groups []verdict.Group
			all    map[string]verdict.Group
		}
		at := map[netip.AddrPort]rules{}
		var doors []verdict.Door
		for range rapid.IntRange(0, 4).Draw(t, "doors") {
			door := genPlace.Draw(t, "door")
			if _, taken := at[door]; !taken {
				groups, all := genGroups(t, 3)
				at[door] = rules{groups, all}
				doors = append(doors, verdict.Door{Address: door, Filter: verdict.Compile(groups, all)})
			}
		}
		vm := load(t, verdict.Refused(doors))
		for range 30 {
			source := rapid.Custom(func(t *rapid.T) netip.Addr { return genPlace.Draw(t, "source").Addr() }).Draw(t, "source")
			to := genPlace.Draw(t, "to")
			r, ok := at[to]
			want := ok && !verdict.Explain(r.groups, r.all, verdict.Flow{Source: source, Protocol: verdict.TCP, Port: to.Port()}).Accept
			p := syn(source, to)
			if rapid.IntRange(0, 3).Draw(t, "other") == 0 {
				want = false
				switch rapid.IntRange(0, 3).Draw(t, "what") {
				case 0:
					p[33] = 0x12 // the answer to one
				case 1:
					p[33] = 0x10 // in the midst
				case 2:
					p[9] = 17 // UDP
				case 3:
					p[7] = 1 // a later fragment
				}
			}
			if got, err := vm.Run(p); err != nil || got > 0 != want {
				t.Fatalf("%v to %v, % x: kept: %v %v, want %v", source, to, p, got > 0, err, want)
			}
		}
	})
}

var genPlace = rapid.Custom(func(t *rapid.T) netip.AddrPort {
	a := netip.AddrFrom4([4]byte{10, 0, byte(rapid.IntRange(0, 3).Draw(t, "net")), byte(rapid.IntRange(0, 3).Draw(t, "host"))})
	return netip.AddrPortFrom(a, uint16(rapid.IntRange(0, 3).Draw(t, "port")))
})

// More doors than fit let every opening packet through, for the reader to judge.
func TestRefusedOfManyDoors(t *testing.T) {
	f := verdict.Compile([]verdict.Group{large(60, 1)}, nil)
	var doors []verdict.Door
	for i := range 200 {
		doors = append(doors, verdict.Door{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 443), Filter: f})
	}
	vm := load(t, verdict.Refused(doors))
	p := syn(addr("192.0.2.1"), netip.MustParseAddrPort("192.0.2.2:1"))
	if n, err := vm.Run(p); err != nil || n == 0 {
		t.Fatalf("an opening packet: %d bytes kept, %v", n, err)
	}
	p[33] = 0x10
	if n, err := vm.Run(p); err != nil || n != 0 {
		t.Fatalf("another packet: %d bytes kept, %v", n, err)
	}
}
