package domain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"

	"gorm.io/driver/postgres"
	"gorm.io/driver/sqlite"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"
	"gorm.io/gorm/schema"
)

// Store is the database and what happens around its transactions.
type Store struct {
	db     *gorm.DB
	log    *slog.Logger
	now    func() time.Time
	secret []byte // key for secrets at rest; 32 bytes
	loose  bool   // see [Config.LooseRanges]
	plane  DataPlane

	mu      sync.Mutex
	wake    chan struct{}
	readers map[chan []Change]struct{}
}

// Config of a store.
type Config struct {
	// Database is a path of a SQLite file, or a DSN that begins with "postgres:" or
	// "postgresql:".
	Database string
	// Secret encrypts access-key secrets at rest (AES-256-GCM): 32 bytes.
	Secret []byte
	// LooseRanges lets limits of bandwidth be anything from 1 Mbit/s, and not only what
	// the API documents for each kind of load balancer.
	LooseRanges bool
	Log         *slog.Logger     // nil: slog.Default
	Now         func() time.Time // nil: time.Now
}

// Open opens the database and brings its schema up to date.
func Open(ctx context.Context, c Config) (*Store, error) {
	s := &Store{log: c.Log, now: c.Now, secret: c.Secret, loose: c.LooseRanges, wake: make(chan struct{}, 1), readers: map[chan []Change]struct{}{}}
	if s.log == nil {
		s.log = slog.Default()
	}
	clock := c.Now
	if clock == nil {
		clock = time.Now
	}
	// What PostgreSQL keeps is what SQLite keeps: UTC to the microsecond.
	s.now = func() time.Time { return clock().UTC().Truncate(time.Microsecond) }
	dialect := sqlite.Open("file:" + (&url.URL{Path: c.Database}).EscapedPath() + "?_journal_mode=WAL&_busy_timeout=10000&_foreign_keys=on&_txlock=immediate&_synchronous=FULL&_cache_size=-8000")
	if postgresDSN(c.Database) {
		dialect = postgres.Open(c.Database)
	}
	db, err := gorm.Open(dialect, &gorm.Config{
		TranslateError:         true,
		SkipDefaultTransaction: true,
		NowFunc:                s.now,
		NamingStrategy:         naming,
		Logger:                 logger.Discard,
	})
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	s.db = db
	if err := migrate(db.WithContext(ctx)); err != nil {
		return nil, errors.Join(fmt.Errorf("migrate database: %w", err), s.Close())
	}
	return s, nil
}

// naming turns the field's acronyms into one word each: VSwitchID is vswitch_id.
var naming = schema.NamingStrategy{NameReplacer: strings.NewReplacer("VSwitches", "Vswitches", "VSwitch", "Vswitch", "VPC", "Vpc", "CIDR", "Cidr", "ENI", "Eni")}

func postgresDSN(s string) bool {
	return strings.HasPrefix(s, "postgres:") || strings.HasPrefix(s, "postgresql:")
}

// Close closes the database.
func (s *Store) Close() error {
	db, err := s.db.DB()
	if err != nil {
		return err
	}
	return db.Close()
}

// Ready reports whether the database answers.
func (s *Store) Ready(ctx context.Context) error {
	return s.db.WithContext(ctx).Exec("SELECT 1").Error
}

// Change says that an object of an account is not what it was. Both sides of a
// connection get their own.
type Change struct{ Account, Kind, ID string }

// maxPendingChanges bounds what a reader of [Store.Changes] can be behind.
const maxPendingChanges = 1024

// Changes returns a feed of committed changes of this process, in order, and a
// function that ends it. A reader that falls too far behind gets a nil slice once:
// it has missed some and must look at everything again.
func (s *Store) Changes() (feed <-chan []Change, stop func()) {
	ch := make(chan []Change, maxPendingChanges)
	s.mu.Lock()
	s.readers[ch] = struct{}{}
	s.mu.Unlock()
	return ch, func() {
		s.mu.Lock()
		delete(s.readers, ch)
		s.mu.Unlock()
	}
}

func (s *Store) publish(changes []Change) {
	if len(changes) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for ch := range s.readers {
		select {
		case ch <- changes:
		default: // full: drop all it has and say so
			for len(ch) > 0 {
				<-ch
			}
			ch <- nil
		}
	}
}

// nudge wakes the reconciler; it never blocks.
func (s *Store) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// tx is a transaction and what has to happen with it. Inside one, only its own
// handle is used: the outer one would wait for ever.
type tx struct {
	*gorm.DB
	now     time.Time
	by      Actor
	account string // whose audit chain entries go to
	loose   bool   // see [Config.LooseRanges]
	changes []Change
	dirty   []dirtyRow
	entries []AuditEvent // chained at the end
	seen    map[any]struct{}
}

type dirtyRow struct{ kind, id string }

// touched tells the console's readers of account that an object changed.
func (t *tx) touched(account, kind, id string) {
	if c := (Change{Account: account, Kind: kind, ID: id}); t.news(c) {
		t.changes = append(t.changes, c)
	}
}

// stale tells the reconciler that an object of the engine's snapshot changed.
// kind is KindVPC, KindLoadBalancer, KindServerGroup, KindGroup or KindEndpoint.
func (t *tx) stale(kind string, ids ...string) {
	for _, id := range ids {
		if d := (dirtyRow{kind, id}); id != "" && t.news(d) {
			t.dirty = append(t.dirty, d)
		}
	}
}

// news reports whether v was not seen before.
func (t *tx) news(v any) bool {
	if _, ok := t.seen[v]; ok {
		return false
	}
	t.seen[v] = struct{}{}
	return true
}

// txKey finds the transaction that a context is in: see [Scope.Once].
type txKey struct{ store *Store }

// handle returns what to read with: the transaction that ctx is in, if it is in
// one, so that it sees what it wrote.
func (s *Store) handle(ctx context.Context) *gorm.DB {
	if t, ok := ctx.Value(txKey{s}).(*tx); ok {
		return t.DB
	}
	return s.db.WithContext(ctx)
}

// txAttempts is how often a transaction is run that lost against another one, and
// txPause how long it lets that one go ahead at most: at once, they would meet again.
const (
	txAttempts = 3
	txPause    = 50 * time.Millisecond
)

// inTx runs f in one transaction and, once it is committed, tells those who wait
// for changes. f may be run again, if the database gave it up in favour of another
// transaction. Where ctx is in a transaction of the account already, f joins it.
func (s *Store) inTx(ctx context.Context, by Actor, account string, f func(*tx) error) error {
	if t, ok := ctx.Value(txKey{s}).(*tx); ok {
		if t.account != account {
			return fmt.Errorf("join transaction of %s: it is of %s", account, t.account)
		}
		return f(t)
	}
	var t *tx
	var err error
	for n := range txAttempts {
		if n > 0 {
			time.Sleep(rand.N(txPause))
		}
		err = s.db.WithContext(ctx).Transaction(func(db *gorm.DB) error {
			t = &tx{DB: db, now: s.now(), by: by, account: account, loose: s.loose, seen: map[any]struct{}{}}
			if err := f(t); err != nil {
				return err
			}
			if err := t.flushAudit(); err != nil {
				return err
			}
			return t.flushStale()
		})
		if !gaveUp(err) {
			break
		}
	}
	if err != nil {
		if errors.Is(err, gorm.ErrDuplicatedKey) && KindOf(err) == Internal {
			return &Error{Kind: Conflict, Reason: "already_exists", Message: "Something with this name or address exists already.", Err: err}
		}
		return err
	}
	if len(t.dirty) > 0 {
		s.nudge()
	}
	s.publish(t.changes)
	return nil
}

// sqlState is how PostgreSQL's driver tells what happened.
type sqlState interface {
	error
	SQLState() string
}

// gaveUp reports whether the database ended a transaction because of another one:
// a deadlock or a serialization failure.
func gaveUp(err error) bool {
	e, ok := errors.AsType[sqlState](err)
	return ok && (e.SQLState() == "40001" || e.SQLState() == "40P01")
}

// flushStale numbers what the engine has to look at again. The one row of
// revisions is locked until the commit, so numbers become visible in their order
// and a reader that has seen n has seen everything below n.
func (t *tx) flushStale() error {
	if len(t.dirty) == 0 {
		return nil
	}
	if err := t.Exec("UPDATE revisions SET revision = revision + ? WHERE id = 1", len(t.dirty)).Error; err != nil {
		return fmt.Errorf("count revision: %w", err)
	}
	var last int64
	if err := t.Raw("SELECT revision FROM revisions WHERE id = 1").Scan(&last).Error; err != nil {
		return fmt.Errorf("read revision: %w", err)
	}
	rows := make([]engineChange, len(t.dirty))
	for i, d := range t.dirty {
		rows[i] = engineChange{Revision: last - int64(len(t.dirty)-1-i), Kind: d.kind, ID: d.id}
	}
	if err := t.CreateInBatches(rows, 100).Error; err != nil {
		return fmt.Errorf("note changes for the engine: %w", err)
	}
	return nil
}

// engineChange is one line of what the reconciler has to read again.
type engineChange struct {
	Revision int64 `gorm:"primaryKey;autoIncrement:false"`
	Kind     string
	ID       string
}

// first reads one row by a string condition into out; no row is missing(kind).
func first(db *gorm.DB, kind string, out any, where string, args ...any) error {
	for _, a := range args {
		if s, ok := a.(string); ok && !printable(s) { // what PostgreSQL would not take is the id of nothing
			return missing(kind)
		}
	}
	err := db.Where(where, args...).Take(out).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return missing(kind)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", kind, err)
	}
	return nil
}

// guarded runs an update whose condition names the version that was read; a row
// that is no longer so is changedMeanwhile.
func guarded(res *gorm.DB, kind string) error {
	if res.Error != nil {
		return fmt.Errorf("update %s: %w", kind, res.Error)
	}
	if res.RowsAffected == 0 {
		return changedMeanwhile(kind)
	}
	return nil
}
