package session

import (
	"sync"
	"time"
)

// A user name has userAttempts wrong passwords at once, an address (which may be
// a whole office) addressAttempts; either gets one back every attemptEvery.
const (
	userAttempts    = 10
	addressAttempts = 50
	attemptEvery    = 30 * time.Second
	maxTracked      = 8192 // names and addresses; beyond, half of them are forgotten
)

// tried is a name or an address, and how many attempts it has.
type tried struct {
	key   string
	limit int
}

// attempts counts sign-ins that have not succeeded, in bounded memory. A user who
// does not exist is counted like one who does.
type attempts struct {
	mu  sync.Mutex
	now func() time.Time
	// full is when a key will have all its attempts back. Each attempt moves it
	// on by attemptEvery.
	full map[string]time.Time
}

func newAttempts() *attempts {
	return &attempts{now: time.Now, full: map[string]time.Time{}}
}

// begin counts an attempt of each and returns 0; or, if one has none left, counts
// nothing and returns how long to wait.
func (a *attempts) begin(by []tried) (wait time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	for _, t := range by {
		if at, ok := a.full[t.key]; ok {
			wait = max(wait, at.Sub(now)-time.Duration(t.limit-1)*attemptEvery)
		}
	}
	if wait > 0 {
		return wait
	}
	if len(a.full)+len(by) > maxTracked {
		a.forget(now)
	}
	for _, t := range by {
		from := a.full[t.key]
		if from.Before(now) {
			from = now
		}
		a.full[t.key] = from.Add(attemptEvery)
	}
	return 0
}

// forgive takes back an attempt that was no wrong password.
func (a *attempts) forgive(by []tried) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range by {
		if at, ok := a.full[t.key]; ok {
			a.full[t.key] = at.Add(-attemptEvery)
		}
	}
}

// forget makes room: first those who have all attempts back, then any.
func (a *attempts) forget(now time.Time) {
	for k, at := range a.full {
		if !at.After(now) {
			delete(a.full, k)
		}
	}
	for k := range a.full {
		if len(a.full) <= maxTracked/2 {
			return
		}
		delete(a.full, k)
	}
}
