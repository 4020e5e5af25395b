package load

import (
	"math/bits"
	"time"
)

// histogram counts durations in buckets of 1/32 of their size, from a nanosecond to
// hours.
type histogram struct {
	counts [40 * fine]int
	total  int
}

const (
	fineBits = 5
	fine     = 1 << fineBits
)

func (h *histogram) add(d time.Duration) {
	n := uint64(max(d, 0))
	at := int(n) // exact while it is small
	if n >= fine {
		shift := bits.Len64(n) - fineBits - 1
		at = (shift+1)<<fineBits + int(n>>shift) - fine
	}
	h.counts[min(at, len(h.counts)-1)]++
	h.total++
}

// quantile returns the upper end of the bucket where part q of all durations has
// been counted, in microseconds; 0 if there are none.
func (h *histogram) quantile(q float64) float64 {
	if h.total == 0 {
		return 0
	}
	left := min(int(q*float64(h.total))+1, h.total)
	for at, n := range h.counts {
		if left -= n; left <= 0 {
			low, width := at, 1
			if at >= fine {
				shift := at>>fineBits - 1
				low, width = (at-shift<<fineBits)<<shift, 1<<shift
			}
			return float64(low+width) / 1000
		}
	}
	return 0
}
