package proxy

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestCheckFollowsThresholdsAtAFixedRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		var mu sync.Mutex
		var asked []time.Time
		refused := connectFailed
		count := func() int {
			mu.Lock()
			defer mu.Unlock()
			return len(asked)
		}
		type change struct {
			Health
			reason string
		}
		changes := make(chan change, 10)
		var busy sync.WaitGroup
		c := &check{
			checkSpec: checkSpec{interval: 5 * time.Second, timeout: 3 * time.Second, rise: 2, fall: 3},
			health:    Unknown, slots: make(chan struct{}, 1), busy: &busy,
			ask: func(context.Context, question) string {
				mu.Lock()
				defer mu.Unlock()
				asked = append(asked, time.Now())
				if up.Load() {
					return ""
				}
				return refused
			},
			report: func(h Health, reason string) { changes <- change{h, reason} },
		}
		c.start(t.Context())
		expect := func(want change, least, most time.Duration) {
			t.Helper()
			from := time.Now()
			got := <-changes
			if after := time.Since(from); got != want || after < least || after > most {
				t.Fatalf("got %v after %v, want %v after %v to %v", got, after, want, least, most)
			}
		}
		expect(change{Unhealthy, connectFailed}, 0, 500*time.Millisecond) // the first decides at once
		up.Store(true)
		expect(change{Healthy, ""}, 5*time.Second, 10*time.Second) // the second of two, the first at a random phase
		up.Store(false)
		expect(change{Unhealthy, connectFailed}, 15*time.Second, 15*time.Second) // three at a fixed rate
		up.Store(true)
		time.Sleep(5 * time.Second)
		up.Store(false) // one good result alone changes nothing
		time.Sleep(20 * time.Second)
		if len(changes) > 0 {
			t.Fatalf("a single good result made it %v", <-changes)
		}
		mu.Lock()
		refused = connectTimeout
		mu.Unlock()
		up.Store(true)
		expect(change{Healthy, ""}, 5*time.Second, 10*time.Second)
		up.Store(false)
		expect(change{Unhealthy, connectTimeout}, 15*time.Second, 15*time.Second)
		mu.Lock()
		refused = responseTimeout
		mu.Unlock()
		expect(change{Unhealthy, responseTimeout}, 5*time.Second, 5*time.Second) // as bad, for another reason
		mu.Lock()
		for i := 2; i < len(asked); i++ {
			if gap := asked[i].Sub(asked[i-1]); gap != 5*time.Second {
				t.Errorf("question %d came %v after the one before", i, gap)
			}
		}
		mu.Unlock()
		if got := c.stop(); got != Unhealthy {
			t.Errorf("stop: %v", got)
		}
		n := count()
		time.Sleep(time.Minute)
		if count() != n {
			t.Error("it goes on after stop")
		}
		busy.Wait()
	})
}

// A server that swallows packets is seen in interval + 2 timeouts at most.
func TestSilentServerIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var silent atomic.Bool
		down := make(chan time.Time, 1)
		var busy sync.WaitGroup
		c := &check{
			checkSpec: checkSpec{interval: time.Second, timeout: time.Second, rise: 2, fall: 2},
			health:    Healthy, slots: make(chan struct{}, 1), busy: &busy,
			ask: func(ctx context.Context, _ question) string {
				if silent.Load() {
					<-ctx.Done()
					return connectTimeout
				}
				return ""
			},
			report: func(Health, string) { down <- time.Now() },
		}
		c.start(t.Context())
		time.Sleep(10*time.Second + 123*time.Millisecond)
		silent.Store(true)
		died := time.Now()
		if after := (<-down).Sub(died); after > 3*time.Second {
			t.Errorf("seen after %v, want 3 s at most", after)
		}
		c.stop()
		busy.Wait()
	})
}
