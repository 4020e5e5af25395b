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
func (s *Scope) Traced(f func(sql string)) *Scope {
	traced := *s
	traced.store = &Store{
		db: s.store.db.Session(&gorm.Session{Logger: tracer{logger.Discard, f}}), log: s.store.log, now: s.store.now,
		secret: s.store.secret, plane: s.store.plane, wake: s.store.wake,
	}
	return &traced
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
