package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/openprivatelink/openprivatelink/proxy"
)

// upgradeTimeout bounds the hand-over of an engine's flows.
const upgradeTimeout = time.Minute

func upgradeCommand() *cobra.Command {
	c := &config{}
	cmd := &cobra.Command{
		Use: "upgrade", Short: "Put this program in the place of the running engine and server; flows go on", Args: cobra.NoArgs,
		Long: `Put this program in the place of the engine and the server that run on a data folder.

Listeners, live flows, networks and commands go on in the new engine, and limits,
records and revocation hold for them as before. If this program could not go on
from what the old one hands over, nothing changes. SIGHUP to a server without a
terminal does the same with the program at the server's own path.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.complete(); err != nil {
				return err
			}
			program, err := thisProgram()
			if err != nil {
				return err
			}
			engine := proxy.Dial(proxy.Socket(c.engineDir()))
			defer engine.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), upgradeTimeout)
			defer cancel()
			status, err := engine.Upgrade(ctx, program)
			if errors.Is(err, proxy.ErrAway) {
				return fmt.Errorf("no engine runs on %s: start one with openprivatelink serve", c.data)
			}
			if err != nil {
				return fmt.Errorf("upgrade the engine: %w", err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "The engine is version %s now; %d flows went on.\n", status.Version, status.Flows)
			var pid int
			err = remote(ctx, c.controlPath(), "upgrade", program, &pid)
			if errors.Is(err, errNoServer) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("upgrade the server: %w", err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "The server, process %d, starts again as version %s.\n", pid, version)
			return nil
		},
	}
	dataFlag(cmd.Flags(), c)
	return cmd
}

// thisProgram is the file of this program, also if another has taken its name.
func thisProgram() (string, error) {
	path, err := os.Executable()
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	return path, nil
}

// successor ends a server: its program is to take the process.
type successor struct {
	program string
	listen  string // where the server listens, which may have been left to the system
}

func (s *successor) Error() string { return "asked to make room for " + s.program }

// run starts the program with the server's own arguments. It returns only if that
// fails.
func (s *successor) run() error {
	return fmt.Errorf("run %s: %w", s.program, syscall.Exec(s.program, slices.Concat([]string{s.program}, os.Args[1:], []string{"--listen", s.listen}), os.Environ()))
}

// checkProgram refuses what cannot be run at all.
func checkProgram(path string) error {
	info, err := os.Stat(path)
	switch {
	case !filepath.IsAbs(path):
		return fmt.Errorf("program %q: want an absolute path", path)
	case err != nil:
		return fmt.Errorf("program: %w", err)
	case !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0:
		return fmt.Errorf("program %s: it cannot be run", path)
	}
	return nil
}

// upgradeInPlace replaces the engine by the program that has this one's path now, and
// returns why this server is to end. On an error everything goes on.
func upgradeInPlace(ctx context.Context, engine *proxy.Process, log *slog.Logger) (*successor, error) {
	program, err := thisProgram()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, upgradeTimeout)
	defer cancel()
	status, err := engine.Upgrade(ctx, program)
	if err != nil {
		return nil, err
	}
	log.InfoContext(ctx, "engine upgraded", "version", status.Version, "flows", status.Flows)
	return &successor{program: program}, nil
}
