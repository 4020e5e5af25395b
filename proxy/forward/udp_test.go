package forward

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// Listeners that share a bound hold what a plain map would, within their bounds.
func TestClients(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := &bound{most: int64(rapid.IntRange(0, 6).Draw(t, "most of all"))}
		most := rapid.IntRange(0, 4).Draw(t, "most of one")
		var tables [2]clients[int]
		var model [2]map[netip.AddrPort]int
		for i := range tables {
			tables[i] = clients[int]{most: most, all: all}
			model[i] = map[netip.AddrPort]int{}
		}
		for flow := range rapid.IntRange(0, 50).Draw(t, "steps") {
			i := rapid.IntRange(0, 1).Draw(t, "table")
			client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), uint16(rapid.IntRange(1, 6).Draw(t, "port")))
			was, known := model[i][client]
			if known { // as a listener does: it adds nobody whom it knows
				if rapid.Bool().Draw(t, "another") {
					was = flow + 100
				} else {
					delete(model[i], client)
				}
				tables[i].remove(client, was)
			} else {
				want := len(model[i]) < most && len(model[0])+len(model[1]) < int(all.most)
				if got := tables[i].add(client, flow); got != want {
					t.Fatalf("add to %v of %v: %v", tables[i].flows, model, got)
				}
				if want {
					model[i][client] = flow
				}
			}
			if int(all.used.Load()) != len(model[0])+len(model[1]) {
				t.Fatalf("%d used by %v", all.used.Load(), model)
			}
			for i := range tables {
				if len(tables[i].flows) != len(model[i]) {
					t.Fatalf("got %v, want %v", tables[i].flows, model[i])
				}
				for c, flow := range model[i] {
					if tables[i].flows[c] != flow {
						t.Fatalf("flow of %v: got %v, want %v", c, tables[i].flows, model[i])
					}
				}
			}
		}
	})
}
