package forward

import (
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dial tries one server after the other until a connect is under way.
func (s *stream) dial() {
	for s.Reason() == "" {
		t, ok := s.session.Next(&s.Flow)
		if !ok {
			break
		}
		s.preface = t.Preface
		err := s.connect(t)
		if err == nil {
			return
		}
		s.session.Failed(&s.Flow, err)
	}
	s.finish(Reset)
}

// connect begins to connect to t.
func (s *stream) connect(t Target) error {
	l := s.loop
	l.wheel.set(&s.timer, l.now+int64(dialTimeout))
	if t.Network == "" {
		// Only threads that never left it make sockets in the host's namespace.
		l.dials.Go(func() {
			fd, err := socket(t)
			if err == nil {
				err = connect(fd, t.From, t.To)
			}
			l.post(func() {
				if s.gone || err != nil {
					if fd >= 0 {
						closeFile(fd)
					}
					if !s.gone {
						s.fail(err)
					}
					return
				}
				if err := s.connecting(fd); err != nil {
					s.fail(err)
				}
			})
		})
		return nil
	}
	from, there, err := l.reach(t)
	if err != nil {
		return err
	}
	if err := l.enter(t.Network); err != nil {
		return err
	}
	fd, err := socket(t)
	if err != nil {
		return err
	}
	if err := connect(fd, from, there); err != nil {
		closeFile(fd)
		return err
	}
	return s.connecting(fd)
}

// reach returns what a socket in t's network binds and connects to.
func (l *loop) reach(t Target) (from netip.Addr, to netip.AddrPort, err error) {
	if to, err = l.driver.Reach(t.Network, t.To); err != nil || !t.From.IsValid() {
		return netip.Addr{}, to, err
	}
	here, err := l.driver.Reach(t.Network, netip.AddrPortFrom(t.From, 0))
	return here.Addr(), to, err
}

// connecting waits for a connect that is under way.
func (s *stream) connecting(fd int) error {
	server := &s.sides[Out]
	*server = side{flow: s, fd: fd}
	if err := s.watch(server); err != nil {
		closeFile(fd)
		server.fd = -1
		return err
	}
	return nil
}

// fail gives up the server that was tried and tries the next.
func (s *stream) fail(err error) {
	if server := &s.sides[Out]; server.fd >= 0 {
		s.loop.forget(server.fd)
		closeFile(server.fd)
		server.fd = -1
	}
	s.session.Failed(&s.Flow, err)
	s.dial()
}

func socket(t Target) (int, error) {
	family := unix.AF_INET
	if t.To.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, _, errno := syscall.RawSyscall(unix.SYS_SOCKET, uintptr(family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if errno != 0 {
		return -1, os.NewSyscallError("socket", errno)
	}
	if errno := setOption(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); errno != 0 {
		closeFile(int(fd))
		return -1, os.NewSyscallError("setsockopt", errno)
	}
	return int(fd), nil
}

func connect(fd int, from netip.Addr, to netip.AddrPort) error {
	if from.IsValid() {
		// The port is chosen at connect, so that it may serve several destinations.
		if errno := setOption(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); errno != 0 {
			return os.NewSyscallError("setsockopt", errno)
		}
		if errno := withAddress(unix.SYS_BIND, fd, netip.AddrPortFrom(from, 0)); errno != 0 {
			return os.NewSyscallError("bind", errno)
		}
	}
	if errno := withAddress(unix.SYS_CONNECT, fd, to); errno != 0 && errno != unix.EINPROGRESS {
		return os.NewSyscallError("connect", errno)
	}
	return nil
}

// withAddress makes a system call that takes a descriptor and an address.
func withAddress(call uintptr, fd int, a netip.AddrPort) syscall.Errno {
	if a.Addr().Is4() {
		raw := unix.RawSockaddrInet4{Family: unix.AF_INET, Port: bigEndian(a.Port()), Addr: a.Addr().As4()}
		_, _, errno := syscall.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&raw)), unsafe.Sizeof(raw))
		return errno
	}
	raw := unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: bigEndian(a.Port()), Addr: a.Addr().As16()}
	_, _, errno := syscall.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&raw)), unsafe.Sizeof(raw))
	return errno
}

func connectError(fd int) error {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = syscall.Errno(code)
	}
	if err == nil {
		err = unix.ECONNREFUSED
	}
	return os.NewSyscallError("connect", err)
}
