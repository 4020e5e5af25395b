package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/handlers"
	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/reconcile"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

const (
	// Limits of a browser's connection: nobody holds one by sending or taking
	// slowly. The event stream sets its own.
	readTimeout  = 30 * time.Second
	writeTimeout = 60 * time.Second
	idleTimeout  = 2 * time.Minute
	maxHeader    = 64 << 10 // bytes

	// gcPercent keeps the heap small: pages are short-lived garbage.
	gcPercent = 50

	// httpGrace is how long answers in progress may take when the server ends.
	httpGrace = 5 * time.Second
	// stopGrace is how long the engine may take to remove its networks.
	stopGrace = 10 * time.Second
	// housekeepEvery is how often what has expired is removed.
	housekeepEvery = 10 * time.Minute
	// expireEvery is how late an approval that carries an end may end.
	expireEvery = time.Second
)

func serveCommand() *cobra.Command {
	c := &config{}
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the console and the engine (the default)", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.serve(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	dataFlag(cmd.Flags(), c)
	databaseFlag(cmd.Flags(), c)
	serveFlags(cmd.Flags(), c)
	return cmd
}

// serve runs until ctx ends or somebody asks it to stop.
func (c *config) serve(ctx context.Context, out, errOut io.Writer) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.logLevel)); err != nil {
		return fmt.Errorf("--log-level: %q is none of debug, info, warn, error", c.logLevel)
	}
	log := slog.New(slog.NewTextHandler(errOut, &slog.HandlerOptions{Level: level}))
	if err := c.complete(); err != nil {
		return err
	}
	proxies, err := c.proxies()
	if err != nil {
		return err
	}
	debug.SetGCPercent(gcPercent)
	lock, err := lockData(c.data)
	if err != nil {
		return fmt.Errorf("%s: %w", c.data, err)
	}
	defer lock.Close()
	ln, err := net.Listen("tcp", c.listen) //nolint:noctx // it ends with the server
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	defer ln.Close()
	c.listen = ln.Addr().String()
	var metrics net.Listener
	if c.metrics != "" {
		if metrics, err = net.Listen("tcp", c.metrics); err != nil { //nolint:noctx // it ends with the server
			return fmt.Errorf("--metrics-listen: %w", err)
		}
		defer metrics.Close()
	}
	public, err := c.public()
	if err != nil {
		return err
	}
	mode, reason, err := c.networkMode()
	if err != nil {
		return err
	}

	store, err := c.open(ctx, log)
	if err != nil {
		return err
	}
	defer store.Close()
	a := newAdmin(store, public)
	installation, err := a.op.Installation(ctx)
	if err != nil {
		return err
	}
	engine, err := proxy.Start(ctx, proxy.StartConfig{
		Dir: c.engineDir(), Mode: mode, Reason: reason, Installation: installation, Version: version, Window: c.flowWindow, Log: log,
	})
	if err != nil {
		return fmt.Errorf("start the engine: %w", err)
	}
	defer engine.Close()
	loop := &reconcile.Loop{Source: store.System(), Engine: engine, Log: log}
	store.UseDataPlane(loop)
	a.engine = engine
	greeting, err := c.firstStart(ctx, store, a)
	if err != nil {
		return err
	}

	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), loop)
	console, err := handlers.New(handlers.Config{ //nolint:contextcheck // requests bring contexts of their own
		Store: store, Metrics: registry, SessionKeys: c.sessionKey, PublicURL: c.publicAddress(public), TrustedProxies: proxies,
		NetworkMode: mode, NetworkReason: reason, Version: version, Log: log,
	})
	if err != nil {
		return err
	}
	control, err := listenControl(c.controlPath())
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	defer control.Close()

	run, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGHUP, syscall.SIGTERM)
	defer signal.Stop(signals)
	srv := &http.Server{
		Handler: console, ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	group, gctx := errgroup.WithContext(run)
	group.Go(func() error { return loop.Run(gctx) })
	group.Go(func() error { return console.Run(gctx) })
	group.Go(func() error { return serveControl(gctx, control, a, func(why error) { end(why) }, log) })
	group.Go(func() error { return keepHouse(gctx, store.System(), log) })
	if metrics != nil {
		group.Go(func() error { return serveMetrics(gctx, metrics, registry) })
	}
	group.Go(func() error {
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		for gctx.Err() == nil {
			select {
			case s := <-signals:
				switch {
				case s == syscall.SIGTERM: // from a service manager
					end(errRestart)
				case s == syscall.SIGHUP && !term.IsTerminal(int(os.Stdin.Fd())): // from an administrator
					next, err := upgradeInPlace(gctx, engine, log)
					if err != nil {
						log.Error("upgrade", "err", err)
						continue
					}
					end(next)
				default: // from a terminal
					end(errStop)
				}
			case <-gctx.Done():
			}
		}
		return nil
	})
	group.Go(func() error {
		<-gctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(gctx), httpGrace)
		defer cancel()
		if err := srv.Shutdown(grace); err != nil {
			return srv.Close()
		}
		return nil
	})
	fmt.Fprint(out, greeting)
	debug.FreeOSMemory() // migrations, password hashes and the demo took more than serving does
	shedProgram()        // the same of its code
	log.Info("serving", "url", public.String(), "network", mode, "database", databaseKind(c.database), "installation", installation, "version", version)
	err = group.Wait()
	if errors.Is(context.Cause(run), errStop) {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
		defer cancel()
		if serr := engine.Stop(grace); serr != nil {
			return errors.Join(err, fmt.Errorf("stop the engine: %w", serr))
		}
	}
	if next, ok := errors.AsType[*successor](context.Cause(run)); ok && err == nil {
		next.listen = c.listen
		return next
	}
	return err
}

// serveMetrics answers Prometheus until ctx ends.
func serveMetrics(ctx context.Context, ln net.Listener, registry *prometheus.Registry) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout}
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Why a server ends: for good, together with its engine, because a command or a
// terminal said so; or for a restart, which the engine does not notice.
var (
	errStop    = errors.New("asked to stop")
	errRestart = errors.New("asked to end by a service manager")
)

// networkMode resolves --network.
func (c *config) networkMode() (mode, reason string, err error) {
	switch c.network {
	case "auto", "netns", "userns", "loopback":
	default:
		return "", "", fmt.Errorf("--network: %q is none of auto, netns, userns, loopback", c.network)
	}
	return vpc.Probe(c.network)
}

// publicAddress is how browsers reach the console, or nil if they may say so themselves.
func (c *config) publicAddress(u *url.URL) *url.URL {
	if c.publicURL == "" {
		return nil
	}
	return u
}

func databaseKind(dsn string) string {
	if strings.HasPrefix(dsn, "postgres") {
		return "postgresql"
	}
	return "sqlite"
}

// keepHouse ends what has an end and removes what has expired.
func keepHouse(ctx context.Context, sys *domain.System, log *slog.Logger) error {
	expire, clean := time.NewTicker(expireEvery), time.NewTicker(housekeepEvery)
	defer expire.Stop()
	defer clean.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-expire.C:
			err = sys.Expire(ctx)
		case <-clean.C:
			err = sys.Housekeep(ctx)
		}
		if err != nil && ctx.Err() == nil {
			log.ErrorContext(ctx, "housekeeping", "err", err)
		}
	}
}

// firstStart fills an empty store, if it shall be a demo, and returns what to
// print: one block with the address and, where there is somebody to sign in, a link.
func (c *config) firstStart(ctx context.Context, store *domain.Store, a *admin) (string, error) {
	up := fmt.Sprintf("\nOpenPrivateLink is up   %s\n", a.links("/"))
	if !c.demo {
		token, err := a.op.FirstSignIn(ctx)
		if err != nil || token == "" {
			return up + "\n", err
		}
		if err := firstPlace(ctx, a.op); err != nil {
			return "", err
		}
		return up + signIn("the operator", a.welcome(token)) + "Later: openprivatelink user sign-in-link operator\n\n", nil
	}
	empty, err := a.op.Empty(ctx)
	if err != nil {
		return "", err
	}
	password, given := os.LookupEnv("OPENPRIVATELINK_DEMO_PASSWORD")
	if empty {
		if !given {
			password = strings.ToLower(rand.Text()[:16])
		}
		if err := seedDemo(ctx, store, password); err != nil {
			return "", fmt.Errorf("fill the demo: %w", err)
		}
	}
	token, err := a.op.SignInLink(ctx, demoUser)
	if domain.KindOf(err) == domain.NotFound {
		return up + "This store has accounts of its own, so --demo added nothing.\n\n", nil
	}
	if err != nil {
		return "", err
	}
	block := up + signIn("demo", a.welcome(token)) +
		"Demo: acme-payments (provider, 10.0.0.0/16)  ->  northwind-shop (consumer, 10.0.0.0/16, the same range)\n"
	if empty && !given {
		block += fmt.Sprintf("Password of the users demo, mara, jorge and tess, shown only now: %s\n", password)
	}
	return block + "Try: make demo-curl     # from inside the consumer's VPC, once the connection is accepted\n\n", nil
}

// firstPlace makes a region with two zones where there is none: nobody can make a
// VPC without one. The operator adds others, with names of their own.
func firstPlace(ctx context.Context, op *domain.Operator) error {
	have, err := op.Regions(ctx)
	if err != nil || len(have) > 0 {
		return err
	}
	const region = "local"
	if _, err := op.CreateRegion(ctx, domain.RegionInput{ID: region, Name: "This machine"}); err != nil {
		return fmt.Errorf("make the first region: %w", err)
	}
	for _, zone := range []string{"a", "b"} {
		if _, err := op.CreateZone(ctx, domain.ZoneInput{ID: region + "-" + zone, RegionID: region, Name: "Zone " + zone}); err != nil {
			return fmt.Errorf("make the first zones: %w", err)
		}
	}
	return nil
}

func signIn(who, link string) string {
	return fmt.Sprintf("Sign in as %s, once, within 10 minutes: %s\n", who, link)
}

func stopCommand() *cobra.Command {
	c := &config{}
	cmd := &cobra.Command{
		Use: "stop", Short: "Stop the server and its engine, and remove the networks", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.complete(); err != nil {
				return err
			}
			var pid int
			err := remote(cmd.Context(), c.controlPath(), "stop", none{}, &pid)
			if errors.Is(err, errNoServer) { // the engine may run alone
				return stopAlone(cmd.Context(), c.engineDir())
			}
			if err != nil {
				return err
			}
			return waitUnlocked(cmd.Context(), c.data)
		},
	}
	dataFlag(cmd.Flags(), c)
	return cmd
}

// stopAlone ends an engine that no server watches, if there is one.
func stopAlone(ctx context.Context, dir string) error {
	err := proxy.StopEngine(ctx, dir)
	if errors.Is(err, proxy.ErrAway) {
		return nil
	}
	return err
}

// waitUnlocked returns when no server holds the data folder any more.
func waitUnlocked(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		lock, err := lockData(dir)
		if err == nil {
			return lock.Close()
		}
		if !errors.Is(err, errLocked) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.New("the server has not ended after 20 s")
		case <-time.After(20 * time.Millisecond):
		}
	}
}
