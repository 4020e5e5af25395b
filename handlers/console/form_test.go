package console

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/a-h/templ"
	"github.com/google/go-cmp/cmp"
	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

func TestFormValues(t *testing.T) {
	f := &form{values: url.Values{
		"name": {"  orders "}, "long": {strings.Repeat("ä", maxText+1)}, "most": {strings.Repeat("ä", maxText)}, "mbps": {"1,024"}, "letters": {"ten"},
		"huge": {"99999999999999999999"}, "empty": {" "}, "auto": {"on"}, "zone": {"h", "i"}, "version": {"7"},
		"accounts": {"1000000000000042, 1000000000000077;1000000000000042\r\n 1000000000000001"},
	}}
	if got := f.text("name"); got != "orders" {
		t.Errorf("name %q", got)
	}
	if got := f.text("not sent"); got != "" {
		t.Errorf("not sent: %q", got)
	}
	if got := f.number("mbps"); got != 1024 {
		t.Errorf("mbps %d", got)
	}
	if got := f.number("empty"); got != 0 {
		t.Errorf("empty %d", got)
	}
	if !f.ticked("auto") || f.ticked("other") {
		t.Error("ticked")
	}
	if diff := cmp.Diff([]string{"h", "i"}, f.all("zone")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"1000000000000042", "1000000000000077", "1000000000000001"}, f.words("accounts")); diff != "" {
		t.Error(diff)
	}
	if got := f.version(); got != 7 {
		t.Errorf("version %d", got)
	}
	if f.text("most"); !f.ok() {
		t.Errorf("so far %v", f.errors)
	}
	f.text("long")
	f.required("long", "not a second fault of one field")
	f.number("letters")
	f.number("huge")
	f.required("empty", "It needs a name.")
	f.wrong("empty", "again")
	want := []ui.FieldError{
		{Field: "long", Message: "This has at most 1024 characters."},
		{Field: "letters", Message: "This is a whole number, such as 100."},
		{Field: "huge", Message: "This is a whole number, such as 100."},
		{Field: "empty", Message: "It needs a name."},
	}
	if diff := cmp.Diff(want, f.errors); diff != "" {
		t.Error(diff)
	}
}

func TestFormRefused(t *testing.T) {
	name := &domain.Error{Kind: domain.Invalid, Field: "name", Message: "Too short."}
	cidr := &domain.Error{Kind: domain.Conflict, Field: "cidr", Message: "Overlaps."}
	tests := []struct {
		name string
		err  error
		want []ui.FieldError
	}{
		{"nothing", nil, nil},
		{"one field", name, []ui.FieldError{{Field: "name", Message: "Too short."}}},
		{"two fields", errors.Join(name, cidr), []ui.FieldError{{Field: "name", Message: "Too short."}, {Field: "cidr", Message: "Overlaps."}}},
		{"the whole form", &domain.Error{Kind: domain.Invalid, Message: "Not together."}, []ui.FieldError{{Message: "Not together."}}},
		{"not about the form", &domain.Error{Kind: domain.Conflict, Message: "Changed."}, nil},
		{"the store", errors.New("disk full"), nil},
	}
	for _, tt := range tests {
		f := newForm()
		if got := f.refused(tt.err); got != (tt.want != nil) {
			t.Errorf("%s: refused %v", tt.name, got)
		}
		if diff := cmp.Diff(tt.want, f.errors); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}

// A form that is refused comes back with 422 and what was typed, for both
// audiences; a form that is sent twice makes one thing.
func TestFormRoundTrip(t *testing.T) {
	made := 0
	a := newTestApp(t, func(k *Console, r router) {
		again := func(c echo.Context, s *domain.Scope, f *form) error {
			shown := f.show(s, "thing", "/a/"+s.Account().ID+"/things", 3)
			part := ui.PostForm(shown)
			with := func(t templ.Component) templ.Component {
				return templ.ComponentFunc(func(ctx context.Context, w io.Writer) error {
					return t.Render(templ.WithChildren(ctx, ui.Input(shown, ui.Control{Name: "name", Label: "Name", Hint: "A word.", Value: "first"})), w)
				})
			}
			return showForm(c, f, templ.Join(ui.Heading(ui.Head{Title: "New"}), with(part)), with(part))
		}
		r.get("/things", func(c echo.Context, s *domain.Scope) error { return again(c, s, newForm()) })
		r.post("/things", func(c echo.Context, s *domain.Scope) error {
			f, err := readForm(c)
			if err != nil {
				return err
			}
			id := ""
			if f.required("name", "It needs a name."); f.ok() {
				id, err = f.once(c, s, "CreateThing", func(context.Context) (string, error) {
					if f.text("name") == "taken" {
						return "", &domain.Error{Kind: domain.Invalid, Field: "name", Message: "There is one already."}
					}
					made++
					return "t-1", nil
				})
			}
			if f.refused(err) {
				return again(c, s, f)
			}
			if err != nil {
				return err
			}
			return k.seeOther(c, s, "/things/"+id, ui.Note{})
		})
	})
	b := a.browser(t)
	a.signIn(t, b, a.user(t, "mara", a.Provider))
	path := "/a/" + a.Provider.Account().ID + "/things"

	d := a.get(t, b, path).doc(t)
	if got := d.Find("input[name=name]").AttrOr("value", ""); got != "first" {
		t.Errorf("at first the field holds %q", got)
	}
	send := url.Values{}
	for _, in := range d.Find("input[type=hidden]").EachIter() {
		send.Set(in.AttrOr("name", ""), in.AttrOr("value", ""))
	}
	if send.Get("account") != a.Provider.Account().ID || send.Get("version") != "3" || len(send.Get("token")) < 16 {
		t.Errorf("the form carries %v", send)
	}
	for _, typed := range []string{"", "taken"} {
		send.Set("name", typed)
		for _, header := range [][]string{nil, asHTMX} {
			res := a.post(t, b, path, send, header...)
			d := res.doc(t)
			in := d.Find("input[name=name]")
			if res.StatusCode != http.StatusUnprocessableEntity || in.AttrOr("value", "") != typed || in.AttrOr("aria-invalid", "") != "true" {
				t.Errorf("%q, %v: %d %s", typed, header, res.StatusCode, res.body)
			}
			for id := range strings.FieldsSeq(in.AttrOr("aria-describedby", "")) {
				if d.Find("#"+id).Length() != 1 {
					t.Errorf("%q: described by #%s, which is not there", typed, id)
				}
			}
			if to := d.Find("[data-testid=errors] a").AttrOr("href", "#"); d.Find(to).AttrOr("name", "") != "name" {
				t.Errorf("%q: the summary leads to %q", typed, to)
			}
			if (d.Find("h1").Length() == 1) != (header == nil) {
				t.Errorf("%q, %v: wrong half", typed, header)
			}
		}
	}
	send.Set("name", "orders")
	for range 2 {
		if res := a.post(t, b, path, send); res.Header.Get("Location") != path+"/t-1" {
			t.Errorf("leads to %q", res.Header.Get("Location"))
		}
	}
	if made != 1 {
		t.Errorf("made %d for one form", made)
	}
	send.Set("name", "other")
	if res := a.post(t, b, path, send); res.StatusCode != http.StatusConflict || made != 1 {
		t.Errorf("the same form with other values: %d, made %d", res.StatusCode, made)
	}
}

func TestListing(t *testing.T) {
	w := domaintest.New(t)
	base := "/a/" + w.Provider.Account().ID + "/services"
	read := func(query string) listing {
		c := echo.New().NewContext(httptest.NewRequest(http.MethodGet, "/x?"+query, nil), httptest.NewRecorder())
		return readList(c, w.Provider, "/services", "type", "view")
	}
	l := read("q=+pay+&type=NLB&type=ALB&type=NLB&type=&unknown=1&after=CURSOR&from=26")
	want := domain.Query{After: "CURSOR", Limit: pageSize, Text: "pay", Filter: map[string][]string{"type": {"NLB", "ALB"}}}
	if diff := cmp.Diff(want, l.domain()); diff != "" {
		t.Error(diff)
	}
	got := l.fill(ui.List{Filter: &ui.Filter{}}, []string{"a", "b"}, "PREV", "NEXT")
	for name, pair := range map[string][2]string{
		"query": {got.Query, "?after=CURSOR&from=26&q=pay&type=NLB&type=ALB"},
		"prev":  {got.Pager.Prev, base + "?before=PREV&from=1&q=pay&type=NLB&type=ALB"},
		"next":  {got.Pager.Next, base + "?after=NEXT&from=28&q=pay&type=NLB&type=ALB"},
		"with":  {l.with("type", "CLB"), base + "?q=pay&type=CLB"},
		"all":   {l.with("type", ""), base + "?q=pay"},
		"typed": {got.Filter.Q, "pay"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: got %q, want %q", name, pair[0], pair[1])
		}
	}
	if got.Pager.From != 26 || got.Pager.To != 27 || !got.Filtered {
		t.Errorf("pager %+v, filtered %v", got.Pager, got.Filtered)
	}
	plain := read("from=26").fill(ui.List{}, nil, "", "")
	if plain.Query != "" || plain.Filtered || plain.Pager.To != 0 || plain.Pager.Next+plain.Pager.Prev != "" {
		t.Errorf("an empty list: %+v", plain)
	}
	if view := read("view=waiting"); view.filtered("view") || !view.filtered() {
		t.Error("a view is a filter only where it is one")
	}
}

func TestListSaysHowManyAreNew(t *testing.T) {
	a := newTestApp(t, func(_ *Console, r router) {
		r.get("/things", func(c echo.Context, s *domain.Scope) error {
			l := readList(c, s, "/things").fill(ui.List{ID: "things", Label: "Things"}, []string{"t-3", "t-2", "t-1"}, "", "")
			return list(c, l, ui.Listing(l), ui.Results(l))
		})
	})
	b := a.browser(t)
	a.signIn(t, b, a.user(t, "mara", a.Provider))
	path := "/a/" + a.Provider.Account().ID + "/things"
	for seen, want := range map[string]string{"t-2 t-1": "1 new – show", "t-0": "3 new – show", "t-3 t-2 t-1": ""} {
		res := a.get(t, b, path+"?q=x&seen="+url.QueryEscape(seen), asHTMX...)
		d := res.doc(t)
		if got := d.Text(); got != want {
			t.Errorf("seen %q: %q, want %q", seen, got, want)
		}
		if href := d.Find("a").AttrOr("href", path+"?q=x"); href != path+"?q=x" {
			t.Errorf("leads to %q", href)
		}
	}
	res := a.get(t, b, path+"?q=x&type=&junk=1", asHTMX...)
	if got := res.Header.Get("HX-Replace-Url"); got != path+"?q=x" {
		t.Errorf("the address becomes %q", got)
	}
	if res.doc(t).Find("#things-results").Length() != 1 || strings.Contains(res.body, "<form") {
		t.Error("a search gets more than the results")
	}
}

func FuzzLocalPath(f *testing.F) {
	for _, s := range []string{"/a/1?x=1", "//evil", `/\evil`, "https://evil", "", "/\tx", "javascript:x", "/%2fevil"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got := localPath(in)
		base := &url.URL{Scheme: "http", Host: "console"}
		u, err := base.Parse(got)
		if err != nil || u.Host != "console" || u.Scheme != "http" || strings.HasPrefix(got, "//") || strings.Contains(got, `\`) {
			t.Errorf("%q leads to %q", in, got)
		}
	})
}
