// Package domaintest makes stores for tests: migrated, on SQLite in a temporary
// directory or, where TEST_POSTGRES holds a DSN, in a PostgreSQL schema of its own;
// and worlds, which have people and accounts in them.
package domaintest

import (
	"crypto/rand"
	"database/sql"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver that the store uses, too

	"github.com/openprivatelink/openprivatelink/domain"
)

// Postgres returns the DSN of the server that tests shall use, "" for SQLite.
func Postgres() string { return os.Getenv("TEST_POSTGRES") }

// Config returns the configuration of an empty store that ends with the test. The
// clock may be nil.
func Config(tb testing.TB, c *Clock) domain.Config {
	tb.Helper()
	conf := domain.Config{Database: filepath.Join(tb.TempDir(), "test.db"), Secret: make([]byte, 32)}
	if c != nil {
		conf.Now = c.Now
	}
	if dsn := Postgres(); dsn != "" {
		conf.Database = postgresSchema(tb, dsn)
		return conf
	}
	if err := os.WriteFile(conf.Database, migrated(tb), 0o600); err != nil {
		tb.Fatal(err)
	}
	return conf
}

// Open opens a store that is closed at the end of the test.
func Open(tb testing.TB, conf domain.Config) *domain.Store {
	tb.Helper()
	s, err := domain.Open(tb.Context(), conf)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("close store: %v", err)
		}
	})
	return s
}

// template is an empty SQLite database: copying it is faster than migrating one.
var template struct {
	sync.Mutex
	data []byte
}

func migrated(tb testing.TB) []byte {
	tb.Helper()
	template.Lock()
	defer template.Unlock()
	if template.data != nil {
		return template.data
	}
	path := filepath.Join(tb.TempDir(), "template.db")
	s, err := domain.Open(tb.Context(), domain.Config{Database: path})
	if err != nil {
		tb.Fatal(err)
	}
	if err := s.Close(); err != nil {
		tb.Fatal(err)
	}
	if template.data, err = os.ReadFile(path); err != nil {
		tb.Fatal(err)
	}
	return template.data
}

// postgresSchema makes a schema for the test and returns a DSN that leads into it.
func postgresSchema(tb testing.TB, dsn string) string {
	tb.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		tb.Fatalf("TEST_POSTGRES: %v", err)
	}
	name := "test_" + strings.ToLower(rand.Text())
	run := func(statement string) {
		db, err := sql.Open("pgx", dsn)
		if err != nil {
			tb.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec(statement); err != nil { //nolint:noctx // it runs after the test's context has ended, too
			tb.Errorf("%s: %v", statement, err)
		}
	}
	run("CREATE SCHEMA " + name)
	tb.Cleanup(func() { run("DROP SCHEMA " + name + " CASCADE") })
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	return u.String()
}

// Clock stands still until it is moved.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock that stands at some moment of 2026.
func NewClock() *Clock { return &Clock{now: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)} }

// Now returns the moment the clock stands at.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Step moves the clock.
func (c *Clock) Step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
