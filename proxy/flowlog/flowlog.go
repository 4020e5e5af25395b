// Package flowlog keeps what the engine notes of its flows: records, in segment
// files bounded in size and age, and series of counters, in bounded memory.
//
// Nobody waits for it. A record goes into a bounded queue that one goroutine
// writes out; what does not fit there, or on the disk, is dropped and counted.
package flowlog

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	queueBytes   = 1 << 20               // of records that are not written yet
	gather       = 10 * time.Millisecond // after the first record, so that many are written at once
	defaultBytes = 256 << 20
	defaultAge   = 7 * 24 * time.Hour
	segmentShare = 64 // of Config.Bytes that a segment takes, and of ageShare
	segmentLeast = 64 << 10
	ageShare     = 8           // of Config.Age that a segment spans at most, so that age is kept so exactly
	lookEvery    = time.Minute // after what has grown too old
)

// Config of a Log.
type Config struct {
	Dir   string           // made when needed; empty: a temporary one, gone with the log
	Bytes int64            // of all segments together; 0 means 256 MiB
	Age   time.Duration    // of a record, at least; 0 means 7 days
	Log   *slog.Logger     // nil: slog.Default()
	Now   func() time.Time // nil: time.Now
}

// Log is a folder of flow records. Its methods may be called at the same time.
type Log struct {
	cfg       Config
	temporary bool
	limit     int64 // of a segment, bytes

	mu      sync.Mutex // of the queue
	next    uint64     // number of the next record
	queue   []byte
	first   uint64 // number of the first record in queue
	queued  uint32
	dropped uint64

	wake chan struct{} // something is in the queue, or the queue is half full
	stop chan struct{}
	once sync.Once // of the close of stop
	done chan struct{}

	files    sync.Mutex // guards what follows
	spare    []byte     // takes the place of queue
	segments []segment  // oldest first; the last one is written to
	seen     uint64     // number of the last record that can be read
	written  uint64
	file     *os.File // of the last segment; nil: a new one begins with the next record
	failing  bool
}

// segment is one file. It is named after its first record.
type segment struct {
	first uint64
	size  int64     // that is whole
	began time.Time // first written
	last  time.Time // last written
}

// Stats of a log since it was opened, but for what is kept.
type Stats struct {
	Written  uint64 `json:"written"`
	Dropped  uint64 `json:"dropped"` // the queue or the disk was full
	Segments int    `json:"segments"`
	Bytes    int64  `json:"bytes"`
}

// Open reads what dir holds and begins to write. What was cut off by the end of the
// process that wrote it is taken away. Records that the kernel had not yet written
// out when the machine lost its power may be missing.
func Open(cfg Config) (*Log, error) {
	cfg.Bytes, cfg.Age = cmp.Or(cfg.Bytes, defaultBytes), cmp.Or(cfg.Age, defaultAge)
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	l := &Log{
		cfg: cfg, temporary: cfg.Dir == "", limit: max(cfg.Bytes/segmentShare, segmentLeast),
		queue: make([]byte, 0, queueBytes), spare: make([]byte, 0, queueBytes), wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	if l.temporary {
		var err error
		if l.cfg.Dir, err = os.MkdirTemp("", "flows"); err != nil {
			return nil, fmt.Errorf("make folder of flow records: %w", err)
		}
	}
	if err := l.find(); err != nil {
		return nil, err
	}
	go l.run()
	return l, nil
}

// Close writes out what is queued. Closing again does nothing.
func (l *Log) Close() error {
	l.once.Do(func() { close(l.stop) })
	<-l.done
	l.files.Lock()
	defer l.files.Unlock()
	l.shut()
	if l.temporary {
		return os.RemoveAll(l.cfg.Dir)
	}
	return nil
}

// Flush writes out what is queued.
func (l *Log) Flush() {
	l.files.Lock()
	defer l.files.Unlock()
	l.flush()
}

// Stats says how the log does.
func (l *Log) Stats() Stats {
	l.files.Lock()
	defer l.files.Unlock()
	s := Stats{Written: l.written, Segments: len(l.segments)}
	for _, g := range l.segments {
		s.Bytes += g.size
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Dropped = l.dropped
	return s
}

// Add queues r and returns its number, or 0 if it had to be dropped. It never waits
// for the disk and keeps nothing of r.
func (l *Log) Add(r *Record) uint64 {
	l.mu.Lock()
	before := len(l.queue)
	if before+recordMost > cap(l.queue) {
		l.dropped++
		l.mu.Unlock()
		return 0
	}
	seq := l.next
	l.next++
	l.queue = r.append(l.queue)
	if l.queued++; l.queued == 1 {
		l.first = seq
	}
	after := len(l.queue)
	l.mu.Unlock()
	if before == 0 || before < queueBytes/2 && after >= queueBytes/2 {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
	return seq
}

// run writes what is queued until the log closes.
func (l *Log) run() {
	defer close(l.done)
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for open := true; open; {
		select {
		case <-l.wake:
			select { // for more, unless there is much already
			case <-l.wake:
			case <-time.After(gather):
			case <-l.stop:
			}
		case <-look.C:
			l.expire()
		case <-l.stop:
			open = false
		}
		l.files.Lock()
		l.flush()
		l.files.Unlock()
	}
}

// flush writes what is queued. The caller holds files.
func (l *Log) flush() {
	l.mu.Lock()
	b := batch{first: l.first, count: l.queued, records: l.queue}
	if b.count > 0 {
		l.queue, l.queued = l.spare[:0], 0
	}
	l.mu.Unlock()
	if b.count > 0 {
		l.keep(b)
		l.spare = b.records
	}
}

// batch is what is written at once: a block of a segment.
type batch struct {
	first   uint64
	count   uint32
	records []byte
}

// A segment begins with a magic that says its format. A block of it is the length
// and the checksum of what follows (4 bytes each), the number of records in it (4),
// the number of the first (8), and the records.
const (
	magic     = "oplflow1"
	blockHead = 4 + 4 + 4 + 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (b batch) head() (head [blockHead]byte) {
	binary.LittleEndian.PutUint32(head[0:], uint32(len(b.records)))
	binary.LittleEndian.PutUint32(head[8:], b.count)
	binary.LittleEndian.PutUint64(head[12:], b.first)
	binary.LittleEndian.PutUint32(head[4:], crc32.Update(crc32.Checksum(head[8:], castagnoli), castagnoli, b.records))
	return head
}

// cutBlock takes the first block off data. Only check says whether it is whole.
func cutBlock(data []byte) (b batch, sum uint32, rest []byte, ok bool) {
	if len(data) < blockHead {
		return b, 0, nil, false
	}
	n := binary.LittleEndian.Uint32(data)
	if uint64(n) > uint64(len(data)-blockHead) {
		return b, 0, nil, false
	}
	b = batch{
		count: binary.LittleEndian.Uint32(data[8:]), first: binary.LittleEndian.Uint64(data[12:]),
		records: data[blockHead : blockHead+int(n)],
	}
	return b, binary.LittleEndian.Uint32(data[4:]), data[blockHead+int(n):], true
}

func (b batch) check(sum uint32) bool {
	head := b.head()
	return binary.LittleEndian.Uint32(head[4:]) == sum
}

// keep writes b to the newest segment, or drops it. The caller holds files.
func (l *Log) keep(b batch) {
	now := l.cfg.Now()
	if n := len(l.segments); n > 0 && l.file != nil {
		if g := l.segments[n-1]; g.size >= l.limit || now.Sub(g.began) > l.cfg.Age/ageShare {
			l.shut()
		}
	}
	err := l.write(b, now)
	if err != nil {
		l.mu.Lock()
		l.dropped += uint64(b.count)
		l.mu.Unlock()
		if !l.failing {
			l.cfg.Log.Error("write flow records", "dir", l.cfg.Dir, "err", err)
		}
	}
	l.failing = err != nil
	l.retain(now)
}

func (l *Log) write(b batch, now time.Time) error {
	if l.file == nil {
		if err := l.begin(b.first, now); err != nil {
			return err
		}
	}
	g := &l.segments[len(l.segments)-1]
	head := b.head()
	_, err := l.file.WriteAt(head[:], g.size)
	if err == nil {
		_, err = l.file.WriteAt(b.records, g.size+blockHead)
	}
	if err != nil { // what got there is written over, or cut off at the next start
		return errors.Join(err, l.file.Truncate(g.size))
	}
	g.size += int64(blockHead + len(b.records))
	g.last = now
	l.seen = b.first + uint64(b.count) - 1
	l.written += uint64(b.count)
	return nil
}

// begin starts a segment.
func (l *Log) begin(first uint64, now time.Time) error {
	if err := os.MkdirAll(l.cfg.Dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(l.path(first), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte(magic), 0); err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	l.file = f
	l.segments = append(l.segments, segment{first: first, size: int64(len(magic)), began: now, last: now})
	return nil
}

// shut ends the newest segment.
func (l *Log) shut() {
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
}

// expire looks after what has grown too old while nothing was written.
func (l *Log) expire() {
	l.files.Lock()
	defer l.files.Unlock()
	now := l.cfg.Now()
	if n := len(l.segments); n > 0 && now.Sub(l.segments[n-1].began) > l.cfg.Age/ageShare {
		l.shut()
	}
	l.retain(now)
}

// retain removes the oldest segments that are too many bytes or too old.
func (l *Log) retain(now time.Time) {
	var total int64
	for _, g := range l.segments {
		total += g.size
	}
	keep := len(l.segments)
	if l.file != nil {
		keep--
	}
	n := 0
	for ; n < keep && (total > l.cfg.Bytes || now.Sub(l.segments[n].last) > l.cfg.Age); n++ {
		if err := os.Remove(l.path(l.segments[n].first)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			l.cfg.Log.Error("remove old flow records", "err", err)
			break
		}
		total -= l.segments[n].size
	}
	l.segments = slices.Delete(l.segments, 0, n)
}

const (
	prefix = "flows-"
	suffix = ".seg"
)

func (l *Log) path(first uint64) string {
	return filepath.Join(l.cfg.Dir, fmt.Sprintf("%s%016x%s", prefix, first, suffix))
}

// find lists the segments that are there, repairs the newest and goes on with it.
func (l *Log) find() error {
	entries, err := os.ReadDir(l.cfg.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read folder of flow records: %w", err)
	}
	for _, e := range entries { // sorted by name, so by number
		name, ours := strings.CutPrefix(e.Name(), prefix)
		name, whole := strings.CutSuffix(name, suffix)
		first, err := strconv.ParseUint(name, 16, 64)
		info, infoErr := e.Info()
		if !ours || !whole || err != nil || infoErr != nil || !info.Mode().IsRegular() {
			continue
		}
		l.segments = append(l.segments, segment{first: first, size: info.Size(), began: info.ModTime(), last: info.ModTime()})
	}
	for n := len(l.segments); n > 0; n = len(l.segments) {
		ok, err := l.repair(&l.segments[n-1])
		if err != nil {
			return err
		}
		if ok {
			break
		}
		l.segments = l.segments[:n-1]
	}
	// Numbers go on, past any that a lost tail may have had.
	now := l.cfg.Now()
	l.next = max(l.seen+1, uint64(now.UnixMicro()))
	l.retain(now)
	return nil
}

// repair cuts off what is torn at the end of the newest segment. It is false for a
// segment with nothing in it, which it removes.
func (l *Log) repair(g *segment) (bool, error) {
	path := l.path(g.first)
	data, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("repair flow records: %w", err)
	}
	whole := int64(len(magic))
	blocks, ok := strings.CutPrefix(string(data), magic)
	if ok {
		for rest := []byte(blocks); ; {
			b, sum, more, ok := cutBlock(rest)
			if !ok || !b.check(sum) {
				break
			}
			whole += int64(len(rest) - len(more))
			if b.count > 0 {
				l.seen = b.first + uint64(b.count) - 1
				if r, _, err := cut(b.records); err == nil && whole == int64(len(magic)+blockHead+len(b.records)) {
					g.began = time.Unix(0, r.end())
				}
			}
			rest = more
		}
	}
	if l.seen == 0 {
		if err := os.Remove(path); err != nil {
			return false, fmt.Errorf("remove empty flow records: %w", err)
		}
		return false, nil
	}
	g.size = whole
	if l.file, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
		return false, fmt.Errorf("repair flow records: %w", err)
	}
	if whole < int64(len(data)) {
		l.cfg.Log.Warn("flow records were cut off", "bytes", int64(len(data))-whole)
		if err := l.file.Truncate(whole); err != nil {
			return false, errors.Join(fmt.Errorf("repair flow records: %w", err), l.file.Close())
		}
	}
	return true, nil
}
