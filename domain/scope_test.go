package domain_test

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// fixture is a world in which the provider's account has something of everything.
type fixture struct {
	*domaintest.World
	id        map[string]string // what the provider has: a word of the tests to an id
	guest     string            // name of a user who is in no account
	strangers string            // id of a service of the stranger
	listener  string            // and of a listener
}

// trial calls a method of a scope with the fixture's ids.
type trial struct {
	needs  domain.Permission // "" for none
	also   domain.Permission // a second one; "" for none
	rows   []string          // the words for what the provider gets and a stranger does not; nil for a call of one object
	own    bool              // the call names nothing of an account
	call   func(ctx context.Context, s *domain.Scope, f *fixture) (any, error)
	method string
}

// refuses is a call with ids of the provider: NotFound for a stranger.
func refuses(needs domain.Permission, call func(ctx context.Context, s *domain.Scope, f *fixture) error) trial {
	return trial{needs: needs, call: func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) { return nil, call(ctx, s, f) }}
}

// lists is a call that returns what an account has: rows, for the provider, and
// nothing of them for a stranger.
func lists(needs domain.Permission, call func(ctx context.Context, s *domain.Scope, f *fixture) (any, error), rows ...string) trial {
	return trial{needs: needs, call: call, rows: rows}
}

// creates is a call that names nothing of the account.
func creates(needs domain.Permission, call func(ctx context.Context, s *domain.Scope, f *fixture) (any, error)) trial {
	return trial{needs: needs, call: call, own: true}
}

var (
	trials   = map[string]trial{} // by method, or method/case
	builders []func(t *testing.T, f *fixture)
)

// register adds trials, and what makes the ids that they use. Builders run in the
// order of the files' names.
func register(build func(t *testing.T, f *fixture), more map[string]trial) {
	builders = append(builders, build)
	for name, tr := range more {
		if _, ok := trials[name]; ok {
			panic("two trials of " + name)
		}
		tr.method, _, _ = strings.Cut(name, "/")
		trials[name] = tr
	}
}

func build(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{World: domaintest.New(t), id: map[string]string{}}
	for _, b := range builders {
		b(t, f)
	}
	return f
}

// everyTrial goes through the trials in the order of their names.
func everyTrial(yield func(name string, tr trial) bool) {
	for _, name := range slices.Sorted(maps.Keys(trials)) {
		if !yield(name, trials[name]) {
			return
		}
	}
}

// TestEveryMethodHasATrial counts: a method of Scope that nobody has tried with
// what belongs to others does not pass.
func TestEveryMethodHasATrial(t *testing.T) {
	tried := map[string]bool{}
	for _, tr := range trials {
		tried[tr.method] = true
	}
	for m := range reflect.TypeFor[*domain.Scope]().Methods() {
		if !tried[m.Name] {
			t.Errorf("Scope.%s has no trial: register one", m.Name)
		}
		delete(tried, m.Name)
	}
	for name := range tried {
		t.Errorf("Scope.%s has a trial and does not exist", name)
	}
}

// TestStrangersGetNothing calls every method as one account with the ids of another.
func TestStrangersGetNothing(t *testing.T) {
	f := build(t)
	for name, tr := range everyTrial {
		t.Run(name, func(t *testing.T) {
			before := dump(t, f.Store)
			got, err := tr.call(t.Context(), f.Stranger, f)
			switch {
			case tr.own:
			case tr.rows == nil:
				if domain.KindOf(err) != domain.NotFound {
					t.Errorf("the stranger got %v, want NotFound", err)
				}
				if diff := cmp.Diff(before, dump(t, f.Store)); diff != "" {
					t.Errorf("the stranger changed something:\n%s", diff)
				}
			case err != nil:
				t.Errorf("the stranger got %v, want a list without what is the provider's", err)
			}
			for word, id := range f.id {
				if contains(t, got, id) {
					t.Errorf("the stranger was shown the provider's %s, %s", word, id)
				}
			}
			if tr.rows == nil {
				return
			}
			own, err := tr.call(t.Context(), f.Provider, f)
			if err != nil {
				t.Fatalf("the provider got %v", err)
			}
			for _, word := range tr.rows {
				if !contains(t, own, f.id[word]) {
					t.Errorf("the provider was not shown its %s, %s: %+v", word, f.id[word], own)
				}
			}
		})
	}
}

// contains reports whether an answer has the id anywhere in it.
func contains(t *testing.T, answer any, id string) bool {
	t.Helper()
	if id == "" {
		t.Fatal("the fixture does not have the id")
	}
	b, err := json.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(b, []byte(`"`+id+`"`))
}

// TestEveryRole calls every method in every role: it is refused exactly where the
// role does not have the permission.
func TestEveryRole(t *testing.T) {
	for _, role := range domain.Roles {
		t.Run(string(role), func(t *testing.T) {
			f := build(t)
			s := f.As(f.Provider.Account().ID, role)
			before := dump(t, f.Store)
			for name, tr := range everyTrial {
				t.Run(name, func(t *testing.T) {
					_, err := tr.call(t.Context(), s, f)
					allowed := (tr.needs == "" || role.Allows(tr.needs)) && (tr.also == "" || role.Allows(tr.also))
					if refused := reason(err) == "no_permission"; refused == allowed {
						t.Errorf("got %v, want allowed %v by %q", err, allowed, tr.needs)
					}
					if tr.needs != "" && s.Can(tr.needs) != role.Allows(tr.needs) {
						t.Errorf("Can(%q) = %v", tr.needs, s.Can(tr.needs))
					}
				})
			}
			if role == domain.RoleAuditor {
				if diff := cmp.Diff(before, dump(t, f.Store)); diff != "" {
					t.Errorf("the auditor changed something:\n%s", diff)
				}
			}
		})
	}
}

// TestSuspended calls every method for a suspended account, also by a scope that is
// older than the suspension: it reads and changes nothing.
func TestSuspended(t *testing.T) {
	f := build(t)
	older := f.Provider
	if err := f.Operator.SuspendAccount(t.Context(), older.Account().ID); err != nil {
		t.Fatal(err)
	}
	newer := f.As(older.Account().ID, domain.RoleOwner)
	before := dump(t, f.Store)
	for name, tr := range everyTrial {
		t.Run(name, func(t *testing.T) {
			for name, s := range map[string]*domain.Scope{"older": older, "newer": newer} {
				_, err := tr.call(t.Context(), s, f)
				writes := strings.HasSuffix(string(tr.needs), ":write")
				if refused := reason(err) == "account_suspended"; refused != writes {
					t.Errorf("%s scope: got %v, want refused %v", name, err, writes)
				}
			}
		})
	}
	if diff := cmp.Diff(before, dump(t, f.Store)); diff != "" {
		t.Errorf("a suspended account changed something:\n%s", diff)
	}
}

// reason returns the stable word of an error of this package, "" for others.
func reason(err error) string {
	if de, ok := errors.AsType[*domain.Error](err); ok {
		return de.Reason
	}
	return ""
}

// dump returns every row of the store, by table.
func dump(t *testing.T, s *domain.Store) map[string]string {
	t.Helper()
	var b bytes.Buffer
	if err := s.Backup(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string]string{}
	for _, f := range z.File {
		if f.Name == "manifest.json" {
			continue
		}
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		rows, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(rows), "\n")
		slices.Sort(lines)
		tables[f.Name] = strings.Join(lines, "\n")
	}
	return tables
}
