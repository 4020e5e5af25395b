package console

import (
	"net/http"
	"net/url"

	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/signin"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

// home leads to the account used last.
func (k *Console) home(c echo.Context) error {
	who, err := k.signedIn(c)
	if err != nil {
		return err
	}
	last := preference(c, "account")
	first := ""
	for _, i := range who {
		for _, a := range i.Accounts() {
			if a.Account.ID == last {
				return c.Redirect(http.StatusSeeOther, "/a/"+last)
			}
			if first == "" {
				first = a.Account.ID
			}
		}
	}
	if first != "" {
		return c.Redirect(http.StatusSeeOther, "/a/"+first)
	}
	if who[0].Operator() {
		return c.Redirect(http.StatusSeeOther, "/admin")
	}
	return render(c, http.StatusOK, signin.NoAccount(k.frame(c, "No account", "")))
}

func (k *Console) signInPage(c echo.Context) error {
	return k.showSignIn(c, newForm(), localPath(c.QueryParam("next")))
}

func (k *Console) showSignIn(c echo.Context, f *form, next string) error {
	p := k.frame(c, "Sign in", "")
	form := ui.Form{ID: "sign-in", Action: "/sign-in", Values: f.values, Errors: f.errors}
	return showForm(c, f, signin.Page(p, form, next), signin.Form(form, next))
}

func (k *Console) signIn(c echo.Context) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	next := localPath(f.text("next"))
	name := f.required("user", "Who are you?")
	if f.values.Get("password") == "" {
		f.wrong("password", "The password is missing.")
	}
	if !f.ok() {
		return k.showSignIn(c, f, next)
	}
	_, err = k.Sessions.SignIn(c, name, f.values.Get("password"))
	switch domain.KindOf(err) {
	case domain.Denied, domain.Limit: // beside the form, with the name kept
		f.wrong("", "%s", failureOf(err).Text)
		return k.showSignIn(c, f, next)
	}
	if err != nil {
		return err
	}
	return entered(c, next)
}

// entered leaves the sign-in page for next. (The whole page is loaded: another
// account has another event stream.)
func entered(c echo.Context, next string) error {
	if isHTMX(c) {
		c.Response().Header().Set("HX-Redirect", next)
		return c.NoContent(http.StatusOK)
	}
	return c.Redirect(http.StatusSeeOther, next)
}

// welcome signs in by a link, once, and leads on to an address without it. In a
// demo's account there is a page of its own for newcomers.
func (k *Console) welcome(c echo.Context) error {
	i, err := k.Sessions.SignInByLink(c, c.QueryParam("t"))
	if domain.KindOf(err) == domain.Denied {
		f := newForm()
		f.wrong("", "%s", failureOf(err).Text)
		return k.showSignIn(c, f, "/")
	}
	if err != nil {
		return err
	}
	for _, a := range i.Accounts() {
		if a.Account.Demo {
			return c.Redirect(http.StatusSeeOther, "/a/"+a.Account.ID+"/welcome")
		}
	}
	return c.Redirect(http.StatusSeeOther, "/")
}

func (k *Console) signOut(c echo.Context) error {
	if _, err := k.signedIn(c); err != nil {
		return err
	}
	handle := c.Param("session")
	if err := k.Sessions.SignOut(c, handle); err != nil {
		return err
	}
	k.hub.end(handle)
	return entered(c, "/")
}

// theme keeps light, dark or the system's, and stays on the page.
func (k *Console) theme(c echo.Context) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	setPreference(c, "theme", f.text("theme"))
	to := "/"
	if u, err := url.Parse(c.Request().Referer()); err == nil && u.Host == c.Request().Host {
		to = localPath(u.RequestURI())
	}
	return c.Redirect(http.StatusSeeOther, to)
}
