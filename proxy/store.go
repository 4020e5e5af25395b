package proxy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// The store is a snapshot and a journal of the changes since, both numbered, so
// that a change which the snapshot already holds is passed over. A line of the
// journal is a checksum and a change. When the journal outgrows the snapshot it is
// put aside and a new snapshot is written beside the work.
const (
	storeFormat  = 1
	snapshotFile = "snapshot.json"
	journalFile  = "journal"
	oldJournal   = "journal.old"
	journalFloor = 1 << 20 // a journal below this size is never compacted
)

// errDamaged says that what is on disk is not what was acknowledged. It is better
// to carry nothing than to bring back what was revoked.
var errDamaged = errors.New("the state on disk is damaged")

// state is what the store keeps.
type state struct {
	Format     int      `json:"format"`
	Seq        uint64   `json:"seq"` // of the last change in it
	Generation uint64   `json:"generation"`
	Snapshot   Snapshot `json:"snapshot"`
}

// entry is a line of the journal. Base is never 0: a whole snapshot is kept as
// what it changes.
type entry struct {
	Seq uint64 `json:"seq"`
	Change
}

type store struct {
	dir string // empty: nothing is kept

	mu      sync.Mutex
	journal *os.File
	seq     uint64
	size    int64 // of the journal
	floor   int64 // size from which it is compacted
	busy    bool  // a compaction is under way
	lost    bool  // the journal lacks a change: only a whole snapshot helps

	compactions sync.WaitGroup
	snapshot    sync.Mutex // held while the snapshot is written
	newest      uint64     // number of the snapshot on disk
}

// openStore reads what was kept in dir and starts a fresh journal. With
// errDamaged the files have been put aside and the state is empty.
func openStore(dir string) (*store, state, error) {
	s := &store{dir: dir, floor: journalFloor}
	if dir == "" {
		return s, state{Format: storeFormat}, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, state{}, fmt.Errorf("make state directory: %w", err)
	}
	st, err := readState(dir)
	if errors.Is(err, errDamaged) {
		for _, name := range []string{snapshotFile, journalFile, oldJournal} {
			if err := os.Rename(s.path(name), s.path(name)+".damaged"); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, state{}, fmt.Errorf("put damaged state aside: %w", err)
			}
		}
	} else if err != nil {
		return nil, state{}, err
	}
	s.seq = st.Seq
	// What was read is still there if this fails, as on a full disk: forwarding
	// goes on, and the first change tries again and reports it.
	_ = s.rewrite(st)
	return s, st, err
}

func readState(dir string) (state, error) {
	st := state{Format: storeFormat}
	b, err := os.ReadFile(filepath.Join(dir, snapshotFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return st, fmt.Errorf("read snapshot: %w", err)
	default:
		if st, err = decodeState(b); err != nil {
			return state{Format: storeFormat}, err
		}
	}
	for _, name := range []string{oldJournal, journalFile} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return state{}, fmt.Errorf("read journal: %w", err)
		}
		if err := st.replay(b); err != nil {
			return state{Format: storeFormat}, err
		}
	}
	return st, nil
}

func decodeState(b []byte) (state, error) {
	var st state
	if err := json.Unmarshal(b, &st); err != nil {
		return state{}, fmt.Errorf("%w: snapshot: %w", errDamaged, err)
	}
	if st.Format > storeFormat {
		return state{}, fmt.Errorf("read snapshot: it has format %d, of a newer version; this one reads %d", st.Format, storeFormat)
	}
	if st.Format != storeFormat {
		return state{}, fmt.Errorf("%w: snapshot of format %d, this engine reads %d", errDamaged, st.Format, storeFormat)
	}
	return st, nil
}

// replay adds the changes of a journal. A last line that is torn was never
// acknowledged and is dropped; any other fault is errDamaged.
func (st *state) replay(journal []byte) error {
	for len(journal) > 0 {
		line, rest, whole := bytes.Cut(journal, []byte("\n"))
		e, err := decodeEntry(line)
		switch {
		case err != nil && (!whole || len(rest) == 0):
			return nil
		case err != nil:
			return fmt.Errorf("%w: journal after %d: %w", errDamaged, st.Seq, err)
		case e.Seq <= st.Seq: // in the snapshot already
		case e.Seq != st.Seq+1 || e.Base != st.Generation:
			return fmt.Errorf("%w: journal goes on with change %d on generation %d after change %d of generation %d",
				errDamaged, e.Seq, e.Base, st.Seq, st.Generation)
		default:
			if _, err := st.Snapshot.patch(e.Change, false); err != nil {
				return fmt.Errorf("%w: journal: %w", errDamaged, err)
			}
			st.Seq, st.Generation = e.Seq, e.Generation
		}
		journal = rest
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func encodeEntry(e entry) ([]byte, error) {
	b, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode change: %w", err)
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.Checksum(b, castagnoli), b), nil
}

func decodeEntry(line []byte) (e entry, err error) {
	sum, b, ok := bytes.Cut(line, []byte(" "))
	if !ok {
		return e, errors.New("no checksum")
	}
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if err != nil || uint32(want) != crc32.Checksum(b, castagnoli) {
		return e, errors.New("wrong checksum")
	}
	return e, json.Unmarshal(b, &e)
}

// forget makes the next change write the whole snapshot: what is on disk is not what
// the engine goes on from.
func (s *store) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = true
}

// append keeps a change; on return it is on disk. now gives the snapshot with the
// change in it, for the rare case that it must be written whole.
func (s *store) append(c Change, now func() Snapshot) error {
	if s.dir == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	if s.lost {
		return s.rewrite(state{Seq: s.seq, Generation: c.Generation, Snapshot: now()})
	}
	line, err := encodeEntry(entry{s.seq, c})
	if err == nil {
		_, err = s.journal.Write(line)
	}
	if err == nil {
		err = s.journal.Sync()
	}
	if err != nil {
		s.lost = true
		return fmt.Errorf("keep change: %w", err)
	}
	s.size += int64(len(line))
	if s.size > s.floor && !s.busy {
		return s.compact(state{Seq: s.seq, Generation: c.Generation, Snapshot: now()})
	}
	return nil
}

// compact puts the journal aside and writes the snapshot beside the work. Until
// that is done both journals count.
func (s *store) compact(st state) error {
	if _, err := os.Stat(s.path(oldJournal)); errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(s.path(journalFile), s.path(oldJournal)); err != nil {
			return fmt.Errorf("put journal aside: %w", err)
		}
		if err := s.startJournal(); err != nil {
			s.lost = true
			return err
		}
	}
	s.busy = true
	s.compactions.Go(func() {
		size, err := s.writeSnapshot(st)
		if err == nil {
			err = s.removeOld()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.busy = false
		if err == nil {
			s.floor = max(journalFloor, size)
		} else {
			s.floor = s.size + journalFloor // the journals still hold everything; not at once again
		}
	})
	return nil
}

// rewrite replaces everything on disk by st.
func (s *store) rewrite(st state) error {
	s.lost = true
	size, err := s.writeSnapshot(st)
	if err != nil {
		return err
	}
	if err := errors.Join(s.removeOld(), s.startJournal()); err != nil {
		return err
	}
	s.lost, s.floor = false, max(journalFloor, size)
	return nil
}

// removeOld removes the journal that was put aside, once a snapshot holds it.
func (s *store) removeOld() error {
	if err := os.Remove(s.path(oldJournal)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove old journal: %w", err)
	}
	return nil
}

// writeSnapshot replaces the snapshot in one step, unless a newer one is there
// already, and returns its size.
func (s *store) writeSnapshot(st state) (int64, error) {
	s.snapshot.Lock()
	defer s.snapshot.Unlock()
	if st.Seq < s.newest {
		return 0, nil
	}
	st.Format = storeFormat
	f, err := os.CreateTemp(s.dir, snapshotFile+".*")
	if err != nil {
		return 0, fmt.Errorf("write snapshot: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	w := bufio.NewWriter(f)
	err = errors.Join(json.NewEncoder(w).Encode(st), w.Flush(), f.Sync())
	if err == nil {
		err = os.Rename(f.Name(), s.path(snapshotFile))
	}
	if err == nil {
		err = s.syncDir()
	}
	if err != nil {
		return 0, fmt.Errorf("write snapshot: %w", err)
	}
	s.newest = st.Seq
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("write snapshot: %w", err)
	}
	return info.Size(), nil
}

// startJournal begins an empty journal.
func (s *store) startJournal() error {
	if s.journal != nil {
		_ = s.journal.Close()
	}
	var err error
	if s.journal, err = os.OpenFile(s.path(journalFile), os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return fmt.Errorf("start journal: %w", err)
	}
	s.size = 0
	return s.syncDir()
}

// syncDir makes new names in the directory last.
func (s *store) syncDir() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return fmt.Errorf("sync state directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync state directory: %w", err)
	}
	return nil
}

func (s *store) path(name string) string { return filepath.Join(s.dir, name) }

func (s *store) close() {
	s.compactions.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.journal != nil {
		_ = s.journal.Close()
	}
}
