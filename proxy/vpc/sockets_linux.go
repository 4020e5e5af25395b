package vpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A socket belongs for life to the namespace in which socket(2) ran. That call is
// all the thread does here: binding, connecting and waiting happen in the caller's
// goroutine, on the runtime's poller.

func (d *namespaces) Listen(ctx context.Context, network string, at netip.AddrPort) (net.Listener, error) {
	ns, err := d.routerOf(network)
	if err != nil {
		return nil, err
	}
	ln, err := d.listen(ctx, ns, at)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: net.TCPAddrFromAddrPort(at), Err: err}
	}
	return ln, nil
}

func (d *namespaces) listen(ctx context.Context, ns *namespace, at netip.AddrPort) (net.Listener, error) {
	s, err := d.socket(ctx, ns, unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err = control(s, func(fd int) error { return bind(fd, at, SocketOptions{}) }); err != nil {
		return nil, err
	}
	return net.FileListener(s)
}

func (d *namespaces) Bind(ctx context.Context, network string, at netip.AddrPort, o SocketOptions) (fd int, err error) {
	if network == "" {
		return bindHere(at, o)
	}
	ns, err := d.routerOf(network)
	if err == nil {
		err = d.thread.in(ctx, ns, func() error {
			fd, err = bindHere(at, o)
			return err
		})
	}
	if errors.Is(err, os.ErrClosed) { // the network went away meanwhile
		err = ErrNoNetwork
	}
	if err != nil {
		return -1, fmt.Errorf("bind %v: %w", at, err)
	}
	return fd, nil
}

func (d *namespaces) Reach(_ string, at netip.AddrPort) (netip.AddrPort, error) { return at, nil }

func (d *namespaces) Dial(ctx context.Context, network string, local netip.Addr, to netip.AddrPort) (net.Conn, error) {
	ns, err := d.routerOf(network)
	if err != nil {
		return nil, err
	}
	return d.dial(ctx, ns, local, to)
}

func (d *namespaces) DialUDP(ctx context.Context, network string, local netip.Addr, to netip.AddrPort) (net.Conn, error) {
	ns, err := d.routerOf(network)
	if err != nil {
		return nil, err
	}
	c, err := d.connectUDP(ctx, ns, local, to)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "udp", Addr: net.UDPAddrFromAddrPort(to), Err: err}
	}
	return c, nil
}

func (d *namespaces) connectUDP(ctx context.Context, ns *namespace, local netip.Addr, to netip.AddrPort) (net.Conn, error) {
	s, err := d.socket(ctx, ns, unix.SOCK_DGRAM)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	err = control(s, func(fd int) error {
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(local, 0))); err != nil {
			return os.NewSyscallError("bind", err)
		}
		return os.NewSyscallError("connect", unix.Connect(fd, sockaddr(to)))
	})
	if err != nil {
		return nil, err
	}
	return net.FileConn(s)
}

func (d *namespaces) DialFrom(ctx context.Context, network, attachment string, to netip.AddrPort) (net.Conn, error) {
	if a := d.attachment(network, attachment); a.Kind == PublishedPort {
		return d.Dial(ctx, network, a.Address, to)
	}
	ns, done, err := d.inside(network, attachment)
	if err != nil {
		return nil, err
	}
	defer done()
	return d.dial(ctx, ns, netip.Addr{}, to)
}

// dial connects from local, or from whatever address ns takes if local is none.
func (d *namespaces) dial(ctx context.Context, ns *namespace, local netip.Addr, to netip.AddrPort) (net.Conn, error) {
	c, err := d.connect(ctx, ns, local, to)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	return c, nil
}

func (d *namespaces) connect(ctx context.Context, ns *namespace, local netip.Addr, to netip.AddrPort) (net.Conn, error) {
	if !to.Addr().Is4() {
		return nil, os.NewSyscallError("connect", unix.EAFNOSUPPORT)
	}
	s, err := d.socket(ctx, ns, unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	defer context.AfterFunc(ctx, func() { _ = s.SetWriteDeadline(time.Unix(1, 0)) })()
	err = control(s, func(fd int) error {
		if local.IsValid() {
			// The port is chosen at connect, so that it may serve several destinations.
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
				return os.NewSyscallError("setsockopt", err)
			}
			if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(local, 0))); err != nil {
				return os.NewSyscallError("bind", err)
			}
		}
		if err := unix.Connect(fd, sockaddr(to)); err != nil && err != unix.EINPROGRESS {
			return os.NewSyscallError("connect", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := connected(s); err != nil {
		return nil, cmp.Or(ctx.Err(), err)
	}
	c, err := net.FileConn(s)
	if err != nil {
		return nil, err
	}
	switch there := c.RemoteAddr(); {
	case there == nil: // reset since
		err = unix.ECONNRESET
	case there.String() == c.LocalAddr().String(): // met itself, because nobody listens there
		err = unix.ECONNREFUSED
	default:
		return c, nil
	}
	c.Close()
	return nil, os.NewSyscallError("connect", err)
}

// connected waits until a socket that is connecting has done so, within its write
// deadline.
func connected(s *os.File) error {
	rc, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = rc.Write(func(fd uintptr) (done bool) {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = unix.Errno(code)
		}
		if err == nil {
			if _, err = unix.Getpeername(int(fd)); err == unix.ENOTCONN {
				return false // the wake-up was about something else
			}
		}
		result = os.NewSyscallError("connect", err)
		return true
	})
	return errors.Join(err, result)
}

// socket makes a socket in ns, of the kind for TCP or UDP.
func (d *namespaces) socket(ctx context.Context, ns *namespace, kind int) (s *os.File, err error) {
	err = d.thread.in(ctx, ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		// On dialled TCP sockets too: else their ports would be barred to listeners.
		if kind == unix.SOCK_STREAM {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
				unix.Close(fd)
				return os.NewSyscallError("setsockopt", err)
			}
		}
		s = os.NewFile(uintptr(fd), "socket")
		return nil
	})
	if errors.Is(err, os.ErrClosed) { // the network went away meanwhile
		err = ErrNoNetwork
	}
	return s, err
}

func control(s *os.File, f func(fd int) error) error {
	rc, err := s.SyscallConn()
	if err != nil {
		return err
	}
	if e := rc.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil {
		return e
	}
	return err
}

// routerOf returns the namespace of a network's router.
func (d *namespaces) routerOf(network string) (*namespace, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if r := d.networks[network]; r != nil && r.ns != nil {
		return r.ns, nil
	}
	return nil, fmt.Errorf("network %s: %w", network, ErrNoNetwork)
}

// attachment returns an attachment as of the last pass, or the zero one.
func (d *namespaces) attachment(network, id string) Attachment {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if r := d.networks[network]; r != nil {
		return r.attachments[id]
	}
	return Attachment{}
}

// inside returns the namespace of an attachment; done lets go of it.
func (d *namespaces) inside(network, attachment string) (ns *namespace, done func(), err error) {
	a := d.attachment(network, attachment)
	err = ErrNoInside
	switch a.Kind {
	case "":
		err = ErrNoAttachment
	case Adopted:
		if ns, err = d.adopt(a); err == nil {
			return ns, ns.close, nil
		}
	case Managed:
		d.mu.RLock()
		r := d.networks[network]
		if r != nil && r.places[attachment] != nil {
			ns = r.places[attachment].ns
		}
		d.mu.RUnlock()
		if ns != nil {
			return ns, func() {}, nil
		}
		err = ErrNoAttachment // it could not be made
	}
	return nil, nil, fmt.Errorf("attachment %s of network %s: %w", attachment, network, err)
}
