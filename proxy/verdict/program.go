package verdict

import (
	"maps"
	"math"
	"net/netip"
	"slices"

	"golang.org/x/net/bpf"
)

// Limits of programs: what Linux takes, and how many ranges of sources of one
// verdict a listener's program tells apart.
const (
	maxInstructions = 4096
	maxRanges       = 500
)

// What programs read and answer. A listener's program sees packets from the TCP
// header on, and the IP header at networkHeader; a packet socket's, from the IP
// header on.
const (
	networkHeader = 1<<32 - 0x100000 // SKF_NET_OFF

	offsetFragment    = 6
	offsetProtocol    = 9
	offsetSource      = 12
	offsetDestination = 16
	offsetPort        = 2  // of the TCP header: destination
	offsetFlags       = 13 // of the TCP header

	toThisHost   = 0 // PACKET_HOST
	protocolTCP  = 6
	fragmentMask = 0x1fff // all but the first fragment have some of it
	flagSYN      = 0x02
	flagACK      = 0x10

	keep = math.MaxUint32 // bytes of the packet
	drop = 0
)

// stretch is the addresses from one on, up to the next stretch.
type stretch struct {
	from   uint32
	accept bool
}

// sources says who may open a flow: which IPv4 addresses, in ascending order from
// 0.0.0.0 on.
func (f *Filter) sources(p Protocol, port uint16) (list []stretch) {
	begin := func(from uint32, rank int32) {
		s := stretch{from, rank != undecided && f.traces[rank].Accept}
		if n := len(list); n > 0 && list[n-1].from == from {
			list = list[:n-1] // a narrower node begins at the same address
		}
		if n := len(list); n == 0 || list[n-1].accept != s.accept {
			list = append(list, s)
		}
	}
	at := slot(p, port)
	ranks := make([]int32, len(f.v4))
	outer := func(i int32) int32 { // the rank around node i
		if i = f.nodes[i].parent; i < 0 {
			return undecided
		}
		return ranks[i]
	}
	end := func(i int32) { // what follows node i
		if last := lastOf(f.nodes[i].Prefix); last != math.MaxUint32 {
			begin(last+1, outer(i))
		}
	}
	begin(0, undecided)
	in := int32(-1)
	for i, first := range f.v4 {
		for in != f.nodes[i].parent {
			end(in)
			in = f.nodes[in].parent
		}
		in = int32(i)
		ranks[i] = f.rank(&f.nodes[i], at, outer(in))
		begin(first, ranks[i])
	}
	for ; in >= 0; in = f.nodes[in].parent {
		end(in)
	}
	return list
}

// lastOf returns the last address of a prefix of IPv4.
func lastOf(p netip.Prefix) uint32 {
	return number(p.Addr()) | uint32(uint64(math.MaxUint32)>>p.Bits())
}

// Program compiles, for the socket that listens at port, which sources may open a
// flow: it is the answer of f.Explain for IPv4, as classic BPF. It is nil if nobody
// is refused, and if it would have too many ranges or instructions.
func (f *Filter) Program(p Protocol, port uint16) []bpf.RawInstruction {
	list := f.sources(p, port)
	if len(list) > maxRanges || len(list) == 1 && list[0].accept {
		return nil
	}
	program, _ := assemble(judge(networkHeader+offsetSource, list, keep, drop))
	return program
}

// judge answers accepted for sources that list accepts, and else refused.
func judge(offset uint32, list []stretch, accepted, refused uint32) []bpf.Instruction {
	var pieces []piece
	for _, s := range list {
		p := piece{s.from, answer(refused)}
		if s.accept {
			p.code = answer(accepted)
		}
		pieces = append(pieces, p)
	}
	return choose(bpf.LoadAbsolute{Off: offset, Size: 4}, pieces)
}

// piece is what to do for numbers from one on, up to the next piece.
type piece struct {
	from uint32
	code []bpf.Instruction
}

func answer(bytes uint32) []bpf.Instruction {
	return []bpf.Instruction{bpf.RetConstant{Val: bytes}}
}

// choose does what the piece of the loaded number says. The first begins at 0.
func choose(load bpf.Instruction, list []piece) []bpf.Instruction {
	if len(list) == 1 {
		return list[0].code
	}
	return append([]bpf.Instruction{load}, halve(list)...)
}

func halve(list []piece) []bpf.Instruction {
	if len(list) == 1 {
		return list[0].code
	}
	middle := len(list) / 2
	below, above := halve(list[:middle]), halve(list[middle:])
	jump := bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: list[middle].from}
	if len(below) <= math.MaxUint8 {
		jump.SkipTrue = uint8(len(below))
		return slices.Concat([]bpf.Instruction{jump}, below, above)
	}
	jump.SkipFalse = 1 // the other way is farther than a condition can jump
	return slices.Concat([]bpf.Instruction{jump, bpf.Jump{Skip: uint32(len(below))}}, below, above)
}

// Door is a socket that listens at Address, with Filter's program.
type Door struct {
	Address netip.AddrPort
	Filter  *Filter
}

// Refused compiles, for a packet socket, which packets to this host would open a
// flow that one of doors refuses. Where that takes too many instructions, the
// program keeps every packet that would open a flow to anybody.
func Refused(doors []Door) []bpf.RawInstruction {
	code, ok := toDoors(doors)
	if ok {
		if program, ok := assemble(slices.Concat(opening, code)); ok {
			return program
		}
	}
	program, _ := assemble(slices.Concat(opening, answer(keep)))
	return program
}

// opening goes on for packets to this host that open a flow, with the length of
// the IP header in X.
var opening = []bpf.Instruction{
	bpf.LoadExtension{Num: bpf.ExtType},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: toThisHost, SkipFalse: 8}, // the port of a bridge sees another's
	bpf.LoadAbsolute{Off: offsetProtocol, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: protocolTCP, SkipFalse: 6},
	bpf.LoadAbsolute{Off: offsetFragment, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: fragmentMask, SkipTrue: 4},
	bpf.LoadMemShift{Off: 0},
	bpf.LoadIndirect{Off: offsetFlags, Size: 1},
	bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: flagSYN | flagACK},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: flagSYN, SkipTrue: 1},
	bpf.RetConstant{Val: drop},
}

// toDoors keeps what one of doors refuses. ok is false if it is too long.
func toDoors(doors []Door) (code []bpf.Instruction, ok bool) {
	codes := map[netip.AddrPort][]bpf.Instruction{}
	length := 0
	for _, d := range doors {
		codes[d.Address] = judge(offsetSource, d.Filter.sources(TCP, d.Address.Port()), drop, keep)
		if length += len(codes[d.Address]); length > maxInstructions {
			return nil, false
		}
	}
	ports := map[netip.Addr][]piece{}
	for _, door := range slices.SortedFunc(maps.Keys(codes), netip.AddrPort.Compare) {
		at := door.Addr()
		if ports[at] == nil {
			ports[at] = []piece{{0, answer(drop)}}
		}
		ports[at] = only(ports[at], uint32(door.Port()), codes[door])
	}
	addresses := []piece{{0, answer(drop)}}
	for _, at := range slices.SortedFunc(maps.Keys(ports), netip.Addr.Compare) {
		code := choose(bpf.LoadIndirect{Off: offsetPort, Size: 2}, ports[at])
		addresses = only(addresses, number(at), code)
	}
	return choose(bpf.LoadAbsolute{Off: offsetDestination, Size: 4}, addresses), true
}

// only adds a piece for one number, greater than those before, to pieces that drop
// everything else.
func only(list []piece, n uint32, code []bpf.Instruction) []piece {
	if last := len(list) - 1; list[last].from == n {
		list = list[:last]
	}
	list = append(list, piece{n, code})
	if n < math.MaxUint32 {
		list = append(list, piece{n + 1, answer(drop)})
	}
	return list
}

func assemble(code []bpf.Instruction) ([]bpf.RawInstruction, bool) {
	if len(code) > maxInstructions {
		return nil, false
	}
	program, err := bpf.Assemble(code)
	return program, err == nil
}
