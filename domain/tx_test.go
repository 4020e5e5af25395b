package domain

import (
	"errors"
	"path/filepath"
	"testing"
)

// lost is what PostgreSQL says to a transaction that it gives up.
type lost string

func (l lost) Error() string    { return "SQLSTATE " + string(l) }
func (l lost) SQLState() string { return string(l) }

func TestLostTransactionsRunAgain(t *testing.T) {
	s, err := Open(t.Context(), Config{Database: filepath.Join(t.TempDir(), "test.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	tests := []struct {
		name  string
		errs  []error // of the attempts
		runs  int
		fails bool
	}{
		{"won at once", []error{nil}, 1, false},
		{"lost twice", []error{lost("40001"), lost("40P01"), nil}, 3, false},
		{"lost always", []error{lost("40001"), lost("40001"), lost("40001"), nil}, 3, true},
		{"another fault of the database", []error{lost("23505"), nil}, 1, true},
		{"a fault of ours", []error{changedMeanwhile(KindVPC), nil}, 1, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			runs := 0
			err := s.inTx(t.Context(), Actor{}, "a", func(x *tx) error {
				err := tt.errs[runs]
				runs++
				x.touched("a", KindVPC, "vpc-1")
				return errors.Join(x.audit("Try", KindVPC, "", "", nil, nil), err)
			})
			if runs != tt.runs || (err != nil) != tt.fails {
				t.Errorf("%d runs, %v; want %d, failing %v", runs, err, tt.runs, tt.fails)
			}
		})
	}
	// What was given up has left nothing in the trail.
	if c, err := verifyChain(s.db, "a"); err != nil || c != (AuditCheck{Entries: 2}) {
		t.Errorf("trail %+v, %v; want 2 entries", c, err)
	}
}
