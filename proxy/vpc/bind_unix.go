//go:build unix

package vpc

import (
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// backlog of listeners; the kernel bounds it by net.core.somaxconn.
const backlog = 4096

// bindHere makes a socket where the calling thread is.
func bindHere(at netip.AddrPort, o SocketOptions) (fd int, err error) {
	kind := unix.SOCK_STREAM
	if o.Packet {
		kind = unix.SOCK_DGRAM
	}
	family := unix.AF_INET
	if at.Addr().Is6() {
		family = unix.AF_INET6
	}
	syscall.ForkLock.RLock()
	fd, err = unix.Socket(family, kind, 0)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err = os.NewSyscallError("setnonblock", unix.SetNonblock(fd, true)); err == nil {
		if err = setup(fd, o); err == nil {
			err = bind(fd, at, o)
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// setup sets what accepted connections inherit.
func setup(fd int, o SocketOptions) error {
	if o.Packet {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if o.MSS > 0 {
		const least = 88 // Linux refuses less
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, max(o.MSS, least)))
	}
	return nil
}

// bind binds fd, and makes it listen unless it is for packets.
func bind(fd int, at netip.AddrPort, o SocketOptions) error {
	if err := unix.Bind(fd, sockaddr(at)); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if len(o.Filter) > 0 {
		if err := SetFilter(fd, o.Filter); err != nil {
			return err
		}
	}
	if o.Packet {
		return nil
	}
	return os.NewSyscallError("listen", unix.Listen(fd, backlog))
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if !a.Addr().Is4() {
		return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())} // refused by a socket of IPv4's
	}
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}
