package domain

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"gorm.io/gorm"
)

// Query selects a page of a list. The zero value is the first page.
type Query struct {
	After  string              // cursor of a Page; "" begins at the start
	Before string              // cursor of a Page, to go back; wins over After
	Limit  int                 // rows a page; 0 means 25, at most 200
	Text   string              // free text: part of the name, or an id
	Filter map[string][]string // values of one key are alternatives; unknown keys are ignored
}

// Page is one page of a list.
type Page[T any] struct {
	Items []T
	Next  string // cursor for Query.After, "" at the end
	Prev  string // cursor for Query.Before, "" at the beginning
}

const maxPage = 200

func (q Query) limit() int {
	if q.Limit <= 0 {
		return 25
	}
	return min(q.Limit, maxPage)
}

// order is a keyset: the columns a list is sorted by, all in one direction, the
// last one unique. An index must begin with the list's equality conditions and
// go on with these columns.
type order struct {
	columns []string
	desc    bool
}

// paginate reads one page of rows in the order. key returns a row's values of the
// order's columns.
func paginate[T any](db *gorm.DB, q Query, o order, key func(T) []any) (Page[T], error) {
	var p Page[T]
	cursor, back := q.After, false
	if q.Before != "" {
		cursor, back = q.Before, true
	}
	desc := o.desc != back
	if cursor != "" {
		values, err := decodeCursor(cursor, len(o.columns))
		if err != nil {
			return p, err
		}
		op := ">"
		if desc {
			op = "<"
		}
		marks := strings.TrimSuffix(strings.Repeat("?,", len(values)), ",")
		db = db.Where(fmt.Sprintf("(%s) %s (%s)", strings.Join(o.columns, ","), op, marks), values...)
	}
	for _, c := range o.columns {
		if desc {
			c += " DESC"
		}
		db = db.Order(c)
	}
	n := q.limit()
	if err := db.Limit(n + 1).Find(&p.Items).Error; err != nil {
		return p, fmt.Errorf("list: %w", err)
	}
	more := len(p.Items) > n
	if more {
		p.Items = p.Items[:n]
	}
	if back {
		for i, j := 0, len(p.Items)-1; i < j; i, j = i+1, j-1 {
			p.Items[i], p.Items[j] = p.Items[j], p.Items[i]
		}
	}
	if len(p.Items) > 0 {
		if more || back {
			p.Next = encodeCursor(key(p.Items[len(p.Items)-1]))
		}
		if (back && more) || (!back && cursor != "") {
			p.Prev = encodeCursor(key(p.Items[0]))
		}
	}
	return p, nil
}

func encodeCursor(values []any) string {
	b, err := json.Marshal(values)
	if err != nil {
		panic(err) // strings, numbers and times only
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func decodeCursor(s string, n int) ([]any, error) {
	var values []any
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(b, &values)
	}
	if err != nil || len(values) != n {
		return nil, invalid("after", "invalid_cursor", "This page marker is not one of ours. Begin at the first page.")
	}
	for _, v := range values {
		switch v.(type) {
		case string, float64:
		default:
			return nil, invalid("after", "invalid_cursor", "This page marker is not one of ours. Begin at the first page.")
		}
	}
	return values, nil
}

// mapPage returns the page with each item turned into another.
func mapPage[A, B any](p Page[A], f func(A) B) Page[B] {
	out := Page[B]{Next: p.Next, Prev: p.Prev, Items: make([]B, len(p.Items))}
	for i, a := range p.Items {
		out.Items[i] = f(a)
	}
	return out
}

// like turns what a person typed into a pattern for LIKE ... ESCAPE '\'.
func like(text string) string {
	return strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(strings.TrimSpace(text)) + "%"
}
