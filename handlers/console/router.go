package console

import (
	"context"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
)

// page is a handler inside an account: it cannot be called without a scope.
type page func(c echo.Context, s *domain.Scope) error

// adminPage is a handler for operators of the installation.
type adminPage func(c echo.Context, o *domain.Operator) error

// probe reports whether the account of s has the object id: nil, NotFound or Gone.
type probe func(ctx context.Context, s *domain.Scope, id string) error

// router registers pages, so that none is reachable without a scope.
type router struct {
	k              *Console
	account, admin *echo.Group
}

// get adds a page at path ("/services/:id") of the account.
func (r router) get(path string, p page) { r.account.GET(path, r.k.scoped(p)) }

// post adds a write at path of the account. Its form names the account; if that
// is another than the path's, the write is refused.
func (r router) post(path string, p page) { r.account.POST(path, r.k.scoped(sameAccount(p))) }

// adminGet adds a page at /admin and path.
func (r router) adminGet(path string, p adminPage) { r.admin.GET(path, r.k.administered(p)) }

// adminPost adds a write at /admin and path.
func (r router) adminPost(path string, p adminPage) { r.admin.POST(path, r.k.administered(p)) }

// resource lets /noun/id, without an account, lead to the account that has it.
func (r router) resource(noun string, has probe) { r.k.resources[noun] = has }

func (k *Console) scoped(p page) echo.HandlerFunc {
	return func(c echo.Context) error {
		s, err := k.scope(c, c.Param("account"))
		if err != nil {
			return err
		}
		k.remember(c, s.Account().ID)
		return p(c, s)
	}
}

func (k *Console) administered(p adminPage) echo.HandlerFunc {
	return func(c echo.Context) error {
		who, err := k.signedIn(c)
		if err != nil {
			return err
		}
		for _, i := range who {
			if o, err := i.AsOperator(k.actor(c)); err == nil {
				return p(c, o)
			}
		}
		return echo.ErrNotFound
	}
}

// signedIn returns who is signed in to this browser: one at least, or
// [echo.ErrUnauthorized].
func (k *Console) signedIn(c echo.Context) ([]*domain.Identity, error) {
	who, err := k.identities(c)
	if err == nil && len(who) == 0 {
		err = echo.ErrUnauthorized
	}
	return who, err
}

const identitiesKey = "console.identities"

// identities asks the store once a request.
func (k *Console) identities(c echo.Context) ([]*domain.Identity, error) {
	if who, ok := c.Get(identitiesKey).([]*domain.Identity); ok {
		return who, nil
	}
	who, err := k.Sessions.Identities(c)
	if err == nil {
		c.Set(identitiesKey, who)
	}
	return who, err
}

// scope is session × membership × account: the latest signed-in user who is in
// the account. Whoever may not see the account is told that there is none.
func (k *Console) scope(c echo.Context, account string) (*domain.Scope, error) {
	who, err := k.signedIn(c)
	if err != nil {
		return nil, err
	}
	for _, i := range who {
		var s *domain.Scope
		if s, err = i.Scope(account, k.actor(c)); err == nil {
			return s, nil
		}
	}
	return nil, err
}

func (k *Console) actor(c echo.Context) domain.Actor {
	return domain.Actor{Channel: "console", Address: c.RealIP(), RequestID: requestID(c)}
}

func requestID(c echo.Context) string { return c.Response().Header().Get(echo.HeaderXRequestID) }

// elsewhere redirects /noun/id to the same object in the account that has it.
func (k *Console) elsewhere(c echo.Context) error {
	who, err := k.signedIn(c)
	if err != nil {
		return err
	}
	a := k.whose(c, who, strings.Split(c.Path(), "/")[1], c.Param("id"))
	if a == nil {
		return echo.ErrNotFound
	}
	return c.Redirect(http.StatusSeeOther, "/a/"+a.ID+c.Request().URL.RequestURI())
}

// whose is the account that has the object, of those that somebody signed in may
// see; or nil.
func (k *Console) whose(c echo.Context, who []*domain.Identity, noun, id string) *domain.Account {
	has := k.resources[noun]
	if has == nil {
		return nil
	}
	for _, i := range who {
		for _, a := range i.Accounts() {
			s, err := i.Scope(a.Account.ID, k.actor(c))
			if err == nil && has(c.Request().Context(), s, id) == nil {
				return &a.Account
			}
		}
	}
	return nil
}

// sameAccount refuses a form that was made for another account than the path's:
// a tab that has been left open, or one that was made to be sent by mistake.
func sameAccount(p page) page {
	return func(c echo.Context, s *domain.Scope) error {
		form, err := c.FormParams()
		if err != nil {
			return badForm(err)
		}
		if form.Get("account") != s.Account().ID {
			return &domain.Error{
				Kind: domain.Conflict, Reason: "other_account",
				Message: "This form belongs to another account. Nothing was changed; open the page again.",
			}
		}
		return p(c, s)
	}
}
