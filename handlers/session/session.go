// Package session keeps who is signed in to a browser: several users at once, by
// one cookie that holds nothing but the tokens of their sessions. The sessions
// themselves are rows of the store, so signing one out leaves the others.
package session

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/gorilla/securecookie"
	"github.com/gorilla/sessions"
	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
)

const (
	maxUsers  = 8             // signed in to one browser; the first ones give way
	cookieAge = 7 * 24 * 3600 // seconds; the rows end earlier when they are not used
	tokensKey = "tokens"      // in the cookie's values
	cookie    = "privatelink" // prefixed with __Host- where the console is served by https
)

// Store is what a session needs of the domain; [*domain.Store] is one.
type Store interface {
	SignIn(ctx context.Context, name, password string, m domain.SignInMeta) (token string, err error)
	SignInByLink(ctx context.Context, link string, m domain.SignInMeta) (token string, err error)
	Identify(ctx context.Context, token string) (*domain.Identity, error)
}

// Sessions reads and writes the cookie.
type Sessions struct {
	store    Store
	cookies  *sessions.CookieStore
	name     string
	attempts *attempts
}

// New returns sessions whose cookie is signed with key (32 bytes or more).
// secure is for a console that is served by https: then the cookie never leaves
// it, nor its host.
func New(store Store, key []byte, secure bool) *Sessions {
	s := &Sessions{store: store, cookies: sessions.NewCookieStore(key), name: cookie, attempts: newAttempts()}
	// All of it: the library's own defaults are SameSite=None and Secure.
	s.cookies.Options = &sessions.Options{Path: "/", MaxAge: cookieAge, HttpOnly: true, Secure: secure, SameSite: http.SameSiteLaxMode}
	s.cookies.MaxAge(cookieAge) // also of the signature
	if secure {
		s.name = "__Host-" + cookie
	}
	return s
}

// Identities returns everybody signed in to the browser, the latest first.
// Sessions that have ended are left out.
func (s *Sessions) Identities(c echo.Context) ([]*domain.Identity, error) {
	var who []*domain.Identity
	for _, token := range s.tokens(c) {
		i, err := s.store.Identify(c.Request().Context(), token)
		switch {
		case domain.KindOf(err) == domain.NotFound:
			continue
		case err != nil:
			return nil, fmt.Errorf("identify session: %w", err)
		}
		who = append(who, i)
	}
	return who, nil
}

// SignIn adds a user to the browser. Denied if the name or the password is wrong;
// Limit after too many wrong ones, by the name or by the address.
func (s *Sessions) SignIn(c echo.Context, name, password string) (*domain.Identity, error) {
	by := []tried{
		{"user " + strings.ToLower(strings.TrimSpace(name)), userAttempts},
		{"address " + c.RealIP(), addressAttempts},
	}
	if wait := s.attempts.begin(by); wait > 0 {
		return nil, &domain.Error{
			Kind: domain.Limit, Reason: "too_many_attempts",
			Message: fmt.Sprintf("Too many attempts. Try again in %d seconds.", int(wait.Seconds())+1),
		}
	}
	token, err := s.store.SignIn(c.Request().Context(), name, password, meta(c))
	if domain.KindOf(err) != domain.Denied { // right, or not our visitor's fault
		s.attempts.forgive(by)
	}
	if err != nil {
		return nil, err
	}
	return s.add(c, token)
}

// SignInByLink adds the user of a sign-in link.
func (s *Sessions) SignInByLink(c echo.Context, link string) (*domain.Identity, error) {
	token, err := s.store.SignInByLink(c.Request().Context(), link, meta(c))
	if err != nil {
		return nil, err
	}
	return s.add(c, token)
}

// SignOut ends the one session of this browser with the handle; NotFound if there
// is none.
func (s *Sessions) SignOut(c echo.Context, handle string) error {
	ctx := c.Request().Context()
	var keep []string
	var gone *domain.Identity
	for _, token := range s.tokens(c) {
		i, err := s.store.Identify(ctx, token)
		switch {
		case domain.KindOf(err) == domain.NotFound:
		case err != nil:
			return fmt.Errorf("identify session: %w", err)
		case i.SessionID() == handle:
			gone = i
		default:
			keep = append(keep, token)
		}
	}
	if gone == nil {
		return echo.ErrNotFound
	}
	if err := gone.SignOut(ctx); err != nil {
		return err
	}
	return s.save(c, keep)
}

// add puts the token first. An older session of the same user ends: one browser
// has one of each.
func (s *Sessions) add(c echo.Context, token string) (*domain.Identity, error) {
	ctx := c.Request().Context()
	added, err := s.store.Identify(ctx, token)
	if err != nil {
		return nil, fmt.Errorf("identify session: %w", err)
	}
	tokens := []string{token}
	for _, t := range s.tokens(c) {
		i, err := s.store.Identify(ctx, t)
		switch {
		case domain.KindOf(err) == domain.NotFound:
		case err != nil:
			return nil, fmt.Errorf("identify session: %w", err)
		case i.User().ID == added.User().ID || len(tokens) == maxUsers:
			if err := i.SignOut(ctx); err != nil {
				return nil, err
			}
		default:
			tokens = append(tokens, t)
		}
	}
	return added, s.save(c, tokens)
}

// tokens are those of the request's cookie. A cookie that we did not sign is empty.
func (s *Sessions) tokens(c echo.Context) []string {
	ck, err := s.cookies.Get(c.Request(), s.name)
	if err != nil || ck == nil {
		return nil
	}
	v, _ := ck.Values[tokensKey].(string)
	return strings.Fields(v)
}

func (s *Sessions) save(c echo.Context, tokens []string) error {
	ck, err := s.cookies.Get(c.Request(), s.name)
	if multi, ok := errors.AsType[securecookie.MultiError](err); err != nil && (!ok || !multi.IsDecode()) {
		return fmt.Errorf("read cookie: %w", err) // a foreign signature is no reason to keep somebody out
	}
	ck.Values[tokensKey] = strings.Join(tokens, " ")
	if len(tokens) == 0 {
		ck.Options.MaxAge = -1
	}
	if err := ck.Save(c.Request(), c.Response()); err != nil {
		return fmt.Errorf("set cookie: %w", err)
	}
	return nil
}

func meta(c echo.Context) domain.SignInMeta {
	return domain.SignInMeta{Address: c.RealIP(), Agent: c.Request().UserAgent()}
}
