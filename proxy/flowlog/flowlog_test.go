package flowlog

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/openprivatelink/openprivatelink/proxy/verdict"
)

var day0 = time.Date(2026, 11, 25, 12, 0, 0, 0, time.Local)

func open(t *testing.T, cfg Config) *Log {
	t.Helper()
	cfg.Log = slog.New(slog.DiscardHandler)
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func closed(t *testing.T, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// settle writes what was added.
func (l *Log) settle() {
	l.files.Lock()
	defer l.files.Unlock()
	l.flush()
}

func read(t *testing.T, l *Log, q Query) Page {
	t.Helper()
	p, err := l.Read(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// all reads every page.
func all(t *testing.T, l *Log, q Query) (out []Record) {
	t.Helper()
	for range 10_000 {
		p := read(t, l, q)
		out = append(out, p.Records...)
		if !p.More {
			return out
		}
		if q.Newest {
			q.Before = p.Next
		} else {
			q.After = p.Next
		}
	}
	t.Fatal("the pages do not end")
	return nil
}

func sample(i int) Record {
	return Record{
		Protocol: verdict.TCP, Endpoint: fmt.Sprint("ep-", i%3), Zone: "cn-hangzhou-h", Service: fmt.Sprint("epsrv-", i%2),
		Source: netip.MustParseAddrPort("192.168.1.10:40000"), Address: netip.MustParseAddrPort("192.168.1.2:80"),
		LoadBalancer: "nlb-1", Local: netip.MustParseAddrPort("10.0.1.100:50000"), Server: "srv-1", Target: netip.MustParseAddrPort("[fd00::7]:8080"),
		Start: day0, End: day0.Add(time.Duration(i) * time.Second), In: int64(i), Out: 1 << 40, Action: Accept, Reason: "closed",
		Verdict: verdict.Trace{Accept: true, Reason: verdict.ByRule, Group: "sg-1", Rule: "sgr-1"},
	}
}

var sameAddr = cmp.Options{
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) }),
}

// A record is read as it was written.
func TestRecordsAreKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "flows")
	l := open(t, Config{Dir: dir})
	text := rapid.StringOfN(rapid.Rune(), 0, 60, 255)
	addr := rapid.Custom(func(t *rapid.T) netip.AddrPort {
		b := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "ip")
		ip, _ := netip.AddrFromSlice(b[:rapid.SampledFrom([]int{0, 4, 16}).Draw(t, "family")])
		if !ip.IsValid() {
			return netip.AddrPort{}
		}
		return netip.AddrPortFrom(ip, rapid.Uint16().Draw(t, "port"))
	})
	at := rapid.Custom(func(t *rapid.T) time.Time { return time.Unix(0, rapid.Int64().Draw(t, "ns")) })
	count := rapid.Int64Min(0)
	var want []Record
	rapid.Check(t, func(t *rapid.T) {
		r := Record{
			Flow: rapid.Uint64().Draw(t, "flow"), Window: rapid.Bool().Draw(t, "window"), Told: rapid.Bool().Draw(t, "told"),
			Protocol: rapid.SampledFrom([]verdict.Protocol{"", verdict.ICMP, verdict.TCP, verdict.UDP}).Draw(t, "protocol"),
			Endpoint: text.Draw(t, "endpoint"), Zone: text.Draw(t, "zone"), Service: text.Draw(t, "service"),
			Source: addr.Draw(t, "source"), Address: addr.Draw(t, "address"), Local: addr.Draw(t, "local"), Target: addr.Draw(t, "target"),
			LoadBalancer: text.Draw(t, "lb"), Server: text.Draw(t, "server"), Start: at.Draw(t, "start"), End: at.Draw(t, "end"),
			In: count.Draw(t, "in"), Out: count.Draw(t, "out"), PacketsIn: count.Draw(t, "packets in"), PacketsOut: count.Draw(t, "packets out"),
			Action: rapid.SampledFrom([]string{Accept, Reject}).Draw(t, "action"), Reason: text.Draw(t, "reason"),
			Verdict: verdict.Trace{
				Accept: rapid.Bool().Draw(t, "accept"), Reason: verdict.Reason(text.Draw(t, "by")), Group: text.Draw(t, "group"), Rule: text.Draw(t, "rule"),
			},
		}
		if r.Seq = l.Add(&r); r.Seq == 0 {
			t.Fatal("dropped")
		}
		want = append(want, r)
	})
	closed(t, l)
	l = open(t, Config{Dir: dir})
	defer closed(t, l)
	if diff := cmp.Diff(want, all(t, l, Query{Limit: 7}), sameAddr); diff != "" {
		t.Error(diff)
	}
}

// Whatever the cursor, the page and the filter, forwards and backwards: what comes
// is what a plain filter over all records gives.
func TestQueriesEqualAPlainFilter(t *testing.T) {
	l := open(t, Config{Dir: t.TempDir(), Bytes: 64 << 20})
	defer closed(t, l)
	l.limit = 4 << 10 // many segments
	var every []Record
	for i := range 700 {
		r := sample(i)
		if i%5 == 0 {
			r.Action, r.Reason = Reject, "sg"
		}
		r.Seq = l.Add(&r)
		every = append(every, r)
		if i%20 == 19 {
			l.settle()
		}
	}
	l.settle()
	if s := l.Stats(); s.Segments <= segmentsOnce || s.Written != 700 || s.Dropped != 0 {
		t.Fatalf("%+v", s)
	}
	rapid.Check(t, func(rt *rapid.T) {
		cursor := rapid.Custom(func(t *rapid.T) uint64 {
			if rapid.Bool().Draw(t, "none") {
				return 0
			}
			return every[0].Seq - 1 + rapid.Uint64Range(0, 701).Draw(t, "at")
		})
		q := Query{
			After: cursor.Draw(rt, "after"), Before: cursor.Draw(rt, "before"), Newest: rapid.Bool().Draw(rt, "newest"),
			Limit: rapid.IntRange(1, 150).Draw(rt, "limit"), Endpoint: rapid.SampledFrom([]string{"", "ep-1", "ep-9"}).Draw(rt, "endpoint"),
			Service: rapid.SampledFrom([]string{"", "epsrv-1"}).Draw(rt, "service"), Action: rapid.SampledFrom([]string{"", Accept, Reject}).Draw(rt, "action"),
			Reason: rapid.SampledFrom([]string{"", "sg"}).Draw(rt, "reason"),
		}
		if rapid.Bool().Draw(rt, "times") {
			q.From = day0.Add(time.Duration(rapid.IntRange(0, 700).Draw(rt, "from")) * time.Second)
			q.To = q.From.Add(time.Duration(rapid.IntRange(0, 700).Draw(rt, "for")) * time.Second)
		}
		var want []Record
		after := q.After
		if after > every[699].Seq && !q.Newest {
			after = 0
		}
		for _, r := range every {
			if r.Seq > after && (q.Before == 0 || r.Seq < q.Before) && (q.Endpoint == "" || r.Endpoint == q.Endpoint) &&
				(q.Service == "" || r.Service == q.Service) && (q.Action == "" || r.Action == q.Action) && (q.Reason == "" || r.Reason == q.Reason) &&
				(q.From.IsZero() || !r.End.Before(q.From)) && (q.To.IsZero() || r.End.Before(q.To)) {
				want = append(want, r)
			}
		}
		if q.Newest {
			slices.Reverse(want)
		}
		if diff := cmp.Diff(want, all(t, l, q), sameAddr); diff != "" {
			rt.Fatalf("%+v: %s", q, diff)
		}
	})
}

func TestCursors(t *testing.T) {
	l := open(t, Config{Dir: t.TempDir()})
	defer closed(t, l)
	if p := read(t, l, Query{}); len(p.Records) != 0 || p.Lost || p.More {
		t.Errorf("of nothing: %+v", p)
	}
	var first, last uint64
	for i := range 150 {
		r := sample(i)
		if last = l.Add(&r); first == 0 {
			first = last
		}
	}
	l.settle()
	for after, lost := range map[uint64]bool{first - 1: false, first - 2: true, 1: true, last + 100: false} {
		if p := read(t, l, Query{After: after}); p.Lost != lost || len(p.Records) != limitDefault || p.Records[0].Seq != first || !p.More {
			t.Errorf("after %d: lost %v, want %v; %d records", int64(after-first), p.Lost, lost, len(p.Records))
		}
	}
	p := read(t, l, Query{After: last})
	if len(p.Records) != 0 || p.Next != last {
		t.Errorf("after the last: %+v", p)
	}
	if p := read(t, l, Query{Limit: 10, Endpoint: "ep-none"}); p.Next != last || p.More {
		t.Errorf("of none: %+v", p)
	}
}

// A segment that ends anywhere is read up to its last whole block and written on.
func TestTornTail(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: dir})
	var ends []int64 // of each block
	for i := range 6 {
		r := sample(i)
		l.Add(&r)
		l.settle()
		ends = append(ends, l.Stats().Bytes)
	}
	closed(t, l)
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) != 1 {
		t.Fatalf("%v, %v", names, err)
	}
	data, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(data); n += 3 {
		torn := t.TempDir()
		garbage := append(slices.Clone(data[:n]), bytes.Repeat([]byte{0xa5}, rand.IntN(40))...)
		if err := os.WriteFile(filepath.Join(torn, filepath.Base(names[0])), garbage, 0o600); err != nil {
			t.Fatal(err)
		}
		l := open(t, Config{Dir: torn})
		r := sample(99)
		l.Add(&r)
		closed(t, l)
		l = open(t, Config{Dir: torn})
		got := all(t, l, Query{})
		closed(t, l)
		want := 1
		for _, end := range ends {
			if int64(n) >= end {
				want++
			}
		}
		if len(got) != want || got[want-1].In != 99 || !slices.IsSortedFunc(got, func(a, b Record) int { return int(int64(a.Seq - b.Seq)) }) {
			t.Fatalf("cut at %d of %d: %d records, want %d", n, len(data), len(got), want)
		}
	}
}

// The log stays as large and as old as it may be.
func TestRetention(t *testing.T) {
	now := day0
	dir := t.TempDir()
	l := open(t, Config{Dir: dir, Bytes: 1 << 20, Age: 8 * time.Hour, Now: func() time.Time { return now }})
	for i := range 20_000 {
		r := sample(i)
		if l.Add(&r) == 0 {
			t.Fatal("dropped")
		}
		if i%250 == 0 {
			l.settle()
		}
	}
	l.settle()
	s := l.Stats()
	if s.Written != 20_000 || s.Bytes > 1<<20+2*segmentLeast || s.Bytes < 1<<19 {
		t.Errorf("%+v", s)
	}
	if got := all(t, l, Query{Limit: limitMost}); len(got) == 0 || got[len(got)-1].In != 19_999 || len(got) > 10_000 {
		t.Errorf("%d records", len(got))
	}
	now = now.Add(2 * time.Hour) // the newest segment spans too much
	r := sample(1)
	l.Add(&r)
	l.settle()
	now = now.Add(7 * time.Hour)
	l.expire()
	if got := all(t, l, Query{}); len(got) != 1 {
		t.Errorf("%d records after 9 h, want the one of 7 h ago", len(got))
	}
	now = now.Add(2 * time.Hour)
	l.expire()
	if s := l.Stats(); s.Segments != 0 {
		t.Errorf("after 11 h: %+v", s)
	}
	closed(t, l)
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A full disk costs records, which are counted, and no more than them.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: dir, Now: func() time.Time { return day0 }})
	defer closed(t, l)
	if err := os.Symlink("/dev/full", l.path(uint64(day0.UnixMicro()))); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		r := sample(i)
		l.Add(&r)
		l.settle()
	}
	if s := l.Stats(); s.Dropped != 1 || s.Written != 1 {
		t.Errorf("%+v", s)
	}
	if got := all(t, l, Query{}); len(got) != 1 || got[0].In != 1 {
		t.Errorf("%+v", got)
	}
}

// A writer that hangs costs records, and no time.
func TestNeverWaits(t *testing.T) {
	l := open(t, Config{Dir: t.TempDir()})
	defer closed(t, l)
	l.files.Lock() // the disk hangs
	n := 0
	for l.Add(new(sample(n))) != 0 {
		n++
	}
	for range 10 {
		l.Add(new(sample(n)))
	}
	l.files.Unlock()
	l.settle()
	if s := l.Stats(); s.Dropped < 11 || int(s.Written) != n {
		t.Errorf("%+v, want %d written", s, n)
	}
	if l.Add(new(sample(0))) == 0 {
		t.Error("dropped though there is room again")
	}
}

func TestOpenFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Dir: file}); err == nil || !strings.Contains(err.Error(), "flow records") {
		t.Errorf("got %v", err)
	}
}

// Nonsense in a segment is no record, and never a panic.
func FuzzSegment(f *testing.F) {
	r := sample(1)
	b := batch{first: 7, count: 2, records: r.append(r.append(nil))}
	head := b.head()
	f.Add(append(append([]byte(magic), head[:]...), b.records...), false)
	f.Add([]byte(magic), true)
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, data []byte, newest bool) {
		scan(data, Query{Limit: 10, Newest: newest}, 1<<63)
		for rest, err := data, error(nil); err == nil; { // past the checksum
			var r raw
			if r, rest, err = cut(rest); err == nil {
				rec, derr := r.decode(1)
				if derr != nil {
					continue
				}
				again, _, err := cut(rec.append(nil))
				if err != nil {
					t.Fatal(err)
				}
				if back, err := again.decode(1); err != nil || !cmp.Equal(back, rec, sameAddr) {
					t.Fatalf("%+v became %+v, %v", rec, back, err)
				}
			}
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	l := &Log{queue: make([]byte, 0, queueBytes), wake: make(chan struct{}, 1), next: 1}
	r := sample(1)
	b.ReportAllocs()
	for b.Loop() {
		if l.Add(&r) == 0 {
			l.queue = l.queue[:0]
		}
	}
}

// BenchmarkRead asks for the newest page of one endpoint in a full log, where that
// endpoint has the oldest records alone.
func BenchmarkRead(b *testing.B) {
	l, err := Open(Config{Dir: b.TempDir(), Bytes: 64 << 20})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	r := sample(0)
	for range 300_000 {
		for l.Add(&r) == 0 {
			l.settle()
		}
	}
	l.settle()
	b.SetBytes(l.Stats().Bytes)
	for b.Loop() {
		for q := (Query{Newest: true, Endpoint: "ep-1", Limit: 50}); ; {
			p, err := l.Read(b.Context(), q)
			if err != nil {
				b.Fatal(err)
			}
			if q.Before = p.Next; !p.More {
				break
			}
		}
	}
}
