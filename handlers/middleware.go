package handlers

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/a-h/templ"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/openprivatelink/openprivatelink/web/layout"
)

// policy is on every answer, the static files too: a worker obeys the policy of
// its own script.
const policy = "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; " +
	"connect-src 'self'; worker-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

// requestID names the request, in the answer and in everything that is said
// about it. One that a client sends is not ours to believe.
func requestID(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		c.Response().Header().Set(echo.HeaderXRequestID, rand.Text())
		return next(c)
	}
}

func securityHeaders(public *url.URL) echo.MiddlewareFunc {
	fixed := map[string]string{
		"Content-Security-Policy":      policy,
		"X-Content-Type-Options":       "nosniff",
		"Referrer-Policy":              "same-origin",
		"Cross-Origin-Opener-Policy":   "same-origin",
		"Cross-Origin-Resource-Policy": "same-origin",
		"Permissions-Policy":           "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
	}
	if secure(public) {
		fixed["Strict-Transport-Security"] = "max-age=31536000"
	}
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			for k, v := range fixed {
				c.Response().Header().Set(k, v)
			}
			return next(c)
		}
	}
}

// secure reports whether browsers reach the console by https.
func secure(public *url.URL) bool { return public != nil && public.Scheme == "https" }

// measured counts requests by route; the address itself is a tenant's business.
func measured(reg prometheus.Registerer) echo.MiddlewareFunc {
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "openprivatelink_http_request_seconds",
		Help:    "Time to answer a request, by route; event streams excluded.",
		Buckets: []float64{.001, .0025, .005, .01, .03, .1, .3, 1, 3, 10},
	}, []string{"method", "route", "code"})
	reg.MustRegister(seconds)
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			start := time.Now()
			err := next(c)
			if route := c.Path(); route != "/events" {
				seconds.WithLabelValues(c.Request().Method, route, strconv.Itoa(c.Response().Status)).Observe(time.Since(start).Seconds())
			}
			return err
		}
	}
}

// logged writes one line a request, and answers it if it failed, so that the line
// has the code. The query may hold a secret and stays out.
func logged(log *slog.Logger) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			start := time.Now()
			err := next(c)
			if err != nil {
				c.Error(err)
			}
			r := c.Request()
			log.DebugContext(r.Context(), "request", "method", r.Method, "path", r.URL.Path, "code", c.Response().Status,
				"bytes", c.Response().Size, "ms", time.Since(start).Milliseconds(), "addr", c.RealIP(),
				"request_id", c.Response().Header().Get(echo.HeaderXRequestID))
			return nil
		}
	}
}

// recovered makes a panic an internal error with its stack in the log.
func recovered(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		defer func() {
			switch p := recover(); p {
			case nil:
			case http.ErrAbortHandler:
				panic(p)
			default:
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		return next(c)
	}
}

// What a request may take, before anything looks at it. (The event stream sets
// its own times.)
const (
	maxBody  = 1 << 20 // bytes
	readTime = 30 * time.Second
	sendTime = 60 * time.Second
)

// bounded limits the body, and the time to send it and to take the answer.
func bounded(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		rc := http.NewResponseController(c.Response())
		now := time.Now()
		// A connection without deadlines is one of a test.
		_ = rc.SetReadDeadline(now.Add(readTime))
		_ = rc.SetWriteDeadline(now.Add(sendTime))
		if r.ContentLength > maxBody {
			c.Response().Header().Set("Connection", "close") // instead of reading it all
			return echo.NewHTTPError(http.StatusRequestEntityTooLarge, "A request has at most 1 MiB.")
		}
		r.Body = http.MaxBytesReader(c.Response(), r.Body, maxBody)
		return next(c)
	}
}

var forwardedHeaders = []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Protocol", "X-Forwarded-Ssl", "X-Forwarded-Host", "X-Url-Scheme", "X-Real-Ip"}

// forwarded drops what a client says about itself in a proxy's name.
func forwarded(trusted []netip.Prefix) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if !contains(trusted, c.Request().RemoteAddr) {
				for _, h := range forwardedHeaders {
					c.Request().Header.Del(h)
				}
			}
			return next(c)
		}
	}
}

func contains(trusted []netip.Prefix, remote string) bool {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return false // a Unix socket or a test
	}
	for _, p := range trusted {
		if p.Contains(ap.Addr().Unmap()) {
			return true
		}
	}
	return false
}

// clientIP is the peer's address, or what trusted proxies in a row say it is.
func clientIP(trusted []netip.Prefix) echo.IPExtractor {
	if len(trusted) == 0 {
		return echo.ExtractIPDirect()
	}
	opts := []echo.TrustOption{echo.TrustLoopback(false), echo.TrustLinkLocal(false), echo.TrustPrivateNet(false)}
	for _, p := range trusted {
		bits := p.Addr().BitLen()
		opts = append(opts, echo.TrustIPRange(&net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), bits)}))
	}
	return echo.ExtractIPFromXFFHeader(opts...)
}

// sameOrigin refuses writes that another site's page sends with our cookie. It
// refuses through the error handler; clients that are no browsers pass.
func sameOrigin(public *url.URL) echo.MiddlewareFunc {
	p := http.NewCrossOriginProtection()
	if public != nil {
		// Behind a proxy, the host of the request need not be the browser's.
		if err := p.AddTrustedOrigin(public.Scheme + "://" + public.Host); err != nil {
			panic(err) // the configuration has checked the address
		}
	}
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if err := p.Check(c.Request()); err != nil {
				return echo.NewHTTPError(http.StatusForbidden, "This form was sent from another site. Nothing was changed.").SetInternal(err)
			}
			return next(c)
		}
	}
}

// withAssets answers pages with what to do, when the program was built without
// the browser's files.
func withAssets(missing []string) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if len(missing) > 0 && strings.Contains(c.Request().Header.Get("Accept"), "text/html") {
				return page(c, http.StatusServiceUnavailable, layout.MissingAssets(missing))
			}
			return next(c)
		}
	}
}

func page(c echo.Context, code int, t templ.Component) error {
	var b strings.Builder
	if err := t.Render(c.Request().Context(), &b); err != nil {
		return errors.Join(errors.New("render page"), err)
	}
	return c.HTML(code, b.String())
}
