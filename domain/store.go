package domain

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
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
	Log    *slog.Logger     // nil: slog.Default
	Now    func() time.Time // nil: time.Now
}

// Open opens the database and brings its schema up to date.
func Open(ctx context.Context, c Config) (*Store, error) {
	s := &Store{log: c.Log, now: c.Now, secret: c.Secret, wake: make(chan struct{}, 1), readers: map[chan []Change]struct{}{}}
	if s.log == nil {
		s.log = slog.Default()
	}
	clock := c.Now
	if clock == nil {
		clock = time.Now
	}
	// What PostgreSQL keeps is what SQLite keeps: UTC to the microsecond.
	s.now = func() time.Time { return clock().UTC().Truncate(time.Microsecond) }
	dialect := sqlite.Open("file:" + c.Database + "?_journal_mode=WAL&_busy_timeout=10000&_foreign_keys=on&_txlock=immediate&_synchronous=FULL&_cache_size=-8000")
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
	changes []Change
	dirty   []dirtyRow
}

type dirtyRow struct{ kind, id string }

// touched tells the console's readers of account that an object changed.
func (t *tx) touched(account, kind, id string) {
	c := Change{Account: account, Kind: kind, ID: id}
	for _, have := range t.changes {
		if have == c {
			return
		}
	}
	t.changes = append(t.changes, c)
}

// stale tells the reconciler that an object of the engine's snapshot changed.
// kind is KindVPC, KindLoadBalancer, KindServerGroup, KindGroup or KindEndpoint.
func (t *tx) stale(kind string, ids ...string) {
	for _, id := range ids {
		d := dirtyRow{kind, id}
		seen := false
		for _, have := range t.dirty {
			seen = seen || have == d
		}
		if !seen && id != "" {
			t.dirty = append(t.dirty, d)
		}
	}
}

// inTx runs f in one transaction and, once it is committed, tells those who wait
// for changes. f may be run again after a serialization failure.
func (s *Store) inTx(ctx context.Context, by Actor, account string, f func(*tx) error) error {
	var t *tx
	err := s.db.WithContext(ctx).Transaction(func(db *gorm.DB) error {
		t = &tx{DB: db, now: s.now(), by: by, account: account}
		if err := f(t); err != nil {
			return err
		}
		return t.flushStale()
	})
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

// AuditEvent is one write or one change of the data plane's state. Entries of an
// account form a chain: Hash covers the entry and the hash before it.
type AuditEvent struct {
	AccountID    string `gorm:"primaryKey"`
	Seq          int64  `gorm:"primaryKey;autoIncrement:false"`
	Time         time.Time
	ActorKind    string // user, operator, system, engine
	ActorID      string
	ActorName    string
	Channel      string // console, api, cli, system
	SourceIP     string
	RequestID    string
	Action       string // verb and object, e.g. "AcceptConnection"
	ResourceKind string
	ResourceID   string
	ResourceName string
	Before       string // JSON of the fields that changed, or ""
	After        string
	PrevHash     string
	Hash         string
}

func (e *AuditEvent) sum() string {
	h := sha256.New()
	for _, s := range []string{
		e.PrevHash, e.AccountID, fmt.Sprint(e.Seq), e.Time.UTC().Format(time.RFC3339Nano), e.ActorKind, e.ActorID, e.ActorName,
		e.Channel, e.SourceIP, e.RequestID, e.Action, e.ResourceKind, e.ResourceID, e.ResourceName, e.Before, e.After,
	} {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// audit appends an entry to the transaction's account. before and after are the
// fields that changed, as maps or structs; nil for none. No secret goes in here.
func (t *tx) audit(action, kind, id, name string, before, after any) error {
	return t.auditIn(t.account, action, kind, id, name, before, after)
}

// auditIn is audit for another account that is concerned too, e.g. the consumer of
// a connection that its provider decides about. The other account is not told who
// acted, only that the other side did.
func (t *tx) auditIn(account, action, kind, id, name string, before, after any) error {
	e := AuditEvent{
		AccountID: account, Time: t.now, ActorKind: t.by.Kind, ActorID: t.by.ID, ActorName: t.by.Name, Channel: t.by.Channel,
		SourceIP: t.by.Address, RequestID: t.by.RequestID, Action: action, ResourceKind: kind, ResourceID: id, ResourceName: name,
	}
	if account != t.account && t.by.Kind == ActorUser {
		e.ActorKind, e.ActorID, e.ActorName, e.SourceIP, e.RequestID = ActorPeer, t.account, "", "", ""
	}
	var err error
	if e.Before, err = auditJSON(before); err != nil {
		return err
	}
	if e.After, err = auditJSON(after); err != nil {
		return err
	}
	// The head is locked first, so two writers of one account chain one after the other.
	res := t.Exec("UPDATE audit_heads SET seq = seq + 1 WHERE account_id = ?", account)
	if res.Error != nil {
		return fmt.Errorf("lock audit chain: %w", res.Error)
	}
	if res.RowsAffected == 0 {
		if err := t.Exec("INSERT INTO audit_heads (account_id, seq, hash) VALUES (?, 1, '')", account).Error; err != nil {
			return fmt.Errorf("begin audit chain: %w", err)
		}
	}
	var head struct {
		Seq  int64
		Hash string
	}
	if err := t.Raw("SELECT seq, hash FROM audit_heads WHERE account_id = ?", account).Scan(&head).Error; err != nil {
		return fmt.Errorf("read audit chain: %w", err)
	}
	e.Seq, e.PrevHash = head.Seq, head.Hash
	e.Hash = e.sum()
	if err := t.Create(&e).Error; err != nil {
		return fmt.Errorf("write audit entry: %w", err)
	}
	if err := t.Exec("UPDATE audit_heads SET hash = ? WHERE account_id = ?", e.Hash, account).Error; err != nil {
		return fmt.Errorf("close audit chain: %w", err)
	}
	t.touched(account, KindAudit, fmt.Sprint(e.Seq))
	return nil
}

func auditJSON(v any) (string, error) {
	if v == nil {
		return "", nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encode audit entry: %w", err)
	}
	return string(b), nil
}
