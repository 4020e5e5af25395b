package flowlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	limitDefault = 100
	limitMost    = 5_000
	segmentsOnce = 16 // that one question looks through
)

// Query selects records. What is empty or 0 does not narrow.
type Query struct {
	After  uint64    `json:"after"`            // only records after this one
	Limit  int       `json:"limit"`            // 0 means 100, at most 5,000
	Newest bool      `json:"newest,omitempty"` // newest first, from Before; else oldest first, from After
	Before uint64    `json:"before,omitempty"` // only records before this one
	From   time.Time `json:"from,omitzero"`    // that ended then or later
	To     time.Time `json:"to,omitzero"`      // that ended before

	Endpoint string `json:"endpoint,omitempty"`
	Service  string `json:"service,omitempty"`
	Action   string `json:"action,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

// Page is a part of the answer to a Query.
type Page struct {
	Next    uint64   `json:"next"`           // After of the next page or, newest first, Before
	More    bool     `json:"more,omitempty"` // there may be more; a page can be short, since one question looks through so much only
	Lost    bool     `json:"lost,omitempty"` // some after After are no longer kept
	Records []Record `json:"records,omitempty"`
}

// Read returns a page of records, of those too that were added just before.
func (l *Log) Read(ctx context.Context, q Query) (Page, error) {
	q.Limit = min(q.Limit, limitMost)
	if q.Limit <= 0 {
		q.Limit = limitDefault
	}
	l.files.Lock()
	l.flush()
	segments, seen := slices.Clone(l.segments), l.seen
	l.files.Unlock()
	if q.After > seen && !q.Newest { // of a clock that was ahead
		q.After = 0
	}
	p := Page{Next: q.After}
	if len(segments) == 0 {
		return p, nil
	}
	p.Lost = q.After != 0 && q.After+1 < segments[0].first
	until := seen + 1 // the first that is not asked for
	if q.Before != 0 {
		until = min(until, q.Before)
	}
	if q.Newest {
		p.Next = max(q.After+1, segments[0].first)
	} else {
		p.Next = max(until-1, q.After)
	}
	// The segments that hold anything between After and until, in the order of reading.
	var look []int
	for i, g := range segments {
		end := until
		if i+1 < len(segments) {
			end = segments[i+1].first
		}
		if g.first < until && end > q.After+1 && (q.From.IsZero() || !g.last.Before(q.From)) {
			look = append(look, i)
		}
	}
	if q.Newest {
		slices.Reverse(look)
	}
	for n, i := range look {
		if err := ctx.Err(); err != nil {
			return Page{}, err
		}
		last := n+1 == len(look)
		found, err := l.scan(segments[i], q, until)
		if err != nil {
			return Page{}, err
		}
		if q.Newest {
			slices.Reverse(found)
		}
		if room := q.Limit - len(p.Records); len(found) > room || len(found) == room && !last {
			p.Records = append(p.Records, found[:room]...)
			p.More, p.Next = true, p.Records[len(p.Records)-1].Seq
			return p, nil
		}
		p.Records = append(p.Records, found...)
		if n+1 == segmentsOnce && !last {
			p.More = true
			if q.Newest {
				p.Next = segments[i].first
			} else {
				p.Next = segments[i+1].first - 1
			}
			return p, nil
		}
	}
	return p, nil
}

var segmentBuffers = sync.Pool{New: func() any { return new([]byte) }}

// scan returns what q selects of one segment, oldest first. Of a segment that is
// gone meanwhile it is nothing, and of a damaged one what can be read.
func (l *Log) scan(g segment, q Query, until uint64) ([]Record, error) {
	f, err := os.Open(l.path(g.first))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read flow records: %w", err)
	}
	defer f.Close()
	buf := segmentBuffers.Get().(*[]byte)
	defer segmentBuffers.Put(buf)
	*buf = slices.Grow((*buf)[:0], int(g.size))[:g.size]
	n, err := io.ReadFull(f, *buf)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read flow records: %w", err)
	}
	return scan((*buf)[:n], q, until), nil
}

// scan returns what q selects of a segment's bytes: at most a record more than
// q.Limit, the oldest or the newest.
func scan(data []byte, q Query, until uint64) (found []Record) {
	if len(data) < len(magic) || string(data[:len(magic)]) != magic {
		return nil
	}
	for rest := data[len(magic):]; ; {
		b, sum, more, ok := cutBlock(rest)
		if !ok || b.first >= until {
			return found
		}
		rest = more
		if b.first+uint64(b.count) <= q.After+1 || !b.check(sum) {
			continue
		}
		records := b.records
		for seq := b.first; len(records) > 0 && seq < until; seq++ {
			r, others, err := cut(records)
			if err != nil {
				break
			}
			records = others
			if seq <= q.After || !q.selects(r) {
				continue
			}
			rec, err := r.decode(seq)
			if err != nil {
				break
			}
			if found = append(found, rec); len(found) > q.Limit {
				if !q.Newest {
					return found
				}
				if len(found) > 2*q.Limit+1 {
					found = slices.Delete(found, 0, len(found)-q.Limit-1)
				}
			}
		}
	}
}

func (q *Query) selects(r raw) bool {
	if q.Action != "" && (q.Action == Accept) != r.accepted() {
		return false
	}
	if end := r.end(); !q.From.IsZero() && end < q.From.UnixNano() || !q.To.IsZero() && end >= q.To.UnixNano() {
		return false
	}
	if q.Endpoint == "" && q.Service == "" && q.Reason == "" {
		return true
	}
	endpoint, service, reason := r.texts()
	return (q.Endpoint == "" || q.Endpoint == string(endpoint)) &&
		(q.Service == "" || q.Service == string(service)) &&
		(q.Reason == "" || q.Reason == string(reason))
}
