package forward

import (
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// greedy passes as much as a limit lets it.
type greedy struct {
	limit  *Limit
	passed atomic.Int64
	grant  chan int
}

func (g *greedy) granted(n int) { g.grant <- n }

func (g *greedy) run(stop <-chan struct{}) {
	for {
		n := g.limit.take(g, bufferSizeOfTest)
		if n == 0 {
			select {
			case n = <-g.grant:
			case <-stop:
				return
			}
		}
		g.passed.Add(int64(n))
		select {
		case <-stop:
			return
		case <-time.After(time.Microsecond): // the time that it takes to pass them
		}
	}
}

const bufferSizeOfTest = 16 << 10

// From 1 Mbit/s to 10 Gbit/s the rate holds to the hundredth, and flows share it
// alike; a change is in force at once.
func TestLimit(t *testing.T) {
	for _, flows := range []int{1, 7, 50} {
		for _, mbit := range []int64{1, 10, 100, 1000} {
			synctest.Test(t, func(t *testing.T) {
				var l Limit
				rate := mbit * 125_000
				l.Set(rate)
				all := make([]*greedy, flows)
				stop := make(chan struct{})
				for i := range all {
					all[i] = &greedy{limit: &l, grant: make(chan int, 1)}
					go all[i].run(stop)
				}
				check := func(seconds int, rate int64) {
					t.Helper()
					before := make([]int64, flows)
					for i, g := range all {
						before[i] = g.passed.Load()
					}
					time.Sleep(time.Duration(seconds) * time.Second)
					synctest.Wait()
					total := int64(0)
					want := float64(rate) * float64(seconds)
					for i, g := range all {
						passed := g.passed.Load() - before[i]
						total += passed
						if share := want / float64(flows); math.Abs(float64(passed)-share) > share/20+2*quantum {
							t.Errorf("%d flows at %d Mbit/s: one passed %d bytes, want %.0f", flows, mbit, passed, share)
						}
					}
					if math.Abs(float64(total)-want) > want/100+quantum {
						t.Errorf("%d flows at %d Mbit/s: %d bytes in %d s, want %.0f", flows, mbit, total, seconds, want)
					}
				}
				time.Sleep(time.Second)
				check(10, rate)
				l.Set(rate / 2)
				check(10, rate/2)
				l.Set(2 * rate)
				check(10, 2*rate)
				close(stop)
				synctest.Wait()
			})
		}
	}
}

func TestLimitOfPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Limit
		if !l.Take(1 << 20) {
			t.Fatal("no limit, and a packet is held back")
		}
		l.Set(125_000)
		time.Sleep(time.Second)
		passed := 0
		for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(100 * time.Microsecond) {
			if l.Take(1200) {
				passed += 1200
			}
		}
		if want := 1_250_000.0; math.Abs(float64(passed)-want) > want/50+burstLeast {
			t.Errorf("%d bytes in 10 s, want %.0f", passed, want)
		}
		time.Sleep(time.Second)
		if !l.Take(65_507) {
			t.Error("a packet larger than the burst never passes")
		}
		if l.Take(1) {
			t.Error("it left no debt")
		}
	})
}
