// Package handlers is the HTTP server: what every request passes on its way, and
// where the console, the API and the browser's files are found.
package handlers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/handlers/console"
	"github.com/openprivatelink/openprivatelink/handlers/session"
	"github.com/openprivatelink/openprivatelink/static"
)

// Config is what the server is made of. Store, Metrics and SessionKeys are
// required.
type Config struct {
	Store   *domain.Store
	Metrics prometheus.Registerer // of what the server counts
	API     http.Handler          // at / for what is not a page: POST, or GET with an Action; nil: none

	SessionKeys    func() ([]byte, error) // signs the cookies: 32 bytes or more
	PublicURL      *url.URL               // how browsers reach the console; nil: as they say
	TrustedProxies []netip.Prefix         // whose X-Forwarded-For and -Proto are believed

	NetworkMode   string // of the engine: in "loopback", every page says what that means
	NetworkReason string // why it is that one
	Version       string // of the program

	Log *slog.Logger // nil: slog.Default
}

// Server answers every request; [Server.Run] keeps its pages live.
type Server struct {
	echo    *echo.Echo
	console *console.Console
	store   *domain.Store
}

// New returns a server. It begins nothing.
func New(c Config) (*Server, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	key, err := c.SessionKeys()
	if err != nil {
		return nil, fmt.Errorf("session key: %w", err)
	}
	if len(key) < 32 {
		return nil, errors.New("session key: shorter than 32 bytes")
	}
	s := &Server{echo: echo.New(), store: c.Store}
	s.console = console.New(console.Config{
		Sessions:  session.New(c.Store, key, secure(c.PublicURL)),
		Log:       c.Log,
		Version:   c.Version,
		Network:   console.Network{Mode: c.NetworkMode, Reason: c.NetworkReason},
		PublicURL: c.PublicURL,
	})
	e := s.echo
	e.IPExtractor = clientIP(c.TrustedProxies)
	e.HTTPErrorHandler = s.console.Fail
	e.Use(
		requestID,
		securityHeaders(c.PublicURL),
		measured(c.Metrics),
		logged(c.Log),
		recovered,
		bounded,
		forwarded(c.TrustedProxies),
		sameOrigin(c.PublicURL),
		withAssets(static.Missing()),
	)
	e.GET("/healthz", func(c echo.Context) error { return c.String(http.StatusOK, "ok\n") })
	e.GET("/readyz", s.ready)
	e.GET(static.Prefix+"*", echo.WrapHandler(http.HandlerFunc(static.Serve)))
	s.console.Register(e)
	if c.API != nil {
		e.POST("/", echo.WrapHandler(c.API))
		e.Use(apiByGet(c.API))
	}
	return s, nil
}

// Public are the routes that need no session. The API, at /, has signatures.
var Public = append([]string{"GET /healthz", "GET /readyz", "GET " + static.Prefix + "*", "POST /"}, console.Public...)

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.echo.ServeHTTP(w, r) }

// Run keeps the pages live until ctx ends, and then ends their event streams, so
// that an HTTP server can shut down.
func (s *Server) Run(ctx context.Context) error {
	defer s.console.Close()
	feed, stop := s.store.Changes()
	defer stop()
	return s.console.Follow(ctx, feed)
}

func (s *Server) ready(c echo.Context) error {
	if err := s.store.Ready(c.Request().Context()); err != nil {
		return echo.NewHTTPError(http.StatusServiceUnavailable, "The store does not answer.").SetInternal(err)
	}
	return c.String(http.StatusOK, "ready\n")
}

// apiByGet sends GET /?Action=… to the API, which shares its address with the
// console's first page.
func apiByGet(api http.Handler) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if r := c.Request(); r.URL.Path == "/" && r.URL.Query().Has("Action") {
				api.ServeHTTP(c.Response(), r)
				return nil
			}
			return next(c)
		}
	}
}
