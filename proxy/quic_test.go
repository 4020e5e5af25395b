package proxy

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
)

// initial is a client's first packet to the id n of the given size.
func initial(n uint64, size int) []byte {
	b := []byte{0xc3, 0, 0, 0, 1, byte(size)}
	b = append(b, identity(n, size)...)
	return append(b, 2, 0xaa, 0xbb, 0, 0, 0)
}

// answer is a server's first packet, by which it says that it goes by n.
func answer(n uint64, size int) []byte {
	b := []byte{0xd1, 0, 0, 0, 1, 2, 0xaa, 0xbb, byte(size)}
	return append(append(b, identity(n, size)...), 0, 0, 0)
}

// later is a packet with a short header to the id n.
func later(n uint64, size int) []byte {
	return append(append([]byte{0x41}, identity(n, size)...), "sealed, and long enough"...)
}

func identity(n uint64, size int) []byte {
	b := binary.BigEndian.AppendUint64(nil, n*0x9e3779b97f4a7c15)
	return slices.Concat(b, b, b)[:size]
}

func TestQUICHeaders(t *testing.T) {
	eight := identity(5, 8)
	tests := map[string]struct {
		in                  []byte
		destination, source []byte // nil: none
	}{
		"initial":                 {initial(5, 8), eight, []byte{0xaa, 0xbb}},
		"initial of 20":           {initial(5, 20), eight, []byte{0xaa, 0xbb}},
		"initial of 4":            {initial(5, 4), eight[:4], []byte{0xaa, 0xbb}},
		"answer":                  {answer(5, 20), []byte{0xaa, 0xbb}, eight},
		"answer without an id":    {answer(5, 0), []byte{0xaa, 0xbb}, nil},
		"short header":            {later(5, 8), eight, nil},
		"short header, too short": {later(5, 8)[:8], nil, nil},
		"short header, shortest":  {later(5, 8)[:9], eight, nil},
		"no fixed bit":            {append([]byte{0x01}, later(5, 8)[1:]...), nil, nil},
		"id of 21":                {append([]byte{0xc0, 0, 0, 0, 1, 21}, make([]byte, 40)...), nil, nil},
		"id longer than the rest": {[]byte{0xc0, 0, 0, 0, 1, 8, 1, 2, 3}, nil, nil},
		"nothing after the id":    {append([]byte{0xc0, 0, 0, 0, 1, 8}, eight...), eight, nil},
		"empty":                   {nil, nil, nil},
		"DNS":                     {[]byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, nil, nil},
	}
	for name, test := range tests {
		check := func(what string, id quicID, ok bool, want []byte) {
			t.Helper()
			if ok != (want != nil) || ok && !bytes.Equal(id.bytes[:id.size], want) {
				t.Errorf("%s: %s %x %v, want %x", name, what, id.bytes[:id.size], ok, want)
			}
		}
		id, ok := destinationID(test.in)
		check("destination", id, ok, test.destination)
		id, ok = sourceID(test.in)
		check("source", id, ok, test.source)
	}
}

// A connection that moves to another address stays with its server, once that has
// said what it goes by.
func TestQUICMigration(t *testing.T) {
	for _, size := range []int{20, 8, 4, 1} {
		slots := slotsOf(slices.Repeat([]int{100}, 50)...)
		p := new(pool)
		g := &ServerGroup{Scheduler: QUICConnectionHash}
		p.fill(g, "vpc", []netip.Addr{lbAddress}, slots)
		for n := range 20 {
			k := nthKey(n << 8)
			k.Datagram = initial(uint64(n), 8)
			s, _ := p.pick(k, nil)
			id := uint64(1000 + n)
			p.learn(s, answer(id, size))
			moved := nthKey((n + 500) << 8)
			moved.Datagram = later(id, size)
			if got, _ := p.pick(moved, nil); got != s {
				t.Errorf("with ids of %d: %s after %s", size, got.id, s.id)
			}
			s.stand(Unhealthy)
			if got, _ := p.pick(moved, nil); got == s {
				t.Error("picked a server that is down because it is known")
			}
			s.stand(Healthy)
			if got, _ := p.pick(moved, []*server{s}); got == s {
				t.Error("picked a server again because it is known")
			}
			p.fill(g, "vpc", []netip.Addr{lbAddress}, slices.DeleteFunc(slices.Clone(slots), func(v slot) bool { return v.server == s }))
			if got, _ := p.pick(moved, nil); got == s || got == nil {
				t.Errorf("after its removal: %v", got)
			}
			p.fill(g, "vpc", []netip.Addr{lbAddress}, slots)
		}
	}
}

// What is not QUIC goes by the tuple: always to the same one.
func TestQUICHashOfOthers(t *testing.T) {
	slots := slotsOf(slices.Repeat([]int{100}, 50)...)
	p, q := new(pool), new(pool)
	p.fill(&ServerGroup{Scheduler: QUICConnectionHash}, "vpc", []netip.Addr{lbAddress}, slots)
	q.fill(&ServerGroup{Scheduler: TupleHash}, "vpc", []netip.Addr{lbAddress}, slots)
	for _, datagram := range []string{"", "\x41seven..", "\x01not of QUIC"} {
		k := nthKey(77)
		k.Datagram = []byte(datagram)
		got, _ := p.pick(k, nil)
		want, _ := q.pick(k, nil)
		if got != want {
			t.Errorf("%q: %s, want %s", datagram, got.id, want.id)
		}
	}
}

func TestQUICIDsAreBounded(t *testing.T) {
	var q quicIDs
	s := new(server)
	for n := range uint64(3 * quicLearnt) {
		q.learn(s, answer(n, 8))
		if size := len(q.young) + len(q.old); size > 2*quicLearnt {
			t.Fatalf("%d ids", size)
		}
	}
	if q.find(later(3*quicLearnt-1, 8)) != s || q.find(later(2*quicLearnt, 8)) != s || q.find(later(0, 8)) != nil {
		t.Error("it keeps the oldest or forgets the newest")
	}
}

func FuzzQUICHeader(f *testing.F) {
	for _, b := range [][]byte{initial(1, 8), answer(2, 20), later(3, 8), {0xc0, 0, 0, 0, 1, 255}, {}} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, parse := range []func([]byte) (quicID, bool){destinationID, sourceID} {
			id, ok := parse(b)
			if !ok {
				continue
			}
			if id.size < 1 || id.size > quicMost || len(b) < quicLeast || b[0]&quicFixed == 0 || !bytes.Contains(b, id.bytes[:id.size]) {
				t.Errorf("%x: %+v", b, id)
			}
		}
	})
}
