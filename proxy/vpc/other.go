//go:build unix && !linux

package vpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/net/bpf"
)

const onlyLinux = "Network namespaces are Linux's."

func self() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

func newNamespaces(cfg Config) (Driver, error) {
	return nil, fmt.Errorf("network mode %s: %s", cfg.Mode, onlyLinux)
}

func strongest() (mode, reason string) { return ModeLoopback, onlyLinux }

// Probe says which mode an engine can have; here that is loopback.
func Probe(mode string) (resolved, reason string, err error) {
	switch mode {
	case ModeAuto, "", ModeLoopback:
		return ModeLoopback, onlyLinux, nil
	}
	return "", "", fmt.Errorf("network mode %s cannot be had here: %s Take --network loopback", mode, onlyLinux)
}

// ProbeMain is never run here.
func ProbeMain() int { return 1 }

// SysProcAttr is what the engine's process needs to be started with.
func SysProcAttr(string) *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// KillLeftovers has nothing to do: commands end with their engine.
func KillLeftovers(string) int { return 0 }

// SetFilter is Linux's.
func SetFilter(int, []bpf.RawInstruction) error { return errors.ErrUnsupported }

// Exec fails with ErrNoExec.
func Exec(context.Context, *net.UnixConn, [3]*os.File, func(tty bool) any) (int, error) {
	return 0, ErrNoExec
}

// OriginalDestination is of redirected connections, which there are none of.
func OriginalDestination(int) netip.AddrPort { return netip.AddrPort{} }
