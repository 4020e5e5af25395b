package proxy

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// However flows come, in no stretch of time are more admitted than the rate allows
// beside the burst of a second, and whoever keeps to the rate is never refused.
func TestBucket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.IntRange(1, 1000).Draw(t, "rate")
		var b bucket
		b.rate.Store(int64(rate))
		now := time.Now().UnixNano()
		var admitted []int64
		for range rapid.IntRange(1, 300).Draw(t, "flows") {
			now += int64(rapid.IntRange(0, 3).Draw(t, "gap")) * int64(time.Second) / int64(2*rate)
			if b.admit(now) {
				admitted = append(admitted, now)
			}
			for i := range admitted { // every stretch that ends here
				took := time.Duration(now - admitted[i])
				if most := float64(rate)*(1+took.Seconds()) + 1; float64(len(admitted)-i) > most {
					t.Fatalf("%d within %v at %d a second", len(admitted)-i, took, rate)
				}
			}
		}
		now += int64(time.Minute)
		for n := range 2 * rate { // a burst, and then the rate
			if n > rate {
				now += int64(time.Second)/int64(rate) + 1
			}
			if ok := b.admit(now); !ok && n != rate {
				t.Fatalf("flow %d refused at %d a second", n, rate)
			}
		}
	})
}

func TestBucketWithoutLimitAndWithAClockSetBack(t *testing.T) {
	var b bucket
	now := time.Now().UnixNano()
	for range 10_000 {
		if !b.admit(now) {
			t.Fatal("no limit, and refused")
		}
	}
	b.rate.Store(1)
	if !b.admit(now) || b.admit(now) {
		t.Error("want one of two at once")
	}
	if !b.admit(now - int64(time.Hour)) {
		t.Error("refused for an hour because the clock was set back")
	}
}

func TestQuota(t *testing.T) {
	q := quota{balancer: new(bucket), listener: new(listenerQuota), endpoint: new(ceiling)}
	expect := func(want string) {
		t.Helper()
		if got := q.admit(); got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	q.endpoint.most.Store(2)
	expect("")
	expect("")
	expect(ReasonMaxConnections)
	q.leave()
	expect("")
	q.endpoint.most.Store(0)
	q.listener.connections.most.Store(3)
	expect("")
	expect(ReasonMaxConnections)
	q.listener.connections.most.Store(1000)
	q.balancer.rate.Store(1)
	expect("")
	expect(ReasonCPS)
	q.balancer.rate.Store(0)
	q.listener.cps.rate.Store(1)
	expect("")
	expect(ReasonCPS)
	if n, m := q.endpoint.live.Load(), q.listener.connections.live.Load(); n != 5 || m != 5 {
		t.Errorf("%d and %d live, want 5: what was refused has left", n, m)
	}
	if got := (quota{}).admit(); got != "" {
		t.Errorf("no limits: %q", got)
	}
	quota{}.leave()
}

// A ceiling is kept by all loops together.
func TestCeilingIsShared(t *testing.T) {
	var c ceiling
	c.most.Store(10)
	var inside, peak, refused atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 2000 {
				if !c.admit() {
					refused.Add(1)
					continue
				}
				n := inside.Add(1)
				for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
				}
				inside.Add(-1)
				c.leave()
			}
		})
	}
	wg.Wait()
	if peak.Load() > 10 || c.live.Load() != 0 {
		t.Errorf("%d at a time, %d left", peak.Load(), c.live.Load())
	}
}

func BenchmarkQuota(b *testing.B) {
	q := quota{balancer: new(bucket), listener: new(listenerQuota), endpoint: new(ceiling)}
	q.balancer.rate.Store(1_000_000)
	q.listener.cps.rate.Store(1_000_000)
	q.endpoint.most.Store(1_000_000)
	b.ReportAllocs()
	for b.Loop() {
		if q.admit() == "" {
			q.leave()
		}
	}
}
