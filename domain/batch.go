package domain

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// tableOf are the tables of kinds that have a name and belong to an account.
var tableOf = map[string]string{
	KindVPC: "vpcs", KindVSwitch: "vswitches", KindGroup: "security_groups", KindAttachment: "attachments",
	KindRouteTable: "route_tables", KindLoadBalancer: "load_balancers", KindServerGroup: "server_groups",
	KindService: "services", KindEndpoint: "endpoints",
}

// validNameOr is validName for an object that gets the beginning of its id as its
// name where people give it none.
func validNameOr(name, id string) (string, error) {
	if strings.TrimSpace(name) == "" {
		prefix, rest, _ := strings.Cut(id, "-")
		return prefix + "-" + rest[:6], nil
	}
	return validName("name", name)
}

// under puts prefix before the field of every fault in err: what is "address" in
// one zone of a form is "zones.0.address" in the form.
func under(prefix string, err error) error {
	faults := Fields(err)
	if len(faults) == 0 {
		return err
	}
	all := make([]error, len(faults))
	for i, f := range faults {
		moved := *f
		moved.Field = prefix + "." + f.Field
		all[i] = &moved
	}
	return errors.Join(all...)
}

// at names the field that err, a fault without one, is about.
func at(field string, err error) error {
	if e, ok := errors.AsType[*Error](err); ok && e.Field == "" {
		moved := *e
		moved.Field = field
		return &moved
	}
	return err
}

// locked makes other transactions that want the rows db reads wait for the end of
// this one. SQLite, which has one writer at a time, leaves the clause out.
func locked(db *gorm.DB) *gorm.DB { return db.Clauses(clause.Locking{Strength: "UPDATE"}) }

// matching narrows a list to the rows that text names: by a part of the name, in
// any case, or by the whole id.
func matching(db *gorm.DB, text string) *gorm.DB {
	if text = strings.TrimSpace(text); text == "" {
		return db
	}
	if !printable(text) || len(text) > maxText {
		return db.Where("1 = 0") // no name is like it, and PostgreSQL would not take it
	}
	return db.Where(`(LOWER(name) LIKE LOWER(?) ESCAPE '\' OR id = ?)`, "%"+like(text), text)
}

// maxText bounds what is looked for in names, in bytes.
const maxText = 1024

// oneOf narrows a list to the rows whose column has one of the values; none of
// them means any.
func oneOf(db *gorm.DB, column string, values []string) *gorm.DB {
	if len(values) == 0 {
		return db
	}
	return db.Where(column+" IN ?", slices.DeleteFunc(slices.Clone(values), func(v string) bool { return !printable(v) }))
}

// countBy returns how many rows of q have each of the ids in column.
func countBy(q *gorm.DB, column string, ids []string) (map[string]int, error) {
	var rows []struct {
		ID string
		N  int
	}
	if err := q.Select(column+" AS id, COUNT(*) AS n").Where(column+" IN ?", ids).Group(column).Scan(&rows).Error; err != nil {
		return nil, fmt.Errorf("count by %s: %w", column, err)
	}
	n := make(map[string]int, len(rows))
	for _, r := range rows {
		n[r.ID] = r.N
	}
	return n, nil
}

// namesOf returns the names of objects of the kind by id.
func namesOf(db *gorm.DB, kind string, ids []string) (map[string]string, error) {
	var rows []struct{ ID, Name string }
	if err := db.Table(tableOf[kind]).Select("id, name").Where("id IN ?", ids).Scan(&rows).Error; err != nil {
		return nil, fmt.Errorf("read names: %w", err)
	}
	names := make(map[string]string, len(rows))
	for _, r := range rows {
		names[r.ID] = r.Name
	}
	return names, nil
}

// each returns what f returns for each row.
func each[A, B any](rows []A, f func(A) B) []B {
	out := make([]B, len(rows))
	for i, r := range rows {
		out[i] = f(r)
	}
	return out
}

// edit updates an object of the transaction's account that has a version: the one
// that the form showed, or any if version is 0.
func (t *tx) edit(kind, id string, version int64, values map[string]any) error {
	values["version"] = gorm.Expr("version + 1")
	q := t.Table(tableOf[kind]).Where("id = ? AND account_id = ?", id, t.account)
	if version != 0 {
		q = q.Where("version = ?", version)
	}
	return guarded(q.Updates(values), kind)
}

// remove deletes the rows of a model that a condition selects.
func (t *tx) remove(model any, where string, args ...any) error {
	if err := t.Where(where, args...).Delete(model).Error; err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}

// uses are the objects that keep another from being deleted: the first of them by
// name, for a person to find, and how many there are.
type uses struct {
	named []string
	total int64
}

// maxNamedUses bounds how many objects a refusal names.
const maxNamedUses = 5

// add adds the rows of q, which has a table with the columns id and name.
func (u *uses) add(q *gorm.DB, kind string) error {
	q = q.Session(&gorm.Session{})
	var n int64
	if err := q.Count(&n).Error; err != nil {
		return fmt.Errorf("count uses: %w", err)
	}
	u.total += n
	if n == 0 || len(u.named) == maxNamedUses {
		return nil
	}
	var rows []struct{ ID, Name string }
	if err := q.Select("id, name").Order("name").Order("id").Limit(maxNamedUses - len(u.named)).Scan(&rows).Error; err != nil {
		return fmt.Errorf("name uses: %w", err)
	}
	for _, r := range rows {
		u.named = append(u.named, fmt.Sprintf("%s %s (%s)", nouns[kind], r.Name, r.ID))
	}
	return nil
}

// refusal is the Conflict for deleting what is used, nil if nothing uses it.
func (u *uses) refusal(kind, name string) error {
	if u.total == 0 {
		return nil
	}
	named, last := u.named, fmt.Sprintf("%d more", u.total-int64(len(u.named)))
	if u.total == int64(len(named)) {
		named, last = named[:len(named)-1], named[len(named)-1]
	}
	list := last
	if len(named) > 0 {
		list = strings.Join(named, ", ") + " and " + last
	}
	return fail(Conflict, kind+"_in_use", "%s is in use by %s. Delete or change what uses it first.", name, list)
}
