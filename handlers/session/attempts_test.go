package session

import (
	"fmt"
	"testing"
	"time"
)

func TestAttempts(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	a := newAttempts()
	a.now = func() time.Time { return now }
	by := func(user, address string) []tried { return []tried{{user, 3}, {address, 5}} }
	steps := []struct {
		after         time.Duration
		user, address string
		want          time.Duration // to wait
	}{
		{0, "mara", "here", 0},
		{0, "mara", "here", 0},
		{0, "mara", "there", 0},
		{0, "mara", "elsewhere", attemptEvery}, // the name has had its three
		{attemptEvery - time.Second, "mara", "here", time.Second},
		{time.Second, "mara", "here", 0}, // one is back
		{0, "jon", "here", 0},
		{0, "jon", "here", 0},
		{0, "ann", "here", 0},
		{0, "bob", "here", attemptEvery}, // the address has had its five
		{0, "bob", "there", 0},
	}
	for i, s := range steps {
		now = now.Add(s.after)
		if got := a.begin(by(s.user, s.address)); got != s.want {
			t.Fatalf("step %d, %s from %s: wait %v, want %v", i, s.user, s.address, got, s.want)
		}
	}
	if got := a.begin(by("jon", "there")); got != 0 {
		t.Fatalf("jon waits %v before", got)
	}
	for range 10 { // right passwords count nothing
		a.forgive(by("jon", "there"))
		if got := a.begin(by("jon", "there")); got != 0 {
			t.Fatalf("jon waits %v after a right password", got)
		}
	}
}

func TestAttemptsAreBounded(t *testing.T) {
	a := newAttempts()
	for i := range 3 * maxTracked {
		a.begin([]tried{{fmt.Sprint("user ", i), 3}})
	}
	if len(a.full) > maxTracked {
		t.Errorf("%d names are kept, want at most %d", len(a.full), maxTracked)
	}
}
