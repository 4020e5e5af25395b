// Package console is the web console: pages and the parts of pages that htmx
// asks for. A handler parses, calls one operation of its scope and renders; it
// holds no rules.
//
// Everything works without script. The same address answers a browser with the
// page and htmx with the part of it that changes; what others change arrives by
// the event stream, rendered for the eyes of whoever reads it.
package console

import (
	"log/slog"
	"net/url"

	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
)

// Sessions is who is signed in to the browser that asks.
type Sessions interface {
	// Identities returns everybody signed in, the latest first; nobody is no error.
	Identities(c echo.Context) ([]*domain.Identity, error)
	// SignIn adds a user. Denied if name or password is wrong, Limit after too
	// many attempts.
	SignIn(c echo.Context, name, password string) (*domain.Identity, error)
	// SignInByLink adds the user of a sign-in link. Denied if it was used or is
	// too old.
	SignInByLink(c echo.Context, token string) (*domain.Identity, error)
	// SignOut ends the session with this handle. NotFound if it is not one of
	// this browser's.
	SignOut(c echo.Context, handle string) error
}

// Config is what a console is made of. Sessions is required.
type Config struct {
	Sessions  Sessions
	Log       *slog.Logger // nil: slog.Default
	Version   string       // of the program
	Network   Network
	PublicURL *url.URL // what links for other people begin with; nil: as the browser that asks reached us
}

// public is what a link that is sent to somebody begins with.
func (k *Console) public(c echo.Context) *url.URL {
	if k.PublicURL != nil {
		return k.PublicURL
	}
	return &url.URL{Scheme: c.Scheme(), Host: c.Request().Host}
}

// Network is how the engine makes VPCs: "netns", "userns" or "loopback"; and why
// in this way.
type Network struct{ Mode, Reason string }

// notice is what every page says about n, or "".
func (n Network) notice() string {
	if n.Mode != "loopback" {
		return ""
	}
	s := "Loopback mode: the addresses of VPCs are addresses of this machine, and nothing keeps VPCs apart."
	if n.Reason != "" {
		s += " (" + n.Reason + ")"
	}
	return s
}

// Console is the pages and their event stream.
type Console struct {
	Config
	hub       *Hub
	flashes   flashes
	views     map[string]liveView // by kind of object
	resources map[string]probe    // by the first part of the path
}

// New returns a console; [Console.Register] puts it on a server.
func New(c Config) *Console {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Console{Config: c, hub: NewHub(), views: map[string]liveView{}, resources: map[string]probe{}}
}

// areas are the pages, each registered in the file that has its handlers.
var areas = []func(*Console, router){
	(*Console).overviewArea, (*Console).startArea,
	(*Console).serviceArea, (*Console).connectionArea, (*Console).balancerArea, (*Console).serverGroupArea,
	(*Console).endpointArea, (*Console).catalogueArea,
	(*Console).vpcsArea, (*Console).attachmentsArea, (*Console).routesArea, (*Console).groupsArea,
	(*Console).flowArea, (*Console).metricsArea, (*Console).auditArea, (*Console).adminArea,
}

// Public are the routes that need no session; every other route of the console
// answers a stranger with the way to the sign-in page.
var Public = []string{"GET /sign-in", "POST /sign-in", "GET /welcome", "POST /theme"}

// Close ends every event stream.
func (k *Console) Close() { k.hub.close() }

// Register adds the routes to e.
func (k *Console) Register(e *echo.Echo) {
	e.GET("/", k.home)
	e.GET("/sign-in", k.signInPage)
	e.POST("/sign-in", k.signIn)
	e.GET("/welcome", k.welcome)
	e.POST("/sign-out/:session", k.signOut)
	e.POST("/theme", k.theme)
	e.GET("/events", k.events)

	r := router{k: k, account: e.Group("/a/:account"), admin: e.Group("/admin")}
	for _, area := range areas {
		area(k, r)
	}
	for noun := range k.resources {
		e.GET("/"+noun+"/:id", k.elsewhere)
	}
}
