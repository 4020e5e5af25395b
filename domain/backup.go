package domain

import (
	"archive/zip"
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"time"

	"gorm.io/gorm"
)

// tables are all models, parents before children: the order rows can be put back in.
var tables = []any{
	Site{},
	Region{},
	Zone{},
	Account{},
	User{},
	Membership{},
	Session{},
	SignInLink{},
	AccessKey{},
	Quota{},
	FormToken{},
	VPC{},
	VSwitch{},
	Address{},
	SecurityGroup{},
	SecurityRule{},
	Offer{},
	Attachment{},
	AttachmentGroup{},
	RouteTable{},
	Route{},
	LoadBalancer{},
	LoadBalancerZone{},
	ServerGroup{},
	Listener{},
	Server{},
	Service{},
	ServiceResource{},
	ServiceUser{},
	Endpoint{},
	EndpointGroup{},
	EndpointZone{},
	Connection{},
	AuditEvent{},
	AuditHead{},
	Setting{},
}

// AuditHead is the end of an account's audit chain.
type AuditHead struct {
	AccountID string `gorm:"primaryKey"`
	Seq       int64
	Hash      string
}

// Setting is a fact of the installation itself, e.g. its id.
type Setting struct {
	Name  string `gorm:"primaryKey"`
	Value string
}

// backupManifest is the first entry of a backup.
type backupManifest struct {
	Product    string    `json:"product"`
	Migrations []string  `json:"migrations"`
	Made       time.Time `json:"made"`
	Secret     []byte    `json:"secret"` // the key that sealed columns need
}

const backupProduct = "openprivatelink"

// Backup writes everything the store holds, as of one moment, to w: a zip of one
// JSON-lines file a table. It can be restored into either kind of database. It
// holds the key of sealed secrets, so it has to be kept as safe as they are.
func (s *Store) Backup(ctx context.Context, w io.Writer) error {
	z := zip.NewWriter(w)
	create := func(name string) (io.Writer, error) {
		return z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: s.now()})
	}
	f, err := create("manifest.json")
	if err != nil {
		return err
	}
	if err := json.NewEncoder(f).Encode(backupManifest{Product: backupProduct, Migrations: migrationNames, Made: s.now(), Secret: s.secret}); err != nil {
		return err
	}
	err = s.frozen(ctx, func(db *gorm.DB) error {
		for _, model := range tables {
			t := reflect.TypeOf(model)
			f, err := create(t.Name() + ".jsonl")
			if err != nil {
				return err
			}
			if err := backupTable(db, t, f); err != nil {
				return fmt.Errorf("back up %s: %w", t.Name(), err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return z.Close()
}

// frozen runs f on a handle that sees the database as of one moment, without
// stopping those who write.
func (s *Store) frozen(ctx context.Context, f func(*gorm.DB) error) error {
	db := s.db.WithContext(ctx)
	if postgresDialect(db) {
		return db.Transaction(f, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	}
	// A transaction of the pool would take SQLite's write lock (_txlock=immediate).
	return db.Connection(func(c *gorm.DB) (err error) {
		c = c.Session(&gorm.Session{}) // else each statement would be added to the one before
		if err := c.Exec("BEGIN").Error; err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.Exec("ROLLBACK").Error) }()
		return f(c)
	})
}

func backupTable(db *gorm.DB, t reflect.Type, w io.Writer) error {
	rows, err := db.Model(reflect.New(t).Interface()).Rows()
	if err != nil {
		return err
	}
	defer rows.Close()
	enc := json.NewEncoder(w)
	for rows.Next() {
		row := reflect.New(t).Interface()
		if err := db.ScanRows(rows, row); err != nil {
			return err
		}
		if err := enc.Encode(row); err != nil {
			return err
		}
	}
	return rows.Err()
}

// ErrNotEmpty is why a backup is not restored over something.
var ErrNotEmpty = errors.New("the database holds accounts or users already; restore into an empty one")

// Restore fills an empty store from a backup, all or nothing, and returns the key
// that its sealed secrets need.
func (s *Store) Restore(ctx context.Context, r io.ReaderAt, size int64) (secret []byte, err error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, fmt.Errorf("read backup: %w", err)
	}
	var m backupManifest
	if err := readEntry(z, "manifest.json", func(dec *json.Decoder) error { return dec.Decode(&m) }); err != nil {
		return nil, err
	}
	if m.Product != backupProduct {
		return nil, errors.New("this file is not a backup of OpenPrivateLink")
	}
	if len(m.Migrations) > len(migrationNames) {
		return nil, fmt.Errorf("the backup was made by a newer version: it knows migration %q, this program does not", m.Migrations[len(m.Migrations)-1])
	}
	err = s.db.WithContext(ctx).Transaction(func(db *gorm.DB) error {
		var n int64
		if err := db.Raw("SELECT (SELECT count(*) FROM accounts) + (SELECT count(*) FROM users)").Scan(&n).Error; err != nil {
			return err
		}
		if n > 0 {
			return ErrNotEmpty
		}
		for _, model := range slices.Backward(tables) { // places and settings that an empty store begins with
			if err := db.Where("1 = 1").Delete(reflect.New(reflect.TypeOf(model)).Interface()).Error; err != nil {
				return err
			}
		}
		for _, model := range tables {
			t := reflect.TypeOf(model)
			if err := readEntry(z, t.Name()+".jsonl", func(dec *json.Decoder) error { return restoreTable(db, t, dec) }); err != nil {
				return fmt.Errorf("restore %s: %w", t.Name(), err)
			}
		}
		return nil
	})
	return m.Secret, err
}

const restoreBatch = 200

func restoreTable(db *gorm.DB, t reflect.Type, dec *json.Decoder) error {
	for {
		rows := reflect.New(reflect.SliceOf(t))
		for rows.Elem().Len() < restoreBatch && dec.More() {
			row := reflect.New(t)
			if r, ok := reflect.TypeAssert[interface{ usual() }](row); ok {
				r.usual()
			}
			if err := dec.Decode(row.Interface()); err != nil {
				return err
			}
			rows.Elem().Set(reflect.Append(rows.Elem(), row.Elem()))
		}
		if rows.Elem().Len() == 0 {
			return nil
		}
		if err := db.Create(rows.Interface()).Error; err != nil {
			return err
		}
	}
}

func readEntry(z *zip.Reader, name string, f func(*json.Decoder) error) error {
	e, err := z.Open(name)
	if err != nil {
		return fmt.Errorf("read backup: %w", err)
	}
	defer e.Close()
	return f(json.NewDecoder(bufio.NewReader(e)))
}
