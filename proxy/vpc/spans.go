package vpc

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// span is a range of IPv4 addresses, both ends included.
type span struct{ from, to uint32 }

func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func spanOf(p netip.Prefix) span {
	from := number(p.Masked().Addr())
	return span{from, from | uint32(uint64(1)<<(32-p.Bits())-1)}
}

// without returns what of allow is not in deny, ascending and disjoint.
func without(allow, deny []span) []span {
	var left []span
	deny = merged(deny)
	for _, a := range merged(allow) {
		from := uint64(a.from) // one past 32 bits once a is used up
		for _, d := range deny {
			if uint64(d.to) < from || d.from > a.to {
				continue
			}
			if uint64(d.from) > from {
				left = append(left, span{uint32(from), d.from - 1})
			}
			from = uint64(d.to) + 1
		}
		if from <= uint64(a.to) {
			left = append(left, span{uint32(from), a.to})
		}
	}
	return left
}

// merged sorts spans and joins those that touch.
func merged(spans []span) []span {
	spans = slices.Clone(spans)
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var out []span
	for _, s := range spans {
		if n := len(out); n > 0 && uint64(s.from) <= uint64(out[n-1].to)+1 {
			out[n-1].to = max(out[n-1].to, s.to)
		} else {
			out = append(out, s)
		}
	}
	return out
}
