package forward

import (
	"errors"
	"net/netip"
	"os"
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
	acceptsOnce = 16                     // connections that one event accepts
	turnsOnce   = 16                     // reads of one direction, before others have their turn
	fullReads   = 2                      // that turn a direction to splicing
	unlimited   = 1 << 30                // credit of a flow without a limit, for one pump
	windowTime  = 100 * time.Millisecond // of its rate that a limited flow's receive buffer holds
	windowLeast = 64 << 10               // bytes
	windowMost  = 6 << 20
	steady      = 4 * bufferSize // bytes between two dry spells that keep it there

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

// stream is a TCP flow. It belongs to one loop from its admission on.
type stream struct {
	Flow
	home    *loop // that accepted it
	loop    *loop
	session Session
	sides   [2]side // the client's and the server's
	timer   timer   // dialling, then idle
	moved   int64   // when the last byte did
	preface []byte
	head    int // bytes of the preface that are still to be written
	stands  bool
	gone    bool
}

// side is one socket of a stream, and the direction that begins there.
type side struct {
	flow *stream
	fd   int // -1: none
	// What the kernel told about the socket and nobody acted on yet.
	readable bool
	ended    bool // no more bytes will come than those that are there
	broken   bool // it was reset
	urgent   bool // it carries urgent data, at which reads stop short
	full     bool // it takes no more bytes for now

	rest  []byte // read here and not yet written to the other
	pipe  *pipe
	held  int // bytes in pipe
	large int // full reads in a row
	burst int // bytes since it was dry
	eof   bool
	shut  bool // the other has been told
	again bool // it is in loop.more

	credit  int   // bytes that its limit let pass and that were not read yet
	waiting bool  // in the queue of its limit
	window  int64 // rate that its receive buffer was made for, bytes a second
}

func (s *side) other() *side { return &s.flow.sides[1-s.direction()] }

// direction is In or Out.
func (s *side) direction() int {
	if s == &s.flow.sides[In] {
		return In
	}
	return Out
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

// look runs on whatever goroutine ended the flow. Only the loop that accepted it
// knows which one has it now.
func (s *stream) look() {
	s.home.post(func() {
		if s.loop == s.home {
			s.finish(Closed)
		} else {
			s.loop.post(func() { s.finish(Closed) })
		}
	})
}

func (s *stream) begin() {
	if s.gone {
		return
	}
	s.timer.owner = s
	if err := s.watch(&s.sides[In]); err != nil {
		s.loop.log.Error("watch a client", "err", err)
		s.finish(Reset)
		return
	}
	s.dial()
}

func (s *stream) watch(e *side) error {
	const edge = 1 << 31 // EPOLLET
	return s.loop.add(e.fd, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP|unix.EPOLLPRI|edge, e)
}

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

// ready takes the kernel's word about one side and does what has become possible.
func (e *side) ready(_ *loop, events uint32) {
	s := e.flow
	if events&unix.EPOLLERR != 0 {
		e.broken = true
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		e.ended, e.readable = true, true
	}
	if events&unix.EPOLLIN != 0 {
		e.readable = true
	}
	if events&unix.EPOLLPRI != 0 {
		e.urgent = true
	}
	if events&unix.EPOLLOUT != 0 {
		e.full = false
	}
	switch {
	case s.stands:
	case e == &s.sides[In]:
		if e.broken {
			s.finish(Reset)
		}
		return
	case events&(unix.EPOLLERR|unix.EPOLLHUP) != 0:
		s.fail(connectError(e.fd))
		return
	case events&unix.EPOLLOUT == 0:
		return
	default:
		s.stand()
		return
	}
	if e.readable {
		s.pump(e)
	}
	if events&unix.EPOLLOUT != 0 && !s.gone {
		s.pump(e.other())
	}
	if e.broken && !s.gone {
		s.finish(Reset)
	}
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

// stand begins to copy: the server has answered.
func (s *stream) stand() {
	l := s.loop
	s.stands, s.moved = true, l.now
	l.wheel.clear(&s.timer)
	if s.Idle > 0 {
		l.wheel.set(&s.timer, l.now+int64(s.Idle))
	}
	s.session.Stands(&s.Flow)
	client, server := &s.sides[In], &s.sides[Out]
	if client.readable || len(s.preface) > 0 {
		s.pump(client)
	}
	if server.readable && !s.gone {
		s.pump(server)
	}
	if (client.broken || server.broken) && !s.gone {
		s.finish(Reset)
	}
}

// due is the timer's: a server has not answered, or no byte has passed.
func (s *stream) due(now int64) {
	switch quiet := now - s.moved; {
	case !s.stands:
		s.fail(os.ErrDeadlineExceeded)
	case quiet >= int64(s.Idle):
		s.finish(Idle)
	default:
		s.loop.wheel.set(&s.timer, s.moved+int64(s.Idle))
	}
}

// pump moves what there is from e to the other side, until either would block.
func (s *stream) pump(e *side) {
	l, to := s.loop, e.other()
	if s.gone || !s.stands {
		return
	}
	for turn := 0; ; turn++ {
		if !s.flush(e, to) {
			return
		}
		if e.eof {
			s.shut(e, to)
			return
		}
		if !e.readable && len(s.preface) == 0 {
			break
		}
		if turn == turnsOnce {
			if !e.again {
				e.again = true
				l.more = append(l.more, e)
			}
			return
		}
		limit := s.limit(e.direction())
		if limit.Rate() != e.window {
			e.resize(limit.Rate())
		}
		if !e.allowed(limit) {
			break
		}
		var ok bool
		if e.large >= fullReads && s.hasPipe(e) {
			ok = s.fill(e)
		} else {
			ok = s.copy(e, to)
		}
		if !ok {
			return
		}
	}
	e.unused()
	if e.pipe != nil {
		l.putPipe(e.pipe)
		e.pipe = nil
	}
}

// allowed sees to it that e has a credit. If it is false, the limit will see to it
// that e is pumped again.
func (e *side) allowed(limit *Limit) bool {
	switch {
	case limit == nil:
		e.credit = unlimited
	case e.waiting:
		return false
	case e.credit == 0:
		e.credit = limit.take(e, e.want())
		e.waiting = e.credit == 0
	}
	return e.credit > 0
}

// want is how much e may read at once.
func (e *side) want() int {
	if e.large >= fullReads {
		return pipeSize
	}
	return bufferSize
}

// granted implements waiter.
func (e *side) granted(n int) {
	s := e.flow
	s.loop.post(func() {
		e.waiting = false
		if s.gone {
			s.limit(e.direction()).put(n)
			return
		}
		e.credit += n
		s.pump(e)
	})
}

// unused gives back what e did not read of its credit.
func (e *side) unused() {
	if limit := e.flow.limit(e.direction()); limit != nil {
		limit.put(e.credit)
	}
	e.credit = 0
}

// resize bounds what the kernel takes in for a side with a limit: else megabytes
// would stand in front of it, and a changed rate would be felt late.
func (e *side) resize(rate int64) {
	e.window = rate
	size := int64(windowMost)
	if rate > 0 {
		size = min(max(rate*int64(windowTime)/int64(time.Second), windowLeast), windowMost)
	}
	half := int32(size / 2) // the kernel doubles it
	if setOption(e.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, half) != 0 {
		_ = setOption(e.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, half) // as far as the host allows
	}
}

func (s *stream) hasPipe(e *side) bool {
	if e.pipe == nil {
		e.pipe = s.loop.takePipe()
	}
	return e.pipe != nil
}

// flush writes what e has read before. It is false if to would block or is gone.
func (s *stream) flush(e, to *side) bool {
	for len(e.rest) > 0 {
		n := s.write(e, to, e.rest)
		if n == 0 {
			return false
		}
		e.rest = e.rest[n:]
	}
	e.rest = nil
	for e.held > 0 {
		if to.full {
			return false
		}
		n, errno := splice(e.pipe.r, to.fd, e.held)
		if !s.wrote(e, to, n, errno) {
			return false
		}
		e.held -= n
	}
	return true
}

// write writes bytes of e. It returns 0 if to would block or is gone.
func (s *stream) write(e, to *side, b []byte) int {
	if to.full {
		return 0
	}
	n, errno := write(to.fd, b)
	if !s.wrote(e, to, n, errno) {
		return 0
	}
	to.full = n < len(b)
	return n
}

// wrote takes the result of writing to a side. It is false if nothing more can be
// written for now, or ever.
func (s *stream) wrote(e, to *side, n int, errno syscall.Errno) bool {
	switch errno {
	case 0:
	case unix.EAGAIN:
		to.full = true
		return false
	default:
		s.finish(Reset)
		return false
	}
	s.moved = s.loop.now
	if s.head > 0 && e == &s.sides[In] { // the preface is nobody's bytes
		head := min(n, s.head)
		s.head -= head
		n -= head
	}
	s.count(e.direction(), n)
	return true
}

// fill splices from e into its pipe, which is empty.
func (s *stream) fill(e *side) bool {
	n, errno := splice(e.fd, e.pipe.w, min(e.pipe.size, e.credit))
	switch {
	case errno == unix.EAGAIN:
		s.dry(e)
	case errno != 0:
		s.finish(Reset)
		return false
	case n == 0:
		e.eof = true
	default:
		e.held = n
		e.burst += n
		e.credit -= n
	}
	return true
}

// dry notes that e has no more for now.
func (s *stream) dry(e *side) {
	e.readable = false
	if e.burst < steady {
		e.large = 0
	}
	e.burst = 0
}

// copy reads from e and writes at once, what does not fit later. The preface goes
// in front.
func (s *stream) copy(e, to *side) bool {
	l := s.loop
	buf, head := l.buf, 0
	if e == &s.sides[In] && len(s.preface) > 0 {
		head = copy(buf, s.preface)
		s.head, s.preface = head, nil
	}
	n, errno := 0, unix.EAGAIN
	if e.readable {
		buf = buf[:min(len(buf), head+e.credit)]
		n, errno = read(e.fd, buf[head:])
		e.credit -= n
	}
	switch {
	case errno == unix.EAGAIN:
		s.dry(e)
	case errno != 0:
		s.finish(Reset)
		return false
	case n == 0:
		e.eof = true
	case n == len(buf)-head:
		e.large++
		e.burst += n
	default:
		e.large = 0
		// A short read has taken everything that was there.
		if e.readable = e.urgent; e.ended && !e.urgent {
			e.eof = true
		}
	}
	b := buf[:head+n]
	if len(b) == 0 {
		return true
	}
	if w := s.write(e, to, b); w < len(b) && !s.gone {
		e.rest = append([]byte(nil), b[w:]...)
	}
	return !s.gone
}

// shut passes on the end of e, all of whose bytes have been passed on.
func (s *stream) shut(e, to *side) {
	e.unused()
	if e.pipe != nil {
		s.loop.putPipe(e.pipe)
		e.pipe = nil
	}
	if e.shut {
		return
	}
	e.shut = true
	if to.shut {
		s.finish(Closed)
		return
	}
	if _, _, errno := syscall.RawSyscall(unix.SYS_SHUTDOWN, uintptr(to.fd), unix.SHUT_WR, 0); errno != 0 {
		s.finish(Reset)
	}
}

// finish ends the stream for the reason that stands, or for this one.
func (s *stream) finish(reason string) {
	if s.gone {
		return
	}
	s.gone = true
	s.reason.CompareAndSwap(nil, &reason)
	orderly := s.Reason() == Closed
	l := s.loop
	l.wheel.clear(&s.timer)
	for i := range s.sides {
		e := &s.sides[i]
		if e.pipe != nil {
			if e.held > 0 {
				l.dropPipe(e.pipe)
			} else {
				l.putPipe(e.pipe)
			}
			e.pipe = nil
		}
		e.unused()
		if e.fd < 0 {
			continue
		}
		l.forget(e.fd)
		if orderly {
			closeFile(e.fd)
		} else {
			reset(e.fd)
		}
		e.fd, e.rest = -1, nil
	}
	l.live.Add(-1)
	l.files.release(2)
	s.session.Ended(&s.Flow)
}
