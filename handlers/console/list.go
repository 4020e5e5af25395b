package console

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/a-h/templ"
	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

const pageSize = 25

// listing is the state of a list, which is all in its address: search, filters,
// and where the page begins.
type listing struct {
	url    string     // of the list
	query  url.Values // canonical: no empty keys, no cursor
	after  string
	before string
	from   int // number of the first row
}

// readList reads the state of the list at path of the account. keys are its
// filters beside "q"; everything else in the address is ignored.
func readList(c echo.Context, s *domain.Scope, path string, keys ...string) listing {
	return readListAt(c, in(s, path), keys...)
}

// readListAt is readList for a list outside of accounts; url is its whole path.
func readListAt(c echo.Context, at string, keys ...string) listing {
	in := c.QueryParams()
	l := listing{url: at, query: url.Values{}, after: in.Get("after"), before: in.Get("before")}
	for _, k := range append(keys, "q") {
		for _, v := range in[k] {
			if v = strings.TrimSpace(v); v != "" && len(v) <= maxText && !slices.Contains(l.query[k], v) {
				l.query.Add(k, v)
			}
		}
	}
	l.from, _ = strconv.Atoi(in.Get("from")) // nonsense is the beginning
	if l.from < 1 || (l.after == "" && l.before == "") {
		l.from = 1
	}
	return l
}

// get is the value of a filter, or "".
func (l listing) get(key string) string { return l.query.Get(key) }

// domain is the list's query for the store.
func (l listing) domain() domain.Query {
	q := domain.Query{After: l.after, Before: l.before, Limit: pageSize, Text: l.get("q"), Filter: map[string][]string{}}
	for k, v := range l.query {
		if k != "q" {
			q.Filter[k] = v
		}
	}
	return q
}

// filtered reports whether anything narrows the list, but for the keys given
// (its views).
func (l listing) filtered(but ...string) bool {
	for k := range l.query {
		if !slices.Contains(but, k) {
			return true
		}
	}
	return false
}

// with is the address of the list with one filter set, or taken away if value is "".
func (l listing) with(key, value string) string {
	q := maps.Clone(l.query)
	q.Del(key)
	if value != "" {
		q.Set(key, value)
	}
	return l.url + encoded(q)
}

func encoded(q url.Values) string {
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

// canonical is the query of the page that is shown.
func (l listing) canonical() string {
	q := maps.Clone(l.query)
	switch {
	case l.before != "":
		q.Set("before", l.before)
	case l.after != "":
		q.Set("after", l.after)
	}
	if l.from > 1 {
		q.Set("from", strconv.Itoa(l.from))
	}
	return encoded(q)
}

// fill completes out with the state and the pager: n rows are shown, and prev and
// next are the cursors of a [domain.Page].
func (l listing) fill(out ui.List, ids []string, prev, next string) ui.List {
	out.URL, out.Query, out.IDs = l.url, l.canonical(), ids
	out.Filtered = out.Filtered || l.filtered()
	if out.Filter != nil {
		out.Filter.Q = l.get("q")
	}
	n := len(ids)
	out.Pager = ui.Pager{From: l.from, To: l.from + n - 1}
	if n == 0 {
		out.Pager.To = 0
	}
	if prev != "" {
		out.Pager.Prev = l.page("before", prev, l.from-pageSize)
	}
	if next != "" {
		out.Pager.Next = l.page("after", next, l.from+n)
	}
	return out
}

func (l listing) page(key, cursor string, from int) string {
	q := maps.Clone(l.query)
	q.Set(key, cursor)
	q.Set("from", strconv.Itoa(max(from, 1)))
	return l.url + encoded(q)
}

// list answers with a list: htmx gets its results, and their canonical address; or,
// when it only asks what has come meanwhile, how many entries are not on the
// screen yet.
func list(c echo.Context, l ui.List, page, part templ.Component) error {
	if wantsPart(c) && c.QueryParams().Has("seen") {
		seen := strings.Fields(c.QueryParam("seen"))
		fresh := 0
		for _, id := range l.IDs {
			if !slices.Contains(seen, id) {
				fresh++
			}
		}
		return render(c, http.StatusOK, ui.Fresh(l, fresh))
	}
	if wantsPart(c) {
		c.Response().Header().Set("HX-Replace-Url", l.URL+l.Query)
	}
	return show(c, page, part)
}

// ids are what a list shows, in order.
func ids[T any](items []T, id func(T) string) []string {
	out := make([]string, len(items))
	for i, item := range items {
		out[i] = id(item)
	}
	return out
}
