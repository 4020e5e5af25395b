package console

import (
	"context"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/network"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

// maxFormRows bounds the rows of a list in a form.
const maxFormRows = 500

// formRow is one row of a list in a form, by the names of its fields.
type formRow map[string]string

// blank reports whether nothing was typed into the row.
func (r formRow) blank() bool {
	for _, v := range r {
		if v != "" {
			return false
		}
	}
	return true
}

// rows reads a list of a form, whose fields are called list.N.name. Rows may be
// missing in between.
func (f *form) rows(list string, names ...string) []formRow {
	byNumber := map[int]formRow{}
	for key := range f.values {
		rest, ok := strings.CutPrefix(key, list+".")
		number, name, _ := strings.Cut(rest, ".")
		n, err := strconv.Atoi(number)
		if !ok || err != nil || n < 0 || n >= maxFormRows || !slices.Contains(names, name) {
			continue
		}
		if byNumber[n] == nil {
			byNumber[n] = formRow{}
		}
		byNumber[n][name] = f.text(key)
	}
	var out []formRow
	for n := range maxFormRows {
		if r := byNumber[n]; r != nil {
			out = append(out, r)
		}
	}
	return out
}

// setRows makes rows the list of the form, numbered from 0.
func (f *form) setRows(list string, rows []formRow) {
	for key := range f.values {
		if strings.HasPrefix(key, list+".") {
			f.values.Del(key)
		}
	}
	for i, r := range rows {
		for name, v := range r {
			f.set(list+"."+strconv.Itoa(i)+"."+name, v)
		}
	}
}

// set makes value what is typed in the field name.
func (f *form) set(name, value string) {
	if f.values == nil {
		f.values = url.Values{}
	}
	f.values.Set(name, value)
}

// without is rows without the one whose button to remove it was pressed.
func (f *form) without(rows []formRow) []formRow {
	if i, err := strconv.Atoi(f.text(network.RemoveRow)); err == nil && i >= 0 && i < len(rows) {
		return slices.Delete(slices.Clone(rows), i, i+1)
	}
	return rows
}

// in is the address of a path ("/vpcs") in the account.
func in(s *domain.Scope, path ...string) string {
	return "/a/" + s.Account().ID + strings.Join(path, "")
}

// done is the note after a write; it leads to what the audit trail says of id.
func done(s *domain.Scope, id, title string) ui.Note {
	return ui.Note{Kind: ui.OK, Title: title, Link: ui.Crumb{Label: "Audit entry", Href: in(s, "/audit?resource=", url.QueryEscape(id))}}
}

// maxEvery bounds what every reads.
const maxEvery = 2000

// every reads a whole list, for the options of a select.
func every[T any](ctx context.Context, read func(context.Context, domain.Query) (domain.Page[T], error), q domain.Query) ([]T, error) {
	var out []T
	q.Limit = 200
	for {
		p, err := read(ctx, q)
		if err != nil {
			return nil, err
		}
		out = append(out, p.Items...)
		if p.Next == "" || len(out) >= maxEvery {
			return out, nil
		}
		q.After = p.Next
	}
}

// one returns the entry of a list that has the id: what its row shows.
func one[T any](ctx context.Context, read func(context.Context, domain.Query) (domain.Page[T], error), id string, idOf func(T) string) (T, error) {
	var none T
	p, err := read(ctx, domain.Query{Text: id})
	if err != nil {
		return none, err
	}
	if i := slices.IndexFunc(p.Items, func(x T) bool { return idOf(x) == id }); i >= 0 {
		return p.Items[i], nil
	}
	return none, &domain.Error{Kind: domain.NotFound, Reason: "not_found", Message: "It is gone."}
}

// byVPC is the filter of a list by VPC; it is left out where there is only one.
func byVPC(c echo.Context, s *domain.Scope, l listing) ([]ui.FilterSelect, error) {
	vpcs, err := every(c.Request().Context(), s.VPCs, domain.Query{})
	if err != nil || len(vpcs) < 2 {
		return nil, err
	}
	f := ui.FilterSelect{Name: "vpc", Label: "VPC", Value: l.get("vpc"), Options: []ui.Option{{Label: "All VPCs"}}}
	for _, v := range vpcs {
		f.Options = append(f.Options, ui.Option{Value: v.ID, Label: v.Name})
	}
	return []ui.FilterSelect{f}, nil
}
