package vpc

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// probeTimeout bounds each attempt of Probe.
const probeTimeout = 10 * time.Second

func self() string { return "/proc/self/exe" } // also once the file has been replaced

// SysProcAttr is what the engine's process needs to be started with in a mode. In
// a user namespace the user stays who he is, and gets as ambient capabilities,
// good for namespaces of his own making only, what the driver needs.
func SysProcAttr(mode string) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if mode == ModeUserns {
		uid, gid := os.Getuid(), os.Getgid()
		attr.Cloneflags = syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		attr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE}
	}
	return attr
}

// Probe says which mode an engine that this process starts can have: mode itself,
// or for auto the strongest, with the reason why it is not a stronger one, a
// sentence. A mode asked for by name that cannot be is an error that says what to
// do. Probe finds out by making a small network and taking it away again; for
// userns in a child that runs this program with the argument "probe-userns", whose
// main is [ProbeMain].
func Probe(mode string) (resolved, reason string, err error) {
	attempts := []struct {
		mode, cannot string
		try          func() error
	}{
		{ModeNetns, "This process may not make network namespaces", func() error { return attempt(ModeNetns) }},
		{ModeUserns, "an ordinary user may not either", attemptUserns},
	}
	if mode == ModeLoopback {
		return mode, "It was asked for.", nil
	}
	var reasons []string
	for _, a := range attempts {
		if mode != a.mode && mode != ModeAuto && mode != "" {
			continue
		}
		err := a.try()
		if err == nil {
			return a.mode, sentence(reasons), nil
		}
		if mode == a.mode {
			return "", "", fmt.Errorf("network mode %s cannot be had here: %w; %s", mode, err, advice(mode, err))
		}
		reasons = append(reasons, fmt.Sprintf("%s (%v)", a.cannot, err))
	}
	if len(reasons) == 0 {
		return "", "", fmt.Errorf("network mode %q: want auto, netns, userns or loopback", mode)
	}
	return ModeLoopback, sentence(reasons), nil
}

func sentence(reasons []string) string {
	if len(reasons) == 0 {
		return ""
	}
	return strings.Join(reasons, ", and ") + "."
}

// advice says what would make a mode possible.
func advice(mode string, err error) string {
	switch {
	case errors.Is(err, unix.EROFS):
		return "make /proc/sys writable, e.g. docker run --security-opt systempaths=unconfined"
	case mode == ModeNetns:
		return "run as root or give CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW and CAP_NET_BIND_SERVICE, or take --network userns"
	case setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
		return "allow it by sysctl kernel.apparmor_restrict_unprivileged_userns=0, run as root, or take --network loopback"
	case setting("/proc/sys/kernel/unprivileged_userns_clone") == "0":
		return "allow it by sysctl kernel.unprivileged_userns_clone=1, run as root, or take --network loopback"
	case setting("/proc/sys/user/max_user_namespaces") == "0":
		return "allow it by sysctl user.max_user_namespaces, run as root, or take --network loopback"
	}
	return "run as root, or take --network loopback"
}

func setting(path string) string {
	b, _ := os.ReadFile(path)
	return strings.TrimSpace(string(b))
}

// strongest is Probe for this process itself.
func strongest() (mode, reason string) {
	var reasons []string
	for _, m := range []string{ModeNetns, ModeUserns} {
		err := attempt(m)
		if err == nil {
			return m, sentence(reasons)
		}
		reasons = append(reasons, fmt.Sprintf("No %s (%v)", m, err))
	}
	return ModeLoopback, sentence(reasons)
}

// attempt makes a network in this process and takes it away.
func attempt(mode string) error {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	d, err := newNamespaces(Config{
		Installation: "probe" + strconv.Itoa(os.Getpid()), Mode: mode, Dir: "/", Exec: self(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	defer d.Close()
	cidr := netip.MustParsePrefix("10.0.0.0/30")
	n := Network{
		ID: "probe", CIDRs: []netip.Prefix{cidr}, VSwitches: []VSwitch{{ID: "probe", CIDR: cidr}},
		Attachments: map[string]Attachment{"probe": {ID: "probe", Kind: Managed, VSwitch: "probe", Address: netip.MustParseAddr("10.0.0.2")}},
	}
	attachments, err := d.Ensure(ctx, n)
	return errors.Join(err, attachments["probe"], d.Remove(ctx, n.ID))
}

// attemptUserns is attempt in a child that has a user namespace.
func attemptUserns() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*probeTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, self(), "probe-userns")
	cmd.SysProcAttr = SysProcAttr(ModeUserns)
	out, err := cmd.CombinedOutput()
	if _, ran := errors.AsType[*exec.ExitError](err); ran {
		line, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
		return errors.New(cmp.Or(string(line), err.Error()))
	}
	if err != nil {
		return fmt.Errorf("make a user namespace: %w", err)
	}
	return nil
}

// ProbeMain is the hidden subcommand "probe-userns": it returns 0 if a network can
// be made in this process, and otherwise says why not.
func ProbeMain() int {
	if err := attempt(ModeUserns); err != nil {
		fmt.Fprintln(os.Stdout, strings.ReplaceAll(err.Error(), "\n", "; "))
		return 1
	}
	return 0
}
