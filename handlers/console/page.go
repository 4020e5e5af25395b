package console

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/a-h/templ"
	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/layout"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

// page is the frame of a page of the account; nav is the path of its entry in
// the navigation ("/services"). Call it before reading what the page shows: a
// change in between then reaches the page by the event stream.
func (k *Console) page(c echo.Context, s *domain.Scope, title, nav string) layout.Page {
	p := k.frame(c, title, nav)
	a := s.Account()
	p.Account = layout.Account{ID: a.ID, Name: a.Name}
	p.Last = k.hub.Last()
	p.ReadOnly = !s.Can(domain.WriteProvide) && !s.Can(domain.WriteConsume) && !s.Can(domain.WriteNetwork) && !s.Can(domain.WriteAccount)
	for _, u := range p.Users {
		if u.Login == s.User().Name {
			p.User = u
		}
	}
	ctx := c.Request().Context()
	p.Side = demoSide(ctx, s)
	p.Pending = waiting(ctx, s)
	if rs, err := s.Regions(ctx); err == nil && len(rs) == 1 {
		p.Region = rs[0].Region.ID
	}
	p.Flash = k.flashes.find(c.QueryParam("flash"), a.ID)
	return p
}

// waiting counts the connections that wait for a decision of the account. What is
// only beside the page's matter is left out if it cannot be read.
func waiting(ctx context.Context, s *domain.Scope) int {
	n, _, _, _, err := s.ConnectionCounts(ctx)
	if err != nil {
		return 0
	}
	return n
}

// demoSide colours the demo's accounts, which one person plays both of.
func demoSide(ctx context.Context, s *domain.Scope) ui.Side {
	if !s.Account().Demo {
		return ""
	}
	switch own, err := s.Services(ctx, domain.Query{Limit: 1}); {
	case err != nil:
		return ""
	case len(own.Items) > 0:
		return ui.Provider
	}
	return ui.Consumer
}

// adminPage is the frame of a page for operators.
func (k *Console) adminPage(c echo.Context, title, nav string) layout.Page {
	p := k.frame(c, title, nav)
	p.Flash = k.flashes.find(c.QueryParam("flash"), "")
	return p
}

// frame is what pages with and without an account have in common.
func (k *Console) frame(c echo.Context, title, nav string) layout.Page {
	p := layout.Page{Title: title, Nav: nav, Notice: k.Network.notice(), Version: k.Version, Theme: theme(c)}
	who, err := k.identities(c)
	if err != nil {
		return p // the page itself says what is wrong
	}
	for _, i := range who {
		u := layout.User{Name: i.User().DisplayName, Login: i.User().Name, Handle: i.SessionID()}
		if u.Name == "" {
			u.Name = u.Login
		}
		for _, a := range i.Accounts() {
			u.Accounts = append(u.Accounts, layout.Account{ID: a.Account.ID, Name: a.Account.Name})
		}
		p.Users = append(p.Users, u)
		p.Operator = p.Operator || i.Operator()
	}
	if len(p.Users) > 0 {
		p.User = p.Users[0]
	}
	return p
}

// ---- answers

// wantsPart tells the two audiences of one address apart. htmx 4 says "partial"
// unless it replaces the body or restores history; a browser says nothing.
func wantsPart(c echo.Context) bool {
	return c.Request().Header.Get("HX-Request-Type") == "partial"
}

// isHTMX reports whether script sent the request.
func isHTMX(c echo.Context) bool { return c.Request().Header.Get("HX-Request") == "true" }

// show answers htmx with the part and everybody else with the page.
func show(c echo.Context, page, part templ.Component) error {
	return showStatus(c, http.StatusOK, page, part)
}

// showForm is show for a page with a form: 422 if something is wrong with it.
func showForm(c echo.Context, f *form, page, part templ.Component) error {
	if !f.ok() {
		return showStatus(c, http.StatusUnprocessableEntity, page, part)
	}
	return show(c, page, part)
}

func showStatus(c echo.Context, code int, page, part templ.Component) error {
	if wantsPart(c) {
		return render(c, code, part)
	}
	return render(c, code, page)
}

// changed ends a write that leaves the reader where they are: htmx gets the
// changed parts, each a [ui.Patch] or the like, with the note as a toast; a
// browser gets the page at to, with the note on it, and so does htmx on the page of
// a question, where nothing is to be patched.
func (k *Console) changed(c echo.Context, s *domain.Scope, to string, n ui.Note, parts ...templ.Component) error {
	if wantsPart(c) && !onOwnPage(c) {
		return render(c, http.StatusOK, templ.Join(append(parts, ui.CloseDialog(), ui.AddToast(n))...))
	}
	return k.seeOther(c, s, to, n)
}

// onOwnPage reports whether the form that htmx sent stands on a page of its own: a
// question has the same address as its answer.
func onOwnPage(c echo.Context) bool {
	u, err := url.Parse(c.Request().Header.Get("HX-Current-URL"))
	return err == nil && u.Path == c.Request().URL.Path
}

// seeOther ends a write that leads to another page of the account: to is its
// path ("/services/epsrv-…"), and n is shown there.
func (k *Console) seeOther(c echo.Context, s *domain.Scope, to string, n ui.Note) error {
	id := s.Account().ID
	return redirect(c, k.flashes.add(id, n, "/a/"+id+to))
}

// adminSeeOther is seeOther for pages of operators; to is the whole path.
func (k *Console) adminSeeOther(c echo.Context, to string, n ui.Note) error {
	return redirect(c, k.flashes.add("", n, to))
}

// redirect sends a browser on by 303. htmx is told by HX-Location, because fetch
// would follow a 303 by itself and put the page into the form.
func redirect(c echo.Context, to string) error {
	if isHTMX(c) {
		c.Response().Header().Set("HX-Location", to)
		return c.NoContent(http.StatusOK)
	}
	return c.Redirect(http.StatusSeeOther, to)
}

// patch replaces the element id by t in an answer to htmx or an event.
func patch(id string, t templ.Component) templ.Component {
	return templ.ComponentFunc(func(ctx context.Context, w io.Writer) error {
		return ui.Patch(id).Render(templ.WithChildren(ctx, t), w)
	})
}

// compressFrom is the size in bytes from which a page is worth compressing.
const compressFrom = 2048

var compressors = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(io.Discard, 4) // the level is valid
	return w
}}

// render renders all of t before it answers, so that a failing template is still
// a clean 500.
func render(c echo.Context, code int, t templ.Component) error {
	var b bytes.Buffer
	if err := t.Render(c.Request().Context(), &b); err != nil {
		return err
	}
	h := c.Response().Header()
	h.Add("Vary", "HX-Request-Type, Accept-Encoding")
	h.Set("Cache-Control", "no-store")
	if b.Len() < compressFrom || !strings.Contains(c.Request().Header.Get("Accept-Encoding"), "gzip") {
		return c.HTMLBlob(code, b.Bytes())
	}
	var z bytes.Buffer
	w := compressors.Get().(*gzip.Writer)
	defer compressors.Put(w)
	w.Reset(&z)
	_, _ = w.Write(b.Bytes()) // into memory
	_ = w.Close()
	h.Set("Content-Encoding", "gzip")
	return c.HTMLBlob(code, z.Bytes())
}

// ---- notes that survive a redirect

// maxFlashes bounds the notes that are kept, for all browsers together; the
// oldest go first.
const maxFlashes = 1024

// flashes keeps the notes that redirects lead to. They stay, so that a reload
// shows them again. The zero value is ready.
type flashes struct {
	mu    sync.Mutex
	byID  map[string]flash
	order []string
}

type flash struct {
	account string
	note    ui.Note
}

// add keeps n and returns the address to with its id; a note without a title is
// not kept.
func (f *flashes) add(account string, n ui.Note, to string) string {
	if n.Title == "" {
		return to
	}
	id := strings.ToLower(rand.Text()[:12])
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byID == nil {
		f.byID = map[string]flash{}
	}
	f.byID[id] = flash{account, n}
	f.order = append(f.order, id)
	if len(f.order) > maxFlashes {
		delete(f.byID, f.order[0])
		f.order = f.order[1:]
	}
	sep := "?"
	if strings.Contains(to, "?") {
		sep = "&"
	}
	return to + sep + "flash=" + id
}

// find returns the note id of the account, or nil.
func (f *flashes) find(id, account string) *ui.Note {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n, ok := f.byID[id]; ok && n.account == account {
		return &n.note
	}
	return nil
}

// ---- small things of the browser

const yearInSeconds = 365 * 24 * 3600

// setPreference keeps something that is no secret in the browser.
func setPreference(c echo.Context, name, value string) {
	c.SetCookie(&http.Cookie{Name: name, Value: value, Path: "/", MaxAge: yearInSeconds, HttpOnly: true, SameSite: http.SameSiteLaxMode})
}

func preference(c echo.Context, name string) string {
	if ck, err := c.Cookie(name); err == nil {
		return ck.Value
	}
	return ""
}

// theme is "light", "dark" or "" for the system's.
func theme(c echo.Context) string {
	if t := preference(c, "theme"); t == "light" || t == "dark" {
		return t
	}
	return ""
}

// remember keeps the account for the next visit of /.
func (k *Console) remember(c echo.Context, account string) {
	if !isHTMX(c) && preference(c, "account") != account {
		setPreference(c, "account", account)
	}
}

// localPath returns where, if it is an address of this site, else "/".
func localPath(where string) string {
	u, err := url.Parse(where)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(where, "//") || strings.ContainsAny(where, "\\\r\n\t") {
		return "/"
	}
	return where
}
