package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// config is what the operator says at the command line or in the environment.
type config struct {
	listen       string // address of the console
	metrics      string // address of the figures for Prometheus; "" is none
	data         string // folder of everything that is kept
	database     string // path of a SQLite file or a PostgreSQL DSN; "" is data/openprivatelink.db
	network      string // auto, netns, userns, loopback
	demo         bool
	strictRanges bool
	publicURL    string
	trustedProxy []string
	logLevel     string
	flowWindow   time.Duration // a flow that goes on gets a record for each
}

// dataFlag adds the one flag that every command has.
func dataFlag(f *pflag.FlagSet, c *config) {
	f.StringVar(&c.data, "data", "data", "folder of the database, keys, the engine's state and the control socket")
}

// databaseFlag is for commands that may open the store themselves.
func databaseFlag(f *pflag.FlagSet, c *config) {
	f.StringVar(&c.database, "database", "", "SQLite file, or a DSN that begins with postgres:// (default: openprivatelink.db in the data folder)")
}

func serveFlags(f *pflag.FlagSet, c *config) {
	f.StringVar(&c.listen, "listen", "127.0.0.1:8080", "address of the console")
	f.StringVar(&c.metrics, "metrics-listen", "", "address that answers GET /metrics for Prometheus; it tells of every account, so no tenant may reach it (default: none)")
	f.StringVar(&c.network, "network", "auto", "how VPCs are made: netns (root), userns (ordinary user), loopback (no isolation), or auto: the first that works")
	f.BoolVar(&c.demo, "demo", false, "fill an empty store with two accounts, two VPCs with the same addresses, and a service that waits for approval")
	f.BoolVar(&c.strictRanges, "strict-ranges", true, "limit the bandwidth of connections only by what the API documents for each kind of load balancer, not from 1 Mbit/s on")
	f.StringVar(&c.publicURL, "public-url", "", "address that browsers use, if it is another than --listen, e.g. https://links.example.com")
	f.StringSliceVar(&c.trustedProxy, "trusted-proxy", nil, "address or CIDR of a reverse proxy whose X-Forwarded-For and X-Forwarded-Proto are believed; may be repeated")
	f.DurationVar(&c.flowWindow, "flow-window", 10*time.Minute, "how often a flow that goes on is recorded: 1m, 5m or 10m; holds from the engine's next start")
	f.StringVar(&c.logLevel, "log-level", "info", "debug, info, warn or error")
}

// fromEnvironment sets each flag that was not given from OPENPRIVATELINK_ and its
// name in capitals, e.g. OPENPRIVATELINK_PUBLIC_URL.
func fromEnvironment(cmd *cobra.Command, _ []string) error {
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		name := "OPENPRIVATELINK_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if v, ok := os.LookupEnv(name); ok && !f.Changed {
			if err := cmd.Flags().Set(f.Name, v); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
		}
	})
	return errors.Join(errs...)
}

// complete checks what the flags say and fills in what follows from it.
func (c *config) complete() error {
	var err error
	if c.data, err = filepath.Abs(c.data); err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	if err := os.MkdirAll(c.data, 0o700); err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	switch c.flowWindow {
	case 0, time.Minute, 5 * time.Minute, 10 * time.Minute: // 0: a command without the flag
	default:
		return fmt.Errorf("--flow-window: %v is none of 1m, 5m, 10m", c.flowWindow)
	}
	if c.database == "" {
		c.database = filepath.Join(c.data, "openprivatelink.db")
	}
	return nil
}

// public is the address that links in answers begin with.
func (c *config) public() (*url.URL, error) {
	if c.publicURL == "" {
		return &url.URL{Scheme: "http", Host: c.listen}, nil
	}
	u, err := url.Parse(c.publicURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return nil, fmt.Errorf("--public-url: %q is not of the form https://host or https://host:port", c.publicURL)
	}
	u.Path = ""
	return u, nil
}

// proxies parses the trusted proxies.
func (c *config) proxies() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range c.trustedProxy {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, aerr := netip.ParseAddr(s)
			if aerr != nil {
				return nil, fmt.Errorf("--trusted-proxy: %q is neither an address nor a CIDR", s)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		out = append(out, p)
	}
	return out, nil
}

// secret is the key that encrypts secrets at rest. Who has a backup of the
// database without it has no secrets.
func (c *config) secret() ([]byte, error) { return keyFile(c.secretPath(), secretSize) }

// sessionKey is the key that signs cookies.
func (c *config) sessionKey() ([]byte, error) {
	return keyFile(filepath.Join(c.data, "session.key"), sessionKeySize)
}

// keyFile reads a random key of n bytes from a file, or makes it.
func keyFile(path string, n int) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		b = make([]byte, n)
		if _, err := rand.Read(b); err != nil {
			return nil, fmt.Errorf("make key: %w", err)
		}
		return b, writeFile(path, b)
	}
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	if len(b) != n {
		return nil, fmt.Errorf("%s holds %d bytes, want %d: it is not the key", path, len(b), n)
	}
	return b, nil
}

// engineDir is where the engine keeps its state, socket and log.
func (c *config) engineDir() string { return filepath.Join(c.data, "engine") }

func (c *config) secretPath() string { return filepath.Join(c.data, "secret.key") }

const (
	secretSize     = 32
	sessionKeySize = 64
)

// writeFile writes a private file so that it is there whole or not at all.
func writeFile(path string, b []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, path)
}
