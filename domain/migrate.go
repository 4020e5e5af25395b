package domain

import (
	"embed"
	"errors"
	"fmt"

	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

// Migrations are SQL that SQLite and PostgreSQL both understand; each is run once
// and never edited after a release, only followed by another.
//
//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrationNames in the order they are run.
var migrationNames = []string{"0001_initial", "0002_balancers", "0003_connections", "0004_recheck"}

func migrate(db *gorm.DB) error {
	var all []*gormigrate.Migration
	for _, name := range migrationNames {
		sql, err := migrationFiles.ReadFile("migrations/" + name + ".sql")
		if err != nil {
			return fmt.Errorf("read migration: %w", err)
		}
		all = append(all, &gormigrate.Migration{ID: name, Migrate: func(tx *gorm.DB) error {
			if postgresDialect(tx) { // two consoles that start at once do not run it twice
				if err := tx.Exec("SELECT pg_advisory_xact_lock(20614)").Error; err != nil {
					return err
				}
			}
			return tx.Exec(string(sql)).Error
		}})
	}
	opts := *gormigrate.DefaultOptions
	opts.UseTransaction = true
	opts.ValidateUnknownMigrations = true
	err := gormigrate.New(db, &opts, all).Migrate()
	if errors.Is(err, gormigrate.ErrUnknownPastMigration) {
		return errors.New("the database was written by a newer version; run that one, or restore a backup from before")
	}
	return err
}

func postgresDialect(db *gorm.DB) bool { return db.Name() == "postgres" }
