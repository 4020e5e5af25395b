// Package handlers is the HTTP server: what every request passes on its way, and
// where the console, the API and the browser's files are found.
package handlers

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/openprivatelink/openprivatelink/handlers/console"
	"github.com/openprivatelink/openprivatelink/static"
)

// Limits of a connection. Nobody holds one by sending or taking slowly; the event
// stream sets its own.
const (
	headerTimeout = 10 * time.Second
	readTimeout   = 30 * time.Second
	writeTimeout  = 60 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10 // bytes
	maxBody       = 1 << 20  // bytes; of any request, before anything looks at it
)

// Config is what the server is made of. Console and Metrics are required.
type Config struct {
	Console *console.Console
	API     http.Handler // at / for what is not a page: POST, or GET with an Action; nil: none
	Metrics *prometheus.Registry
	Ready   func(context.Context) error // nil: always

	PublicURL *url.URL       // how browsers reach the console; nil: as they say
	Trusted   []netip.Prefix // proxies whose X-Forwarded-For and -Proto are believed

	Log *slog.Logger // nil: slog.Default
}

// New returns the handler of every request.
func New(c Config) http.Handler {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	e := echo.New()
	e.IPExtractor = clientIP(c.Trusted)
	e.HTTPErrorHandler = c.Console.Fail
	e.Use(
		requestID,
		securityHeaders(c.PublicURL),
		measured(c.Metrics),
		logged(c.Log),
		recovered,
		limited,
		forwarded(c.Trusted),
		sameOrigin(c.PublicURL),
		withAssets,
	)
	e.GET("/healthz", func(c echo.Context) error { return c.String(http.StatusOK, "ok\n") })
	e.GET("/readyz", ready(c.Ready))
	e.GET("/metrics", echo.WrapHandler(promhttp.HandlerFor(c.Metrics, promhttp.HandlerOpts{})))
	e.GET(static.Prefix+"*", echo.WrapHandler(http.HandlerFunc(static.Serve)))
	c.Console.Register(e)
	if c.API != nil {
		e.POST("/", echo.WrapHandler(c.API))
		e.Pre(apiByGet(c.API))
	}
	return e
}

// Public are the routes that need no session. The API has its own signatures.
var Public = append([]string{"GET /healthz", "GET /readyz", "GET /metrics", "GET " + static.Prefix + "*", "POST /"}, console.Public...)

// Server returns a server for h with the limits of a connection set.
func Server(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

func ready(check func(context.Context) error) echo.HandlerFunc {
	return func(c echo.Context) error {
		if check != nil {
			if err := check(c.Request().Context()); err != nil {
				return echo.NewHTTPError(http.StatusServiceUnavailable, "The store does not answer.").SetInternal(err)
			}
		}
		return c.String(http.StatusOK, "ready\n")
	}
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
