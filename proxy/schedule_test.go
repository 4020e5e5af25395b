package proxy

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// slotsOf makes a server for each weight.
func slotsOf(weights ...int) []slot {
	slots := make([]slot, len(weights))
	for i, w := range weights {
		slots[i] = slot{weight: w, server: &server{target: target{
			id: fmt.Sprint("srv-", i), address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 80),
		}}}
	}
	return slots
}

// nthKey is the flow of the nth client.
func nthKey(n int) *flowKey {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], 10<<24|uint32(n>>8))
	return &flowKey{
		Client: netip.AddrPortFrom(netip.AddrFrom4(a), uint16(1024+n)), Local: netip.MustParseAddrPort("10.0.5.5:443"), Endpoint: "ep-1",
	}
}

var everyScheduler = []Scheduler{"", WeightedRoundRobin, WeightedLeastConns, RoundRobin, SourceHash, TupleHash, QUICConnectionHash}

// The smooth weighted round robin keeps to the weights not only over a round, but
// at every moment of it: no server is ever a whole turn ahead of its share.
func TestRoundRobinIsSmooth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.IntRange(1, 100), 1, 12).Draw(t, "weights")
		equal := rapid.Bool().Draw(t, "rr")
		g := &ServerGroup{Scheduler: WeightedRoundRobin}
		if equal {
			g.Scheduler = RoundRobin
		}
		slots := slotsOf(weights...)
		p := newPicker(g, slots, nil)
		total := 0
		for i, w := range weights {
			if equal {
				weights[i], w = 1, 1
			}
			total += w
		}
		got := map[*server]int{}
		for n := 1; n <= 2*total; n++ {
			got[p.pick(nthKey(n), nil, 0)]++
			for i, s := range slots {
				share := float64(n*weights[i]) / float64(total)
				if ahead := float64(got[s.server]) - share; ahead >= 1 {
					t.Fatalf("after %d picks by %v server %d has %d, %.2f ahead", n, weights, i, got[s.server], ahead)
				}
				if n%total == 0 && got[s.server] != n/total*weights[i] {
					t.Fatalf("after %d picks by %v server %d has %d", n, weights, i, got[s.server])
				}
			}
		}
	})
}

// Whatever the scheduler, flows come and go and standings change: who is picked is
// always one of the best standing there is, and nobody is left out for nothing.
func TestPicksOnlyWhoMayBePicked(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := &ServerGroup{
			ID: "sgp", Scheduler: rapid.SampledFrom(everyScheduler).Draw(t, "scheduler"),
			FailClosed: rapid.Bool().Draw(t, "fail closed"), SlowStart: rapid.SampledFrom([]int{0, 30}).Draw(t, "slow start"),
		}
		slots := slotsOf(rapid.SliceOfN(rapid.IntRange(1, 100), 0, 8).Draw(t, "weights")...)
		p := newPicker(g, slots, nil)
		now := time.Now().UnixNano()
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			if len(slots) > 0 && rapid.Bool().Draw(t, "change") {
				s := slots[rapid.IntRange(0, len(slots)-1).Draw(t, "server")]
				s.standing.Store(int32(rapid.SampledFrom([]standing{up, untested, down}).Draw(t, "standing")))
				s.since.Store(now - int64(rapid.IntRange(0, 40).Draw(t, "age"))*int64(time.Second))
				continue
			}
			var tried []*server
			for {
				best, every := down+1, true
				for _, s := range slots {
					is := standing(s.standing.Load())
					every = every && is == down
					if !slices.Contains(tried, s.server) {
						best = min(best, is)
					}
				}
				none := best > down || best == down && (g.FailClosed || !every)
				s := p.pick(nthKey(rapid.IntRange(0, 1000).Draw(t, "client")), tried, now)
				if (s == nil) != none {
					t.Fatalf("picked %v after %d, want none: %v", s, len(tried), none)
				}
				if s == nil {
					break
				}
				if is := standing(s.standing.Load()); is != best || slices.Contains(tried, s) {
					t.Fatalf("picked %s of standing %d after %d, the best is %d", s.id, is, len(tried), best)
				}
				tried = append(tried, s)
			}
		}
	})
}

// wlc against its definition.
func TestLeastConnections(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.IntRange(1, 100), 1, 10).Draw(t, "weights")
		slots := slotsOf(weights...)
		p := newPicker(&ServerGroup{Scheduler: WeightedLeastConns}, slots, nil)
		var open []*server
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			if len(open) > 0 && rapid.IntRange(0, 2).Draw(t, "what") == 0 {
				i := rapid.IntRange(0, len(open)-1).Draw(t, "which")
				open[i].live.Add(-1)
				open = slices.Delete(open, i, i+1)
				continue
			}
			got := p.pick(nthKey(1), nil, 0)
			load := func(s slot) float64 { return float64(s.live.Load()+1) / float64(s.weight) }
			least := math.Inf(1)
			for _, s := range slots {
				least = min(least, load(s))
			}
			at := slices.IndexFunc(slots, func(s slot) bool { return s.server == got })
			if load(slots[at]) > least*(1+1e-9) {
				t.Fatalf("picked one of load %v, the least is %v", load(slots[at]), least)
			}
			got.live.Add(1)
			open = append(open, got)
		}
	})
}

// With no flow anywhere wlc goes round by weight.
func TestLeastConnectionsTies(t *testing.T) {
	slots := slotsOf(10, 10, 10)
	p := newPicker(&ServerGroup{Scheduler: WeightedLeastConns}, slots, nil)
	got := map[*server]int{}
	for range 30 {
		got[p.pick(nthKey(1), nil, 0)]++
	}
	for _, s := range slots {
		if got[s.server] != 10 {
			t.Errorf("%s has %d of 30", s.id, got[s.server])
		}
	}
}

var hashes = []Scheduler{SourceHash, TupleHash, QUICConnectionHash}

// Hashes spread clients by weight, within five standard deviations.
func TestHashesSpreadByWeight(t *testing.T) {
	const clients = 20000
	for _, scheduler := range hashes {
		for _, weights := range [][]int{{1, 1, 1, 1, 1}, {100, 50, 25, 1}, {7, 7}} {
			t.Run(fmt.Sprint(scheduler, weights), func(t *testing.T) {
				slots := slotsOf(weights...)
				p := newPicker(&ServerGroup{ID: "sgp-1", Scheduler: scheduler}, slots, nil)
				got, total := map[*server]int{}, 0
				for n := range clients {
					k := nthKey(n << 8)
					if scheduler == QUICConnectionHash {
						k.Datagram = append([]byte{quicFixed}, binary.BigEndian.AppendUint64(nil, uint64(n))...)
					}
					got[p.pick(k, nil, 0)]++
				}
				for _, w := range weights {
					total += w
				}
				for i, s := range slots {
					share := float64(weights[i]) / float64(total)
					want, off := clients*share, 5*math.Sqrt(clients*share*(1-share))
					if math.Abs(float64(got[s.server])-want) > off {
						t.Errorf("server %d of %v has %d clients, want %.0f ± %.0f", i, weights, got[s.server], want, off)
					}
				}
			})
		}
	}
}

// A client stays with its server when another one comes or goes, or another's
// weight changes: it moves to the one that came or grew, or away from the one that
// went or shrank.
func TestHashesMoveLittle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := &ServerGroup{ID: "sgp-1", Scheduler: rapid.SampledFrom(hashes).Draw(t, "scheduler")}
		// At least two different weights, so that scores are compared throughout.
		weights := append([]int{100, 50}, rapid.SliceOfN(rapid.IntRange(1, 100), 0, 8).Draw(t, "weights")...)
		all := slotsOf(weights...)
		at := rapid.IntRange(2, max(2, len(weights)-1)).Draw(t, "which")
		before, after := slices.Clone(all), slices.Clone(all)
		moves := all[min(at, len(all)-1)].server // nobody else's clients move
		if at < len(weights) {
			switch rapid.IntRange(0, 2).Draw(t, "change") {
			case 0:
				after = slices.Delete(after, at, at+1)
			case 1:
				after[at].weight = rapid.IntRange(1, weights[at]).Draw(t, "less")
			case 2:
				after[at].standing.Store(int32(down))
				after = slices.Delete(after, at, at+1)
				slices.Reverse(after) // nor does the order count
				moves = nil
			}
		}
		p, q := newPicker(g, before, nil), newPicker(g, after, nil)
		for n := range 200 {
			k := nthKey(n << 8)
			was, is := p.pick(k, nil, 0), q.pick(k, nil, 0)
			if was != is && was != moves {
				t.Fatalf("client %d moved from %s to %s", n, was.id, is.id)
			}
		}
	})
}

// What a hash goes by, and what not.
func TestHashKeys(t *testing.T) {
	slots := slotsOf(slices.Repeat([]int{1}, 200)...)
	base := nthKey(1000)
	port, far, endpoint := *base, *base, *base
	port.Client = netip.AddrPortFrom(base.Client.Addr(), 77)
	far.Local = netip.MustParseAddrPort("10.0.6.5:443")
	endpoint.Endpoint = "ep-2"
	for scheduler, same := range map[Scheduler][3]bool{SourceHash: {true, true, false}, TupleHash: {false, false, true}} {
		p := newPicker(&ServerGroup{Scheduler: scheduler}, slots, nil)
		want := p.pick(base, nil, 0)
		for i, k := range []*flowKey{&port, &far, &endpoint} {
			if got := p.pick(k, nil, 0); (got == want) != same[i] {
				t.Errorf("%s, variation %d: %s after %s", scheduler, i, got.id, want.id)
			}
		}
	}
}

// A server that became healthy gets its share of its weight at every moment of slow
// start.
func TestSlowStart(t *testing.T) {
	now := time.Now().UnixNano()
	for _, scheduler := range []Scheduler{WeightedRoundRobin, RoundRobin, SourceHash} {
		slots := slotsOf(50, 50)
		p := newPicker(&ServerGroup{Scheduler: scheduler, SlowStart: 100}, slots, nil)
		slots[1].since.Store(now)
		for _, age := range []int{0, 10, 50, 100, 1000} {
			at, n := now+int64(age)*int64(time.Second), 0
			for i := range 4000 {
				if p.pick(nthKey(i<<8), nil, at) == slots[1].server {
					n++
				}
			}
			ramp := min(float64(age)/100, 1)
			want, off := 4000*ramp/(1+ramp), 160.0
			if math.Abs(float64(n)-want) > off {
				t.Errorf("%s after %d s: %d of 4000, want %.0f ± %.0f", scheduler, age, n, want, off)
			}
		}
		slots[0].standing.Store(int32(down))
		if p.pick(nthKey(1), nil, now) != slots[1].server {
			t.Errorf("%s: the only server is not picked at the start of its slow start", scheduler)
		}
	}
}

// A server keeps its turn when the list around it changes.
func TestFillKeepsTurns(t *testing.T) {
	p := new(pool)
	slots := slotsOf(1, 1, 1)
	locals := []netip.Addr{lbAddress}
	p.fill(new(ServerGroup), "vpc", locals, slots)
	first, from := p.pick(nthKey(1), nil)
	if from != (origin{"vpc", lbAddress}) {
		t.Errorf("from %v", from)
	}
	p.fill(new(ServerGroup), "vpc", locals, slices.Clone(slots))
	second, _ := p.pick(nthKey(1), nil)
	third, _ := p.pick(nthKey(1), nil)
	if first == second || second == third || first == third {
		t.Errorf("picked %s, %s, %s", first.id, second.id, third.id)
	}
}

var lbAddress = netip.MustParseAddr("10.0.0.10")

func TestPoolIsSafe(t *testing.T) {
	for _, scheduler := range everyScheduler {
		p := new(pool)
		g := &ServerGroup{Scheduler: scheduler, SlowStart: 1}
		slots := slotsOf(1, 2, 3, 4)
		p.fill(g, "vpc", []netip.Addr{lbAddress}, slots)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for n := range 500 {
					k := nthKey(n)
					k.Datagram = initial(uint64(n%7), 8)
					s, _ := p.pick(k, nil)
					s.live.Add(1)
					p.learn(s, answer(uint64(n%11), 8))
					s.stand([]Health{Healthy, Unhealthy, Unknown}[n%3])
				}
			})
		}
		for range 100 {
			p.fill(g, "vpc", []netip.Addr{lbAddress}, slices.Clone(slots))
		}
		wg.Wait()
	}
}

func BenchmarkPick(b *testing.B) {
	for _, scheduler := range everyScheduler[1:] {
		for _, n := range []int{3, 200} {
			b.Run(fmt.Sprintf("%s/%d", scheduler, n), func(b *testing.B) {
				weights := make([]int, n)
				for i := range weights {
					weights[i] = 1 + rand.IntN(100)
				}
				p := new(pool)
				p.fill(&ServerGroup{Scheduler: scheduler}, "vpc", []netip.Addr{lbAddress}, slotsOf(weights...))
				k := nthKey(1)
				k.Datagram = initial(1, 8)
				b.ReportAllocs()
				for b.Loop() {
					p.pick(k, nil)
				}
			})
		}
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	for _, scheduler := range everyScheduler {
		p := new(pool)
		p.fill(&ServerGroup{Scheduler: scheduler, SlowStart: 10}, "vpc", []netip.Addr{lbAddress}, slotsOf(slices.Repeat([]int{100, 50}, 100)...))
		k := nthKey(1)
		k.Datagram = initial(1, 8)
		if n := testing.AllocsPerRun(100, func() { p.pick(k, nil) }); n > 0 {
			t.Errorf("%q: %v allocations", scheduler, n)
		}
	}
}
