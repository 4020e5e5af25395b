package load

import (
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	var h histogram
	if got := h.quantile(0.5); got != 0 {
		t.Errorf("empty: got %v, want 0", got)
	}
	const n = 100_000
	for i := range n {
		h.add(time.Duration(i+1) * time.Microsecond)
	}
	for _, q := range []float64{0.001, 0.5, 0.99, 0.999} {
		want := q * n
		if got := h.quantile(q); got < want || got > want*1.04 {
			t.Errorf("quantile %v: got %v µs, want %v or up to a bucket more", q, got, want)
		}
	}
	h.add(-1)
	h.add(time.Hour)
	if got := h.quantile(1); got < 60e6 {
		t.Errorf("an hour: got %v µs, want minutes at least", got)
	}
}

func TestMessagesDiffer(t *testing.T) {
	seen := map[string]bool{}
	for conn := range 300 {
		at := message(conn, 7)
		seen[string(pattern[at:at+64])] = true
	}
	if len(seen) != 300 {
		t.Errorf("of the 7th messages of 300 connections only %d are different", len(seen))
	}
}
