package vpc

import (
	"context"
	"net"
	"net/netip"
	"os"
)

// Driver makes networks and the sockets in them. There is one for network
// namespaces (as root or in a user namespace) and one for loopback; everything
// above is the same code for both.
//
// All methods may be called from several goroutines.
type Driver interface {
	// Ensure makes the network what n says, repairing and adopting what is there;
	// calling it again changes nothing. Attachments that cannot be made are
	// reported by id and do not stop the rest; err is set if the network itself
	// could not be made.
	Ensure(ctx context.Context, n Network) (attachments map[string]error, err error)
	// Remove takes a network away with everything in it.
	Remove(ctx context.Context, id string) error
	// Sweep removes leftovers of this installation that are not among keep, e.g.
	// of an engine that was killed.
	Sweep(ctx context.Context, keep map[string]Network) error

	// Listen listens for TCP inside the network, on an address of Network.Addresses.
	Listen(ctx context.Context, network string, at netip.AddrPort) (net.Listener, error)
	// Dial opens TCP inside the network from local, an address of Network.Addresses.
	Dial(ctx context.Context, network string, local netip.Addr, to netip.AddrPort) (net.Conn, error)
	// DialFrom opens TCP from inside an attachment: what a workload there would see.
	DialFrom(ctx context.Context, network, attachment string, to netip.AddrPort) (net.Conn, error)
	// Translate returns what a peer address seen on a socket means in the network.
	// It is the identity for namespaces; in loopback mode it turns 127/8 back.
	Translate(network string, seen netip.AddrPort) netip.AddrPort
	// Outside returns the address a program on this machine uses for an address of
	// the network, and false if there is none because the network is isolated.
	Outside(network string, at netip.AddrPort) (netip.AddrPort, bool)

	// Start runs a command inside an attachment, under a shim that relays signals
	// and reports the exit code. It fails in loopback mode with ErrNoExec, except
	// for commands of the demo, which are told their address in the environment.
	Start(ctx context.Context, network, attachment string, c Command) error

	// Capabilities names what this driver can and cannot do.
	Capabilities() Capabilities
	// Close ends the driver's threads. Namespaces stay if they can outlive it.
	Close() error
}

// Command to run inside an attachment.
type Command struct {
	Args []string
	Env  []string
	Dir  string
	TTY  bool
	// Stdio are the command's standard input, output and error. Start duplicates
	// them; the caller keeps its own.
	Stdio [3]*os.File
	// Control is the client's connection: the shim reads signals from it and writes
	// the exit code to it, so that neither touches the engine. nil: the command is
	// the engine's own and ends with it.
	Control *os.File
	// Exited, if set, is called once with the exit code (128+n for signal n) where
	// Control is nil.
	Exited func(code int)
}

// Capabilities of a driver.
type Capabilities struct {
	Mode     string // netns, userns or loopback
	Reason   string // why no stronger mode was taken; empty for netns
	Isolated bool   // VPCs are apart from each other and from the host
	Exec     bool
	Adopt    bool // adopted namespaces and host interfaces
	Survives bool // networks outlive a kill -9 of the engine
}
