package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/openprivatelink/openprivatelink/proxy/verdict"
)

// keeper is a store with the snapshot that it keeps, as the engine has them.
type keeper struct {
	*store
	st state
}

func openKeeper(tb testing.TB, dir string) *keeper {
	tb.Helper()
	s, st, err := openStore(dir)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.close)
	return &keeper{s, st}
}

// keep applies an endpoint's change, as the engine does.
func (k *keeper) keep(id string, carry bool) error {
	c := Change{Base: k.st.Generation, Generation: k.st.Generation + 1, Set: Snapshot{
		Endpoints: map[string]Endpoint{id: {ID: id, Carry: carry}},
	}}
	d, err := k.st.Snapshot.patch(c, false)
	if err != nil {
		return err
	}
	k.st.Generation++
	return k.append(d, func() Snapshot { return Snapshot{Endpoints: maps.Clone(k.st.Snapshot.Endpoints)} })
}

func (k *keeper) carries(id string) bool { return k.st.Snapshot.Endpoints[id].Carry }

func TestStoreKeepsEveryChange(t *testing.T) {
	dir := t.TempDir()
	k := openKeeper(t, dir)
	for i := range 100 {
		if err := k.keep(fmt.Sprint("ep-", i%7), i%2 == 0); err != nil {
			t.Fatal(err)
		}
	}
	again := openKeeper(t, dir) // as after a kill: the first was never closed
	if diff := cmp.Diff(k.st.Snapshot, again.st.Snapshot); diff != "" || again.st.Generation != 100 {
		t.Errorf("generation %d, %s", again.st.Generation, diff)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, journalFile)); len(b) != 0 {
		t.Errorf("the journal of the second life begins with %d bytes", len(b))
	}
}

// Cut anywhere, the journal gives the state after some prefix of the changes: all
// those whose lines are whole.
func TestTornJournal(t *testing.T) {
	dir := t.TempDir()
	k := openKeeper(t, dir)
	var ends []int64 // of the journal, after each change
	for i := range 5 {
		if err := k.keep("ep", i%2 == 0); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, k.size)
	}
	journal, err := os.ReadFile(filepath.Join(dir, journalFile))
	if err != nil || int64(len(journal)) != k.size {
		t.Fatal(len(journal), err)
	}
	for cut := range len(journal) + 1 {
		whole := 0
		for _, e := range ends {
			if int64(cut) >= e-1 { // without its newline a line is whole too
				whole++
			}
		}
		var st state
		if err := st.replay(journal[:cut]); err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if st.Generation != uint64(whole) || st.Snapshot.Endpoints["ep"].Carry != (whole%2 == 1) {
			t.Fatalf("cut at %d: generation %d carrying %v, want %d", cut, st.Generation, st.Snapshot.Endpoints["ep"].Carry, whole)
		}
	}
	// Zeros at the end, as a file system may leave them, are a torn line too.
	var st state
	if err := st.replay(append(bytes.Clone(journal), make([]byte, 4096)...)); err != nil || st.Generation != 5 {
		t.Fatal(st.Generation, err)
	}
}

// A version that is put back leaves alone what a later one has written.
func TestNewerFormatIsRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, snapshotFile)
	newer := []byte(`{"format":2,"shape":"unknown"}`)
	if err := os.WriteFile(file, newer, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openStore(dir); err == nil || errors.Is(err, errDamaged) {
		t.Fatalf("got %v, want a refusal", err)
	}
	if b, err := os.ReadFile(file); err != nil || !bytes.Equal(b, newer) {
		t.Errorf("the file is %q now, %v", b, err)
	}
	h := handover{Format: handoverFormat + 1, Version: "later"}
	if err := h.check(); err == nil {
		t.Error("a hand-over of a later version was not refused")
	}
}

func TestDamageCarriesNothing(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"a byte within the journal": func(dir string) error { return flip(filepath.Join(dir, journalFile), 20) },
		"the snapshot":              func(dir string) error { return flip(filepath.Join(dir, snapshotFile), 0) },
		"a journal without its snapshot": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, snapshotFile), []byte(`{"format":1,"seq":7,"generation":7}`), 0o600)
		},
		"an older format": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, snapshotFile), []byte(`{"format":0}`), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			k := openKeeper(t, dir)
			for i := range 3 {
				if err := k.keep("ep", i == 0); err != nil {
					t.Fatal(err)
				}
			}
			if name == "a journal without its snapshot" { // one with a gap
				k.seq += 10
				if err := k.keep("ep", true); err != nil {
					t.Fatal(err)
				}
			}
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			s, st, err := openStore(dir)
			if !errors.Is(err, errDamaged) || st.Generation != 0 || len(st.Snapshot.Endpoints) != 0 {
				t.Fatalf("got generation %d with %v, %v; want nothing and errDamaged", st.Generation, st.Snapshot.Endpoints, err)
			}
			s.close()
			if aside, _ := filepath.Glob(filepath.Join(dir, "*.damaged")); len(aside) == 0 {
				t.Error("what was damaged is gone, not aside")
			}
			if again := openKeeper(t, dir); again.st.Generation != 0 {
				t.Errorf("the next start read generation %d", again.st.Generation)
			}
		})
	}
}

func flip(path string, at int) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b[at] ^= 0x55
	return os.WriteFile(path, b, 0o600)
}

// A crash may fall between any two steps of a compaction.
func TestCompaction(t *testing.T) {
	dir := t.TempDir()
	k := openKeeper(t, dir)
	k.floor = 500
	for i := range 200 {
		if err := k.keep(fmt.Sprint("ep-", i%3), i%2 == 0); err != nil {
			t.Fatal(err)
		}
		if i%20 == 0 { // whatever is under way: what is on disk now is all of it
			copied := filepath.Join(t.TempDir(), "copy")
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				continue // a file went away under the copy
			}
			st, err := readState(copied)
			if err == nil && st.Generation != uint64(i+1) {
				t.Fatalf("change %d: generation %d on disk", i+1, st.Generation)
			}
		}
		k.mu.Lock()
		k.floor = 500
		k.mu.Unlock()
	}
	k.compactions.Wait()
	info, err := os.Stat(filepath.Join(dir, snapshotFile))
	if err != nil || info.Size() < 200 {
		t.Fatalf("no compaction: %v", err)
	}
	if again := openKeeper(t, dir); again.st.Generation != 200 {
		t.Errorf("generation %d, want 200", again.st.Generation)
	}

	// Both journals, and a snapshot that holds the older one already.
	k = openKeeper(t, t.TempDir())
	for range 4 {
		if err := k.keep("ep", true); err != nil {
			t.Fatal(err)
		}
	}
	old, err := os.ReadFile(k.path(journalFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := k.rewrite(state{Seq: k.seq, Generation: 4, Snapshot: k.st.Snapshot}); err != nil {
		t.Fatal(err)
	}
	if err := k.keep("ep", false); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(k.path(oldJournal), old, 0o600); err != nil {
		t.Fatal(err)
	}
	if again := openKeeper(t, k.dir); again.st.Generation != 5 || again.carries("ep") {
		t.Errorf("generation %d carrying %v", again.st.Generation, again.carries("ep"))
	}
}

// A disk that takes nothing makes changes fail, and loses none once it takes again.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	k := openKeeper(t, dir)
	if err := k.keep("ep", true); err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("no /dev/full: ", err)
	}
	_ = k.journal.Close()
	k.journal = full
	if err := k.keep("ep", false); err == nil {
		t.Fatal("kept on a full disk")
	}
	if err := k.keep("other", true); err != nil {
		t.Fatal(err)
	}
	again := openKeeper(t, dir)
	if again.carries("ep") || !again.carries("other") || again.st.Generation != 3 {
		t.Errorf("after the disk took again: %+v", again.st)
	}
}

// Any sequence of changes, whole or not, leaves the same on disk as in memory, and
// what patch reports as different turns the old into the new.
func TestPatch(t *testing.T) {
	ids := []string{"a", "b", "c"}
	rapid.Check(t, func(t *rapid.T) {
		var have, mirror Snapshot
		for step := range rapid.IntRange(1, 20).Draw(t, "steps") {
			whole := rapid.IntRange(0, 4).Draw(t, "whole") == 0
			c := Change{Generation: uint64(step), Delete: map[string][]string{}}
			c.Set.Endpoints = map[string]Endpoint{}
			c.Set.Groups = map[string]verdict.Group{}
			for _, id := range rapid.SliceOfDistinct(rapid.SampledFrom(ids), rapid.ID).Draw(t, "set") {
				c.Set.Endpoints[id] = Endpoint{ID: id, Version: int64(rapid.IntRange(0, 2).Draw(t, "version"))}
				c.Set.Groups[id] = verdict.Group{ID: id, IntraAllow: rapid.Bool().Draw(t, "intra")}
			}
			c.Delete[fieldEndpoints] = rapid.SliceOfDistinct(rapid.SampledFrom(ids), rapid.ID).Draw(t, "delete")
			want := map[string]Endpoint{}
			for id, ep := range have.Endpoints {
				if !whole {
					want[id] = ep
				}
			}
			for _, id := range c.Delete[fieldEndpoints] {
				delete(want, id)
			}
			maps.Copy(want, c.Set.Endpoints)
			d, err := have.patch(c, whole)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := mirror.patch(d, false); err != nil {
				t.Fatal(err)
			}
			if len(want) != len(have.Endpoints) || len(want) > 0 && !cmp.Equal(want, have.Endpoints) {
				t.Fatalf("got %v, want %v", have.Endpoints, want)
			}
			if !cmp.Equal(have, mirror) {
				t.Fatalf("by what differed: %s", cmp.Diff(have, mirror))
			}
			if again, _ := have.patch(c, whole); len(again.Set.Endpoints)+len(again.Set.Groups) > 0 {
				t.Fatalf("the same change differs again: %+v", again)
			}
		}
	})
}

// Whatever is in the files, reading them gives a state or errDamaged, and no state
// goes on with a change that does not follow it.
func FuzzStore(f *testing.F) {
	first, _ := encodeEntry(entry{1, Change{Generation: 1, Set: Snapshot{Endpoints: map[string]Endpoint{"ep": {ID: "ep", Carry: true}}}}})
	second, _ := encodeEntry(entry{2, Change{Base: 1, Generation: 2, Delete: map[string][]string{fieldEndpoints: {"ep"}}}})
	f.Add([]byte(`{"format":1,"seq":0,"generation":0,"snapshot":{}}`), append(first, second...))
	f.Add([]byte(`{"format":1,"seq":1,"generation":1,"snapshot":{"endpoints":{"ep":{"id":"ep","carry":true}}}}`), append(first, second[:20]...))
	f.Add([]byte(`{"format":1`), []byte("00000000 {}\n"))
	f.Fuzz(func(t *testing.T, snapshot, journal []byte) {
		st, err := decodeState(snapshot)
		if err != nil {
			if !errors.Is(err, errDamaged) {
				t.Fatalf("decodeState: %v", err)
			}
			return
		}
		before := st.Seq
		switch err := st.replay(journal); {
		case err != nil && !errors.Is(err, errDamaged):
			t.Fatalf("replay: %v", err)
		case st.Seq < before:
			t.Fatalf("replay went from change %d back to %d", before, st.Seq)
		}
	})
}
