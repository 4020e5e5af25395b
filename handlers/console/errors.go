package console

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/layout"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

// status is the only mapping of failures to status codes.
var status = map[domain.Kind]int{
	domain.Internal: http.StatusInternalServerError,
	domain.Invalid:  http.StatusUnprocessableEntity,
	domain.NotFound: http.StatusNotFound,
	domain.Gone:     http.StatusGone,
	domain.Denied:   http.StatusForbidden,
	domain.Conflict: http.StatusConflict,
	domain.Limit:    http.StatusTooManyRequests,
}

// titles are the words for a code, and texts what is said where the error itself
// says nothing.
var titles = map[int]string{
	http.StatusUnprocessableEntity:   "Not possible like this",
	http.StatusNotFound:              "There is nothing here",
	http.StatusGone:                  "It has been deleted",
	http.StatusForbidden:             "Not allowed",
	http.StatusConflict:              "It is not as you saw it",
	http.StatusTooManyRequests:       "A limit is reached",
	http.StatusMethodNotAllowed:      "This cannot be done here",
	http.StatusRequestEntityTooLarge: "Too much at once",
	http.StatusBadRequest:            "The request could not be read",
	http.StatusUnauthorized:          "Sign in first",
	http.StatusServiceUnavailable:    "Not ready",
	http.StatusInternalServerError:   "Something went wrong here",
}

var texts = map[int]string{
	http.StatusNotFound:            "The address leads nowhere, or to something that you may not see.",
	http.StatusMethodNotAllowed:    "The address exists, but not for this kind of request.",
	http.StatusBadRequest:          "The browser sent something that we do not understand.",
	http.StatusInternalServerError: "It is in the log under the request ID below. Look whether the change was made before you try again.",
}

// Fail answers with err: a toast for htmx, a page for a browser. It is the only
// place of the console with a status code for a failure, and the only one that
// logs it.
func (k *Console) Fail(err error, c echo.Context) {
	if c.Response().Committed {
		return // a stream that broke
	}
	f := failureOf(err)
	f.Request = requestID(c)
	if f.Code >= http.StatusInternalServerError {
		k.Log.ErrorContext(c.Request().Context(), "request", "method", c.Request().Method, "path", c.Request().URL.Path, "request_id", f.Request, "err", err)
	}
	if err := k.answer(c, f); err != nil {
		k.Log.ErrorContext(c.Request().Context(), "render failure", "request_id", f.Request, "err", err)
		_ = c.String(http.StatusInternalServerError, "Internal error, request "+f.Request)
	}
}

func failureOf(err error) layout.Failure {
	f := layout.Failure{Code: http.StatusInternalServerError}
	if de, ok := errors.AsType[*domain.Error](err); ok && de.Kind != domain.Internal {
		f.Code, f.Text = status[de.Kind], de.Message
	} else if he, ok := errors.AsType[*echo.HTTPError](err); ok {
		f.Code = he.Code
		if text := fmt.Sprint(he.Message); he.Message != nil && text != http.StatusText(he.Code) {
			f.Text = text
		}
	}
	f.Title = titles[f.Code]
	if f.Title == "" {
		f.Title = http.StatusText(f.Code)
	}
	if f.Text == "" {
		f.Text = texts[f.Code]
	}
	return f
}

func (k *Console) answer(c echo.Context, f layout.Failure) error {
	req := c.Request()
	if f.Code == http.StatusUnauthorized {
		return k.toSignIn(c)
	}
	if isHTMX(c) {
		return render(c, f.Code, ui.AddToast(ui.Note{Kind: ui.Bad, Title: f.Title, Text: f.Text, Request: f.Request}))
	}
	p := k.frame(c, f.Title, "")
	f.Back, f.BackTo = "/", "To the overview"
	if id := c.Param("account"); id != "" {
		if s, err := k.scope(c, id); err == nil {
			p = k.page(c, s, f.Title, "")
			f.Back = "/a/" + id
		}
	}
	if ref, err := url.Parse(req.Referer()); err == nil && ref.Host == req.Host && ref.Path != req.URL.Path {
		f.Back, f.BackTo = localPath(ref.RequestURI()), "Back"
	}
	k.offerSwitch(c, &f)
	return render(c, f.Code, layout.ErrorPage(p, f))
}

// offerSwitch leads to the account that has what this one has not: a link to
// /a/1/services/x is followed in a browser that may see x in account 2.
func (k *Console) offerSwitch(c echo.Context, f *layout.Failure) {
	// "", "a", account, noun, id, and what is asked of it
	parts := strings.SplitN(c.Request().URL.Path, "/", 6)
	if f.Code != http.StatusNotFound || c.Request().Method != http.MethodGet || len(parts) < 5 || parts[1] != "a" {
		return
	}
	who, err := k.identities(c)
	if err != nil {
		return
	}
	if a := k.whose(c, who, parts[3], parts[4]); a != nil && a.ID != parts[2] {
		parts[2] = a.ID
		f.Title, f.Text = "This is in "+a.Name, "You may see it there."
		f.Back, f.BackTo = strings.Join(parts, "/"), "Switch to "+a.Name
		if q := c.Request().URL.RawQuery; q != "" {
			f.Back += "?" + q
		}
	}
}

// toSignIn sends a stranger to the sign-in page, and after it back to what they
// asked for.
func (k *Console) toSignIn(c echo.Context) error {
	req := c.Request()
	to := "/sign-in"
	switch {
	case isHTMX(c): // back to the page, not to its part
		if u, err := url.Parse(req.Header.Get("HX-Current-URL")); err == nil && u.Path != "" {
			to += "?next=" + url.QueryEscape(u.RequestURI())
		}
		c.Response().Header().Set("HX-Redirect", to)
		return c.NoContent(http.StatusUnauthorized)
	case c.Path() == "/events":
		return c.NoContent(http.StatusUnauthorized)
	case req.Method == http.MethodGet && req.URL.Path != "/":
		to += "?next=" + url.QueryEscape(req.URL.RequestURI())
	}
	return c.Redirect(http.StatusSeeOther, to)
}

// badForm is a form that cannot even be read.
func badForm(err error) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return echo.NewHTTPError(http.StatusRequestEntityTooLarge, "A form has at most 1 MiB.").SetInternal(err)
	}
	return echo.ErrBadRequest.SetInternal(err)
}
