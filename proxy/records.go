package proxy

import (
	"context"
	"sync"
	"time"
)

const (
	recordsKept  = 20_000 // in memory
	recordsLimit = 100    // in an answer, when the query sets none
	recordsMost  = 5_000  // in any answer
)

// records keeps the newest flow records.
type records struct {
	mu     sync.Mutex
	next   uint64 // number of the next record
	ring   []Record
	oldest int // index in ring, once that is full
}

// newRecords starts to count at start, so that cursors of a former engine are old
// to this one.
func newRecords(start time.Time) *records {
	return &records{next: uint64(start.UnixMicro())}
}

func (r *records) add(rec Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec.Seq = r.next
	r.next++
	if len(r.ring) < recordsKept {
		r.ring = append(r.ring, rec)
		return
	}
	r.ring[r.oldest] = rec
	r.oldest = (r.oldest + 1) % recordsKept
}

// Records implements [Engine].
func (e *Local) Records(_ context.Context, q RecordQuery) (Records, error) {
	return e.records.after(q), nil
}

func (r *records) after(q RecordQuery) Records {
	r.mu.Lock()
	defer r.mu.Unlock()
	limit := min(q.Limit, recordsMost)
	if limit <= 0 {
		limit = recordsLimit
	}
	first := r.next - uint64(len(r.ring)) // number of the oldest
	from := q.After + 1
	if q.After == 0 || q.After >= r.next { // from the beginning, or of a clock that was ahead
		from = first
	}
	page := Records{Lost: from < first}
	from = max(from, first)
	for ; from < r.next && len(page.Records) < limit; from++ {
		rec := r.ring[(r.oldest+int(from-first))%len(r.ring)]
		if q.Endpoint == "" || rec.Endpoint == q.Endpoint {
			page.Records = append(page.Records, rec)
		}
	}
	page.Next = from - 1
	return page
}
