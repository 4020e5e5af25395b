package vpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/net/bpf"
)

// The modes of a driver. Auto stands for the strongest that can be had.
const (
	ModeAuto     = "auto"
	ModeNetns    = "netns"    // namespaces of the host's, pinned: they outlive the engine
	ModeUserns   = "userns"   // the same inside a user namespace, for an ordinary user
	ModeLoopback = "loopback" // parts of 127/8, without isolation
)

// Config of a driver.
type Config struct {
	Installation string       // in every name on the host; 1 to 8 of a-z and 0-9
	Mode         string       // one of the modes above; empty means auto
	Reason       string       // why no stronger mode was taken, for Capabilities
	Dir          string       // where commands start that name no directory; empty means /
	Inherited    *Inheritance // of the program that had this process before; nil: none
	Exec         string       // this program, which is run again as the shim; empty means itself
	Log          *slog.Logger // nil means the default
}

// Errors that callers tell apart.
var (
	ErrNoExec       = errors.New("commands cannot be run in this network mode")
	ErrNoNetwork    = errors.New("no such network")
	ErrNoAttachment = errors.New("no such attachment")
	ErrNoInside     = errors.New("the attachment has no namespace of its own")
	ErrNoRanges     = errors.New("this network mode has no port ranges")
)

// New returns the driver of a mode. In netns and userns mode the process needs
// what [SysProcAttr] gives, and its main thread must be locked before main
// starts (func init() { runtime.LockOSThread() } in package main), so that the
// process as a whole stays in the host's namespace.
func New(cfg Config) (Driver, error) {
	if !validName(cfg.Installation, 8, false) {
		return nil, fmt.Errorf("installation id %q: want 1 to 8 of a-z and 0-9", cfg.Installation)
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Dir == "" {
		cfg.Dir = "/"
	}
	if cfg.Exec == "" {
		cfg.Exec = self()
	}
	if cfg.Mode == ModeAuto || cfg.Mode == "" {
		cfg.Mode, cfg.Reason = strongest()
	}
	switch cfg.Mode {
	case ModeNetns, ModeUserns:
		return newNamespaces(cfg)
	case ModeLoopback:
		return newLoopback(cfg)
	}
	return nil, fmt.Errorf("network mode %q: want auto, netns, userns or loopback", cfg.Mode)
}

// Driver makes networks and the sockets in them. There is one for network
// namespaces (as root or in a user namespace) and one for loopback; everything
// above is the same code for both.
//
// All methods may be called from several goroutines.
type Driver interface {
	// Ensure makes the network what n says, adopting what is there; calling it
	// again changes nothing. It compares n with what it knows to be in force, so
	// it costs what changed, and nothing else is looked at: see Repair. Attachments
	// that cannot be made are reported by id, do not stop the rest and are tried
	// again at each call; err is set if the network itself could not be made.
	Ensure(ctx context.Context, n Network) (attachments map[string]error, err error)
	// Repair looks at the machine itself and makes it once more what the last
	// Ensure asked for, e.g. a device that someone deleted. It answers like Ensure.
	Repair(ctx context.Context, id string) (attachments map[string]error, err error)
	// Remove takes a network away with everything in it.
	Remove(ctx context.Context, id string) error
	// Sweep removes leftovers of this installation that are not among keep, e.g.
	// of an engine that was killed.
	Sweep(ctx context.Context, keep map[string]Network) error

	// Listen listens for TCP inside the network, on an address of Network.Addresses.
	Listen(ctx context.Context, network string, at netip.AddrPort) (net.Listener, error)
	// Dial opens TCP inside the network from local, an address of Network.Addresses.
	Dial(ctx context.Context, network string, local netip.Addr, to netip.AddrPort) (net.Conn, error)
	// DialUDP makes a UDP socket inside the network that speaks with to alone, from
	// local, an address of Network.Addresses. What a peer's machine says of a closed
	// port is an error of the next Read or Write.
	DialUDP(ctx context.Context, network string, local netip.Addr, to netip.AddrPort) (net.Conn, error)
	// DialFrom opens TCP from inside an attachment: what a workload there would see.
	// A published port dials from its address; an interface and a host service have
	// no inside, which is ErrNoInside.
	DialFrom(ctx context.Context, network, attachment string, to netip.AddrPort) (net.Conn, error)
	// Watch calls seen, one call at a time, for first packets of TCP flows that come
	// to the network's own addresses, also for those that a socket's filter drops. It
	// begins with a filter that keeps none, and falls behind rather than be a burden:
	// what it does not get to see within its limits is lost. Only drivers whose
	// Capabilities say Filters have it.
	Watch(ctx context.Context, network string, seen func(Opening)) (Watch, error)
	// Bind makes a non-blocking socket at an address of the network, for a loop that
	// waits by itself: one that listens for TCP, or one for UDP. An empty network is
	// the host's own namespace. The caller closes the descriptor.
	Bind(ctx context.Context, network string, at netip.AddrPort, o SocketOptions) (fd int, err error)
	// Redirect leads new TCP connections to the ports open, of addresses of the
	// network, to whatever listens at [Lobby], and those to closed no more, all in
	// one step. What is open must not overlap. It costs no socket, and connections
	// that stand are left alone. Repair restores it, and it ends with the network.
	// The socket finds by [OriginalDestination] what a client asked for. In loopback
	// mode this is ErrNoRanges.
	Redirect(ctx context.Context, network string, open, closed []Ports) error
	// Thread makes the calling goroutine's thread one that enters networks.
	Thread() (Thread, error)
	// Reach returns the address by which a socket inside the network binds or
	// connects to what the network knows as at: the reverse of Translate.
	Reach(network string, at netip.AddrPort) (netip.AddrPort, error)
	// Translate returns what a peer address seen on a socket means in the network.
	// It is the identity for namespaces; in loopback mode it turns 127/8 back.
	Translate(network string, seen netip.AddrPort) netip.AddrPort
	// Outside returns the address a program on this machine uses for an address of
	// the network, and false if there is none because the network is isolated.
	Outside(network string, at netip.AddrPort) (netip.AddrPort, bool)

	// Start runs a command inside a Managed or Adopted attachment, under a shim that
	// relays signals and reports the exit code. The command finds the attachment's
	// address in OPENPRIVATELINK_ADDRESS. In loopback mode only the attachment's own
	// Command can be started, on its part of 127/8; others get ErrNoExec.
	Start(ctx context.Context, network, attachment string, c Command) error

	// Resume finds a command of the engine's own that a former engine started in the
	// attachment, see Config.Inherited, and calls exited once with its exit code. It
	// is false if there is none.
	Resume(network, attachment string, exited func(code int)) bool
	// Inheritance is what the program that takes this process's place needs to go on
	// with the networks and commands.
	Inheritance() Inheritance

	// Capabilities names what this driver can and cannot do.
	Capabilities() Capabilities
	// Close ends the driver's threads. Namespaces stay if they can outlive it.
	Close() error
}

// Watch is an open [Driver.Watch]. Close ends it before the network is removed.
type Watch interface {
	// Filter makes it see only packets of which program keeps something. Programs
	// begin at the IP header.
	Filter(program []bpf.RawInstruction) error
	Close() error
}

// Opening is the first packet of a flow.
type Opening struct {
	Source, To netip.AddrPort
	Number     uint32 // the flow's own: a packet that is sent again has the same
}

// Ports are those from First to Last at an address.
type Ports struct {
	At          netip.Addr
	First, Last uint16
}

// Lobby is where the connections arrive that [Driver.Redirect] leads. It is an
// address of every network's router, but of no VPC's ranges, which cannot contain
// link-local ones, and nobody gets there by naming it.
var Lobby = netip.MustParseAddrPort("169.254.0.1:1")

// SocketOptions of [Driver.Bind].
type SocketOptions struct {
	Packet bool                 // UDP instead of TCP
	MSS    int                  // largest TCP segment of accepted connections, bytes; 0: the path decides
	Filter []bpf.RawInstruction // from before the first packet on, see SetFilter; none: all pass
}

// Thread is an OS thread that makes sockets in networks. Its goroutine has locked
// it, for life: a thread that has entered a network is of no use to others, and in
// a user namespace it cannot go home. All methods are for that goroutine.
type Thread interface {
	// Enter moves the thread into a network, so that the sockets it makes belong
	// there.
	Enter(network string) error
	// Leave moves it to where it keeps no network alive.
	Leave() error
	// Close lets go of what the thread holds, not of the thread.
	Close()
}

// Inheritance is what a driver leaves to the next one in the same process. Its
// descriptors have to stay open across the exec.
type Inheritance struct {
	Namespaces map[string]int `json:"namespaces,omitempty"` // that nothing but a descriptor holds, by the name of their pin
	Life       [2]int         `json:"life"`                 // the two ends of the pipe that commands live by
	Commands   []Running      `json:"commands,omitempty"`   // children of the process
}

// Descriptors lists those that have to stay open.
func (i Inheritance) Descriptors() []int {
	return append(slices.Collect(maps.Values(i.Namespaces)), i.Life[0], i.Life[1])
}

// Running is a shim that runs.
type Running struct {
	PID        int    `json:"pid"`
	Network    string `json:"network"`
	Attachment string `json:"attachment"`
	Own        bool   `json:"own,omitempty"`  // the engine's own command, not a client's
	Life       bool   `json:"life,omitempty"` // it ends with the engine
}

// Command to run inside an attachment.
type Command struct {
	Args []string
	Env  []string // nil means PATH, HOME and LANG of the engine
	Dir  string   // empty means Config.Dir
	TTY  bool     // Stdio[0] is a terminal and becomes the command's own
	// Capable leaves the command what it takes to forge packets inside its
	// attachment. Only tests of hostile workloads set it.
	Capable bool
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
	Filters  bool // sockets can drop what they refuse, see SetFilter, and Watch sees it
	Adopt    bool // adopted namespaces and host interfaces
	Survives bool // networks outlive a kill -9 of the engine
}
