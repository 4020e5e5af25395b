package domain

import (
	"context"
	"fmt"
	"regexp"
	"time"

	"gorm.io/gorm/clause"
)

// FormToken remembers what a form render led to, so that sending it twice does it
// once. Rows are kept for a day.
type FormToken struct {
	AccountID string `gorm:"primaryKey"`
	Token     string `gorm:"primaryKey"`
	Action    string
	Digest    string // of the parameters: the same token with others is refused
	Result    string // id of what was made
	CreatedAt time.Time
}

const formTokenLife = 24 * time.Hour

var formToken = regexp.MustCompile(`^[A-Za-z0-9_-]{16,64}$`)

// Once runs f for a form that carries token, unless that happened before: then it
// returns what f returned then, and true. Of two at the same time, one waits. What
// f writes by the context it gets, and that it ran, is one transaction: f does
// nothing slow, and reads only by that context.
//
// Errors: those of f, after which the form may be sent again; Conflict, reason
// "form_token_reused", if the token came with another action or other parameters,
// which digest stands for.
func (s *Scope) Once(ctx context.Context, token, action, digest string, f func(context.Context) (result string, err error)) (result string, repeated bool, err error) {
	if !formToken.MatchString(token) {
		return "", false, invalid("form_token", "invalid_form_token", "This form was not sent by one of our pages. Open it again.")
	}
	err = s.store.inTx(ctx, s.by, s.account.ID, func(t *tx) error {
		row := FormToken{AccountID: s.account.ID, Token: token, Action: action, Digest: digest, CreatedAt: t.now}
		// PostgreSQL makes the second one wait here until the first one is done.
		res := t.Clauses(clause.OnConflict{DoNothing: true}).Create(&row)
		if res.Error != nil {
			return fmt.Errorf("note form token: %w", res.Error)
		}
		if res.RowsAffected == 0 {
			if err := t.Where("account_id = ? AND token = ?", s.account.ID, token).Take(&row).Error; err != nil {
				return fmt.Errorf("read form token: %w", err)
			}
			if row.Action != action || row.Digest != digest {
				return fail(Conflict, "form_token_reused", "This form was sent before, with other values. Open it again.")
			}
			result, repeated = row.Result, true
			return nil
		}
		var err error
		if result, err = f(context.WithValue(ctx, txKey{s.store}, t)); err != nil {
			return err
		}
		if err := t.Model(&FormToken{}).Where("account_id = ? AND token = ?", s.account.ID, token).Updates(map[string]any{"result": result}).Error; err != nil {
			return fmt.Errorf("note result of form: %w", err)
		}
		return nil
	})
	if err != nil {
		return "", false, err
	}
	return result, repeated, nil
}

// keptRevisions of changes for the engine. A reconciler that is further behind
// reads everything again.
const keptRevisions = 100_000

// Housekeep deletes what has expired: sessions, sign-in links, form tokens and old
// changes for the engine.
func (y *System) Housekeep(ctx context.Context) error {
	return y.write(ctx, "", func(t *tx) error {
		for _, d := range []struct {
			what, sql string
			arg       any
		}{
			{"sessions", "DELETE FROM sessions WHERE expires_at <= ?", t.now},
			{"sign-in links", "DELETE FROM sign_in_links WHERE expires_at <= ?", t.now},
			{"form tokens", "DELETE FROM form_tokens WHERE created_at <= ?", t.now.Add(-formTokenLife)},
			{"changes for the engine", "DELETE FROM engine_changes WHERE revision <= (SELECT revision FROM revisions WHERE id = 1) - ?", keptRevisions},
		} {
			if err := t.Exec(d.sql, d.arg).Error; err != nil {
				return fmt.Errorf("delete old %s: %w", d.what, err)
			}
		}
		return nil
	})
}
