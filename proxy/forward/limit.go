package forward

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	burstTime  = 100 * time.Millisecond // of a rate that may pass at once; a thread that is held up for less loses nothing of it
	burstLeast = 16 << 10               // bytes
	quantum    = 64 << 10               // that a flow which waited gets in its turn, at most
	shareTime  = 2 * time.Millisecond   // of a rate, in a turn
	shareLeast = 4 << 10
)

// Limit is a rate that flows share: a token bucket in front of a queue. Who finds
// it empty waits behind those who wait already, and gets a turn's worth, so that
// each of n busy flows has an nth. The zero Limit lets everything pass.
//
// A changed rate is in force at once and cuts nothing.
type Limit struct {
	rate atomic.Int64 // bytes a second; 0: no limit

	mu     sync.Mutex
	tokens int64 // bytes that may pass, as of last
	last   int64 // on the clock of monotonic
	queue  []waiter
	timer  *time.Timer
	armed  bool
}

// waiter is told, on a goroutine of its own, how many bytes it may pass now.
type waiter interface{ granted(n int) }

// Set changes the rate to bytes a second; 0 lifts the limit.
func (l *Limit) Set(rate int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rate.Load() == rate {
		return
	}
	l.fill()
	l.rate.Store(rate)
	l.tokens = min(l.tokens, l.burst())
	l.arm(0)
}

// Rate is what Set set, in bytes a second.
func (l *Limit) Rate() int64 {
	if l == nil {
		return 0
	}
	return l.rate.Load()
}

// Take lets n bytes pass if they may pass now.
func (l *Limit) Take(n int) bool {
	if l.Rate() == 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fill()
	if len(l.queue) > 0 || l.tokens < int64(n) && l.tokens < l.burst() {
		return false
	}
	l.tokens -= int64(n) // below zero for a packet larger than the burst
	return true
}

// take returns how many of want bytes may pass now. If that is none, w has its
// place in the queue.
func (l *Limit) take(w waiter, want int) int {
	if l.Rate() == 0 {
		return want
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Rate() == 0 { // lifted meanwhile
		return want
	}
	l.fill()
	if len(l.queue) == 0 && l.tokens >= min(int64(want), l.share()) {
		n := min(int64(want), l.tokens)
		l.tokens -= n
		return int(n)
	}
	l.queue = append(l.queue, w)
	if !l.armed {
		l.arm(l.wait())
	}
	return 0
}

// put gives back what was granted and not used.
func (l *Limit) put(n int) {
	if n <= 0 || l.Rate() == 0 { // or no limit at all
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tokens = min(l.tokens+int64(n), l.burst())
}

// serve gives those who wait their turns.
func (l *Limit) serve() {
	type turn struct {
		waiter
		n int
	}
	var turns []turn
	l.mu.Lock()
	l.armed = false
	l.fill()
	for len(l.queue) > 0 {
		n := l.share()
		if l.rate.Load() == 0 {
			n = quantum
		} else if l.tokens < n {
			l.arm(l.wait())
			break
		} else {
			l.tokens -= n
		}
		turns = append(turns, turn{l.queue[0], int(n)})
		l.queue[0] = nil
		l.queue = l.queue[1:]
	}
	if len(l.queue) == 0 {
		l.queue = nil
	}
	l.mu.Unlock()
	for _, t := range turns {
		t.granted(t.n)
	}
}

// fill adds what has come since it did before.
func (l *Limit) fill() {
	now := monotonic()
	rate := l.rate.Load()
	if passed := min(now-l.last, int64(time.Second)); rate > 0 {
		more := passed * rate / int64(time.Second)
		if more == 0 {
			return // not a whole byte: it is counted the next time
		}
		l.tokens = min(l.tokens+more, l.burst())
	}
	l.last = now
}

func (l *Limit) burst() int64 {
	return max(l.rate.Load()*int64(burstTime)/int64(time.Second), burstLeast)
}

// share is what a flow gets in its turn, in bytes.
func (l *Limit) share() int64 {
	return min(max(l.rate.Load()*int64(shareTime)/int64(time.Second), shareLeast), quantum)
}

// wait is how long until the next turn.
func (l *Limit) wait() time.Duration {
	return time.Duration(max(l.share()-l.tokens, 0) * int64(time.Second) / max(l.rate.Load(), 1))
}

func (l *Limit) arm(d time.Duration) {
	l.armed = true
	if l.timer == nil {
		l.timer = time.AfterFunc(d, l.serve)
	} else {
		l.timer.Reset(d)
	}
}
