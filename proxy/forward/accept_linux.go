package forward

import (
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

const (
	acceptsOnce = 16 // connections that one event accepts

	// A loop that has so many flows more than another, or an eighth of its own, gives
	// new ones away.
	imbalance = 1
)

// acceptor is a listening socket that all loops wait for; the kernel wakes one.
type acceptor struct {
	*Loops
	fd         int
	door       Door
	redirected bool
	failing    atomic.Bool
}

// Accept implements [Forwarder].
func (f *Loops) Accept(fd int, door Door) (Listener, error) { return f.listen(fd, door, false) }

// AcceptRedirected implements [Forwarder].
func (f *Loops) AcceptRedirected(fd int, door Door) (Listener, error) {
	return f.listen(fd, door, true)
}

func (f *Loops) listen(fd int, door Door, redirected bool) (Listener, error) {
	if !f.files.take(1) {
		unix.Close(fd)
		return nil, unix.EMFILE
	}
	a := &acceptor{Loops: f, fd: fd, door: door, redirected: redirected}
	errs := make(chan error, len(f.loops))
	for _, l := range f.loops {
		l.post(func() { errs <- l.add(fd, unix.EPOLLIN|unix.EPOLLEXCLUSIVE, a) })
	}
	var err error
	for range f.loops {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// Filter implements [Listener].
func (a *acceptor) Filter(program []bpf.RawInstruction) error { return vpc.SetFilter(a.fd, program) }

// Close implements [Listener].
func (a *acceptor) Close() {
	var left sync.WaitGroup
	for _, l := range a.loops {
		left.Add(1)
		l.post(func() {
			defer left.Done()
			l.forget(a.fd)
			_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, a.fd, nil)
		})
	}
	left.Wait()
	unix.Close(a.fd)
	a.files.release(1)
}

// ready accepts. After an error, such as out of descriptors, the loop looks away
// for a while, so that it does not spin.
func (a *acceptor) ready(l *loop, _ uint32) {
	if l.frozen {
		return
	}
	for range acceptsOnce {
		l.size = unix.SizeofSockaddrAny
		fd, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(a.fd), uintptr(unsafe.Pointer(&l.addr)), uintptr(unsafe.Pointer(&l.size)),
			unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		switch errno {
		case 0:
			a.failing.Store(false)
			l.welcome(a, int(fd), address(&l.addr))
		case unix.EAGAIN:
			return
		case unix.EINTR, unix.ECONNABORTED:
		default:
			a.pause(l, errno)
			return
		}
	}
}

func (a *acceptor) pause(l *loop, errno syscall.Errno) {
	if !a.failing.Swap(true) {
		l.log.Warn("accept", "err", errno)
	}
	_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, a.fd, nil)
	l.wheel.set(&timer{owner: &pause{acceptor: a, loop: l, turn: l.table[a.fd].turn}}, l.now+int64(acceptPause))
}

// pause is an acceptor that a loop looks away from.
type pause struct {
	*acceptor
	loop *loop
	turn uint32
}

func (p *pause) due(int64) {
	l, fd := p.loop, p.fd
	if at := l.table[fd]; at.handler != handler(p.acceptor) || at.turn != p.turn {
		return // closed meanwhile
	}
	if err := l.add(fd, unix.EPOLLIN|unix.EPOLLEXCLUSIVE, p.acceptor); err != nil {
		l.log.Error("accept again", "err", err)
	}
}

// address reads what the kernel wrote into a.
func address(a *unix.RawSockaddrAny) netip.AddrPort {
	switch a.Addr.Family {
	case unix.AF_INET:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(a))
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), bigEndian(in.Port))
	case unix.AF_INET6:
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(a))
		return netip.AddrPortFrom(netip.AddrFrom16(in.Addr).Unmap(), bigEndian(in.Port))
	}
	return netip.AddrPort{}
}

// bigEndian turns a port from or into the order of the network.
func bigEndian(port uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&port))
	return uint16(b[0])<<8 | uint16(b[1])
}

// welcome begins a flow with a client that has connected.
func (l *loop) welcome(a *acceptor, fd int, from netip.AddrPort) {
	s := &stream{home: l, loop: l}
	s.Source, s.Start, s.owner = from, time.Now(), s
	s.sides = [2]side{{flow: s, fd: fd}, {flow: s, fd: -1}}
	room := l.files.take(2)
	if !room {
		s.End(Descriptors)
	}
	if a.redirected {
		s.Address = vpc.OriginalDestination(fd)
	}
	if s.session = a.door.Admit(&s.Flow); s.session == nil {
		s.gone = true
		if room {
			l.files.release(2)
		}
		reset(fd)
		return
	}
	s.loop = l.lightest()
	s.loop.live.Add(1)
	if s.loop == l {
		s.begin()
	} else {
		s.loop.post(s.begin)
	}
}

// lightest is the loop that shall have the next flow.
func (l *loop) lightest() *loop {
	to, least := l, l.live.Load()
	least -= max(imbalance, least/8)
	for _, o := range l.loops {
		if n := o.live.Load(); n < least {
			to, least = o, n
		}
	}
	return to
}
