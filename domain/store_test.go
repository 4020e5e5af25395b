package domain

import (
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"gorm.io/gorm/schema"
)

var schemaCache sync.Map

// TestSchemaMatchesModels compares the columns that the migrations made with the
// fields of the structs, both ways.
func TestSchemaMatchesModels(t *testing.T) {
	s, err := Open(t.Context(), Config{Database: filepath.Join(t.TempDir(), "test.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, m := range append(slices.Clone(tables), engineChange{}) {
		sch, err := schema.Parse(reflect.New(reflect.TypeOf(m)).Interface(), &schemaCache, naming)
		if err != nil {
			t.Fatal(err)
		}
		columns, err := s.db.Migrator().ColumnTypes(sch.Table)
		if err != nil {
			t.Fatalf("%s: %v", sch.Table, err)
		}
		have := map[string]bool{}
		for _, c := range columns {
			have[c.Name()] = true
		}
		for _, f := range sch.Fields {
			if !have[f.DBName] {
				t.Errorf("%s.%s: no column %s in the migrations", sch.Name, f.Name, f.DBName)
			}
			delete(have, f.DBName)
		}
		for c := range have {
			t.Errorf("table %s: column %s has no field", sch.Table, c)
		}
	}
}

// A version that is put back leaves alone what a later one has written.
func TestNewerStoreIsRefused(t *testing.T) {
	c := Config{Database: filepath.Join(t.TempDir(), "test.db")}
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.db.Exec("INSERT INTO migrations (id) VALUES ('9999_later')").Error; err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "newer version") {
		t.Errorf("got %v, want a refusal that says why", err)
	}
}
