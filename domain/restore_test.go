package domain_test

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// TestRestoreOlderBackup restores a backup whose server groups know nothing of
// types, protocols and kinds of checks.
func TestRestoreOlderBackup(t *testing.T) {
	m := newMarket(t)
	var backup bytes.Buffer
	check(t, m.Store.Backup(t.Context(), &backup))
	full := bytes.NewReader(backup.Bytes())
	older := bytes.NewReader(without(t, full, "ServerGroup.jsonl", "Type", "Protocol", "HealthType", "Kept", "Drain"))
	for name, r := range map[string]*bytes.Reader{"as it is": full, "older": older} {
		t.Run(name, func(t *testing.T) {
			s := domaintest.Open(t, domaintest.Config(t, nil))
			_, err := s.Restore(t.Context(), r, r.Size())
			check(t, err)
			if diff := cmp.Diff(dump(t, m.Store), dump(t, s)); diff != "" {
				t.Errorf("restored:\n%s", diff)
			}
			g := must(s.System().EngineServerGroups(t.Context(), nil))(t)
			if len(g) != 1 || g[0].Type != domain.TypeNLB || g[0].Protocol != domain.ProtocolTCP || g[0].HealthType != domain.HealthTCP {
				t.Errorf("server groups %+v", g)
			}
		})
	}
}

// without returns a copy of a backup whose rows in one file lack some keys.
func without(t *testing.T, backup *bytes.Reader, file string, keys ...string) []byte {
	t.Helper()
	from, err := zip.NewReader(backup, backup.Size())
	check(t, err)
	var out bytes.Buffer
	to := zip.NewWriter(&out)
	for _, f := range from.File {
		r, err := f.Open()
		check(t, err)
		w, err := to.Create(f.Name)
		check(t, err)
		if f.Name != file {
			_, err = io.Copy(w, r)
			check(t, err)
			continue
		}
		for dec, enc := json.NewDecoder(r), json.NewEncoder(w); dec.More(); {
			var row map[string]any
			check(t, dec.Decode(&row))
			for _, k := range keys {
				delete(row, k)
			}
			check(t, enc.Encode(row))
		}
	}
	check(t, to.Close())
	return out.Bytes()
}
