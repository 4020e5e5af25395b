package domain

import (
	"context"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/logger"
)

// DB returns the store's handle, for tests that look behind it or damage it.
func (s *Store) DB() *gorm.DB { return s.db }

// Traced returns a copy of the scope that gives each statement it runs to f.
func Traced(s *Scope, f func(sql string)) *Scope {
	traced := *s
	traced.store = &Store{
		db: s.store.db.Session(&gorm.Session{Logger: tracer{logger.Discard, f}}), log: s.store.log, now: s.store.now,
		secret: s.store.secret, loose: s.store.loose, plane: s.store.plane, wake: s.store.wake,
	}
	return &traced
}

// Note writes n audit entries of the scope's account and of another one, in one
// transaction, as an operation that concerns both does.
func Note(ctx context.Context, s *Scope, other, name string, n int) error {
	return s.write(ctx, ReadAudit, func(t *tx) error {
		for range n {
			if err := t.audit("Note", KindAccount, s.account.ID, name, nil, nil); err != nil {
				return err
			}
			if err := t.auditIn(other, "Note", KindAccount, s.account.ID, name, nil, nil); err != nil {
				return err
			}
		}
		return nil
	})
}

// Use asks the quota of the name for one more.
func Use(ctx context.Context, s *Scope, name string, used int64) error {
	return s.write(ctx, WriteNetwork, func(t *tx) error { return t.quota(s.account.ID, name, used) })
}

// Stale tells the reconciler about the ids, in one transaction.
func Stale(ctx context.Context, s *Scope, ids ...string) error {
	return s.write(ctx, WriteNetwork, func(t *tx) error { t.stale(KindVPC, ids...); return nil })
}

// LockBoth runs f between locking one account and another, in a transaction of the
// first.
func LockBoth(ctx context.Context, s *Scope, other string, f func()) error {
	return s.write(ctx, WriteNetwork, func(t *tx) error {
		f()
		_, err := t.lock(other)
		return err
	})
}

// HoldHashes lets nobody hash a password until release is called.
func HoldHashes() (release func()) {
	for range maxHashes {
		hashes <- struct{}{}
	}
	return func() {
		for range maxHashes {
			<-hashes
		}
	}
}

type tracer struct {
	logger.Interface
	f func(sql string)
}

func (t tracer) LogMode(logger.LogLevel) logger.Interface { return t }

func (t tracer) Trace(_ context.Context, _ time.Time, f func() (string, int64), _ error) {
	sql, _ := f()
	t.f(sql)
}

// VerifyChain checks the trail of an account as db sees it.
func VerifyChain(db *gorm.DB, account string) (AuditCheck, error) { return verifyChain(db, account) }

// Sum returns the hash that an entry should have.
func Sum(e AuditEvent) string { return e.sum() }
