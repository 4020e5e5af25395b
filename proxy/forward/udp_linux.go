package forward

import (
	"encoding/binary"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	burstMost = 64 // datagrams, or runs of them, of one system call
	burstRead = 16 // of one server in a turn
	burstTurn = 4  // of one listener in a turn
)

// packets is a socket that datagrams of many clients come in by. One loop serves
// it, and owns its flows.
type packets struct {
	unfiltered
	loop    *loop
	fd      int // -1: closed
	door    Door
	clients clients[*exchange]
}

// Packets implements [Forwarder]. A listener belongs to the loop that has fewest.
func (f *Loops) Packets(fd int, door Door) (Listener, error) {
	if !f.files.take(1) {
		return nil, unix.EMFILE
	}
	p := &packets{loop: f.loops[0], fd: fd, door: door, clients: clients[*exchange]{most: flowsMost, all: &f.exchanges}}
	for _, l := range f.loops {
		if l.hears.Load() < p.loop.hears.Load() {
			p.loop = l
		}
	}
	p.loop.hears.Add(1)
	_ = setOption(fd, unix.SOL_UDP, unix.UDP_GRO, 1) // without it the kernel cuts what a client sent as one
	if setOption(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, packetBuffer) != 0 {
		_ = setOption(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, packetBuffer) // as far as the host allows
	}
	errs := make(chan error, 1)
	p.loop.post(func() {
		if p.loop.burst == nil {
			p.loop.burst = new(burst)
		}
		errs <- p.loop.add(fd, unix.EPOLLIN, p)
	})
	if err := <-errs; err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Close implements [Listener].
func (p *packets) Close() {
	done := make(chan struct{})
	p.loop.post(func() {
		defer close(done)
		p.loop.flush()
		p.loop.forget(p.fd)
		closeFile(p.fd)
		p.fd = -1
	})
	<-done
	p.loop.hears.Add(-1)
	p.loop.files.release(1)
}

// ready takes what clients sent. Every run of datagrams of one client goes to its
// server at once.
func (p *packets) ready(l *loop, _ uint32) {
	b := l.burst
	for range burstTurn {
		l.flush() // for the room
		n, errno := b.receive(p.fd, 0, burstMost)
		if errno != 0 {
			return // nothing, or for lack of memory, which level-triggered waiting tells again
		}
		for from := 0; from < n; {
			to := from + 1
			for to < n && b.names[to] == b.names[from] {
				to++
			}
			if s := p.from(b, from); s != nil {
				s.send(from, to)
			}
			from = to
		}
		if n < burstMost {
			return
		}
	}
}

// from is the flow that message i belongs to, a new one if need be; nil if it is
// refused.
func (p *packets) from(b *burst, i int) *exchange {
	client := address((*unix.RawSockaddrAny)(unsafe.Pointer(&b.names[i])))
	if s := p.clients.flows[client]; s != nil {
		return s
	}
	s := &exchange{at: p, fd: -1, name: b.names[i], size: b.messages[i].Namelen}
	s.Source, s.Start, s.owner, s.First = client, time.Now(), s, b.first(i)
	s.begin()
	s.First = nil
	if s.gone {
		return nil
	}
	return s
}

// exchange is a UDP flow.
type exchange struct {
	Flow
	at      *packets
	session Session
	name    sockaddr // the client's
	size    uint32   // of name
	fd      int      // connected to the server; -1: none yet
	timer   timer
	moved   int64    // when the last datagram did
	preface []byte   // goes in front of the first datagram
	early   [][]byte // datagrams that came before there was a socket
	gone    bool
}

func (s *exchange) begin() {
	p, l := s.at, s.at.loop
	room := p.clients.add(s.Source, s)
	files := room && l.files.take(1)
	switch {
	case !room:
		s.End(Full)
	case !files:
		s.End(Descriptors)
	}
	if s.session = p.door.Admit(&s.Flow); s.session == nil {
		s.gone = true
		p.clients.remove(s.Source, s)
		if files {
			l.files.release(1)
		}
		return
	}
	l.live.Add(1)
	s.moved, s.timer.owner = l.now, s
	l.wheel.set(&s.timer, l.now+int64(s.idle()))
	s.dial()
}

func (s *exchange) idle() time.Duration {
	if s.Idle > 0 {
		return s.Idle
	}
	return packetIdle
}

// look runs on whatever goroutine ended the flow.
func (s *exchange) look() { s.at.loop.post(func() { s.finish(Closed) }) }

// due is the timer's.
func (s *exchange) due(now int64) {
	if end := s.moved + int64(s.idle()); end > now {
		s.at.loop.wheel.set(&s.timer, end)
		return
	}
	s.finish(Idle)
}

// dial tries one server after the other until there is a socket, or one is made.
func (s *exchange) dial() {
	for s.Reason() == "" {
		t, ok := s.session.Next(&s.Flow)
		if !ok {
			break
		}
		s.preface = t.Preface
		if t.Network == "" {
			s.dialHost(t)
			return
		}
		fd, err := s.at.loop.packetSocket(t)
		if err == nil {
			err = s.stand(fd)
		}
		if err == nil {
			return
		}
		s.session.Failed(&s.Flow, err)
	}
	s.finish(Closed)
}

// dialHost makes the socket on a thread that is in the host's namespace.
func (s *exchange) dialHost(t Target) {
	l := s.at.loop
	l.dials.Go(func() {
		fd, err := packetSocket(netip.Addr{}, t.To)
		l.post(func() {
			switch {
			case s.gone:
				if err == nil {
					closeFile(fd)
				}
				return
			case err == nil:
				err = s.stand(fd)
			}
			if err != nil {
				s.session.Failed(&s.Flow, err)
				s.dial()
			}
		})
	})
}

// stand takes the socket that is connected to the server, or closes it.
func (s *exchange) stand(fd int) error {
	if err := s.at.loop.add(fd, unix.EPOLLIN, s); err != nil {
		closeFile(fd)
		return err
	}
	s.fd = fd
	s.session.Stands(&s.Flow)
	early := s.early
	s.early = nil
	for _, d := range early {
		s.sendOne(d)
	}
	return nil
}

// packetSocket makes a socket that is connected to t in its network.
func (l *loop) packetSocket(t Target) (int, error) {
	from, to, err := l.reach(t)
	if err == nil {
		err = l.enter(t.Network)
	}
	if err != nil {
		return -1, err
	}
	return packetSocket(from, to)
}

func packetSocket(from netip.Addr, to netip.AddrPort) (int, error) {
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	made, _, errno := syscall.RawSyscall(unix.SYS_SOCKET, uintptr(family), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if errno != 0 {
		return -1, os.NewSyscallError("socket", errno)
	}
	fd := int(made)
	_ = setOption(fd, unix.SOL_UDP, unix.UDP_GRO, 1) // only saves work
	call := "bind"
	if from.IsValid() {
		errno = withAddress(unix.SYS_BIND, fd, netip.AddrPortFrom(from, 0))
		if errno == unix.EADDRINUSE { // every port is: what connect says, too
			errno = unix.EADDRNOTAVAIL
		}
	}
	if errno == 0 {
		call, errno = "connect", withAddress(unix.SYS_CONNECT, fd, to)
	}
	if errno != 0 {
		closeFile(fd)
		return -1, os.NewSyscallError(call, errno)
	}
	return fd, nil
}

// send passes messages of the client on.
func (s *exchange) send(from, to int) {
	b := s.at.loop.burst
	if s.fd < 0 || len(s.preface) > 0 {
		for i := from; i < to; i++ {
			for d := range b.datagrams(i) {
				s.sendOne(d)
			}
		}
		return
	}
	limit, refused := s.limit(In), false
	for i := from; i < to; i++ {
		b.flows[i] = s
		b.address(i, nil, 0)
		if !limit.Take(b.vectors[i].length()) {
			refused = b.send(s.fd, In, from, i) || refused
			s.drop(b.count(i))
			from = i + 1
		}
	}
	if b.send(s.fd, In, from, to) || refused {
		s.finish(Unreachable)
	}
}

// sendOne passes a single datagram on, the first of all behind the preface.
func (s *exchange) sendOne(d []byte) {
	switch {
	case s.gone:
		return
	case s.fd < 0 && len(s.early) < earlyMost:
		s.early = append(s.early, append([]byte(nil), d...))
		return
	case s.fd < 0, !s.limit(In).Take(len(d)):
		s.drop(1)
		return
	}
	n := len(d)
	if len(s.preface) > 0 {
		d = append(slices.Clip(s.preface), d...)
	}
	switch _, errno := write(s.fd, d); errno {
	case 0:
		s.preface = nil
		s.pass(In, n, 1)
	case unix.ECONNREFUSED:
		s.finish(Unreachable)
	default:
		s.drop(1)
	}
}

func (s *exchange) pass(direction, bytes, datagrams int) {
	s.moved = s.at.loop.now
	s.count(direction, bytes)
	s.Datagrams[direction].Add(int64(datagrams))
}

func (s *exchange) drop(datagrams int) { s.Dropped.Add(int64(datagrams)) }

// ready takes what the server answered. It leaves with the answers of other flows
// by the same listener.
func (s *exchange) ready(l *loop, _ uint32) {
	b := l.burst
	if b.from != s.at || b.used > burstMost-burstRead {
		l.flush()
		b.from = s.at
	}
	n, errno := b.receive(s.fd, b.used, burstRead)
	switch errno {
	case 0:
	case unix.EAGAIN, unix.EINTR, unix.ENOMEM, unix.ENOBUFS:
		return
	default:
		s.finish(Unreachable)
		return
	}
	limit, at := s.limit(Out), b.used
	for i := at; i < at+n; i++ {
		if s.Reply != nil {
			for d := range b.datagrams(i) {
				s.Reply(d)
			}
		}
		if s.at.fd < 0 || !limit.Take(b.vectors[i].length()) {
			s.drop(b.count(i))
			continue
		}
		b.move(i, b.used)
		b.flows[b.used] = s
		b.address(b.used, &s.name, s.size)
		b.used++
	}
}

// finish ends the flow for the reason that stands, or for this one.
func (s *exchange) finish(reason string) {
	if s.gone {
		return
	}
	l := s.at.loop
	s.gone = true
	s.reason.CompareAndSwap(nil, &reason)
	l.wheel.clear(&s.timer)
	if s.fd >= 0 {
		l.flush() // its last answers are its own
		l.forget(s.fd)
		closeFile(s.fd)
		s.fd = -1
	}
	s.early = nil
	s.at.clients.remove(s.Source, s)
	l.live.Add(-1)
	l.files.release(1)
	s.session.Ended(&s.Flow)
}

// flush sends the answers that are in the burst.
func (l *loop) flush() {
	b := l.burst
	if b == nil || b.used == 0 {
		return
	}
	n := b.used
	b.used = 0
	b.send(b.from.fd, Out, 0, n)
}

type sockaddr = unix.RawSockaddrInet6 // has room for one of IPv4, too

// burst is room for the messages of one system call, which are sent on from where
// they were received. A message is a datagram, or a run of datagrams of one size,
// but for the last, which the kernel puts together and takes apart.
type burst struct {
	messages [burstMost]message
	vectors  [burstMost]vector
	names    [burstMost]sockaddr
	controls [burstMost]control
	clean    [burstMost]bool      // ready to be received into
	segment  [burstMost]int       // bytes of each datagram of a run; 0: it is no run
	flows    [burstMost]*exchange // that they belong to
	memory   [burstMost][packetRoom]byte

	// Answers that were received and not sent yet.
	used int
	from *packets // that they leave by
}

// message is a struct mmsghdr.
type message struct {
	unix.Msghdr
	length uint32
}

type vector struct{ unix.Iovec }

func (v *vector) length() int { return int(v.Len) }

// control carries the size of a run's datagrams.
type control struct {
	unix.Cmsghdr
	value [8]byte
}

// receive takes up to most messages, from at on.
func (b *burst) receive(fd, at, most int) (int, syscall.Errno) {
	for i := at; i < at+most; i++ {
		if b.clean[i] {
			continue
		}
		b.clean[i] = true
		m := &b.messages[i]
		m.Name, m.Namelen = (*byte)(unsafe.Pointer(&b.names[i])), uint32(unsafe.Sizeof(b.names[i]))
		b.vectors[i].Base = &b.memory[i][0]
		b.vectors[i].SetLen(packetRoom)
		m.Iov = &b.vectors[i].Iovec
		m.SetIovlen(1)
		m.Control = (*byte)(unsafe.Pointer(&b.controls[i]))
		m.SetControllen(int(unsafe.Sizeof(b.controls[i])))
	}
	got, _, errno := syscall.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.messages[at])), uintptr(most), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	for i := at; i < at+int(got); i++ {
		b.clean[i] = false
		length := int(b.messages[i].length)
		b.vectors[i].SetLen(length)
		b.segment[i] = 0
		c := &b.controls[i]
		if b.messages[i].Controllen < unix.SizeofCmsghdr || c.Level != unix.SOL_UDP || c.Type != unix.UDP_GRO {
			continue
		}
		if size := int(binary.NativeEndian.Uint32(c.value[:])); size < length {
			b.segment[i] = size
		}
	}
	return int(got), 0
}

// move makes message i message to.
func (b *burst) move(i, to int) {
	if i != to {
		n := copy(b.memory[to][:], b.memory[i][:b.vectors[i].length()])
		b.vectors[to].SetLen(n)
		b.segment[to] = b.segment[i]
	}
}

// address makes message i, as it was received, one that is sent to name; nil for
// a socket that is connected.
func (b *burst) address(i int, name *sockaddr, size uint32) {
	m := &b.messages[i]
	m.Name, m.Namelen = (*byte)(unsafe.Pointer(name)), size
	if b.segment[i] == 0 {
		m.Control = nil
		m.SetControllen(0)
		return
	}
	c := &b.controls[i]
	c.Level, c.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	c.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(c.value[:], uint16(b.segment[i]))
	m.SetControllen(unix.CmsgSpace(2))
}

// count is the number of datagrams in message i.
func (b *burst) count(i int) int {
	if b.segment[i] == 0 {
		return 1
	}
	return (b.vectors[i].length() + b.segment[i] - 1) / b.segment[i]
}

// datagrams yields those of message i, in their order.
func (b *burst) datagrams(i int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		rest := unsafe.Slice(b.vectors[i].Base, b.vectors[i].length())
		for n := range b.count(i) {
			d := rest
			if size := b.segment[i]; size > 0 && n < b.count(i)-1 {
				d = rest[:size]
			}
			if !yield(d) {
				return
			}
			rest = rest[len(d):]
		}
	}
}

// first is the first datagram of message i.
func (b *burst) first(i int) []byte {
	for d := range b.datagrams(i) {
		return d
	}
	return nil
}

// send sends messages, which are addressed, and counts. What the socket does not
// take is dropped: whoever is slow loses datagrams, and nobody waits. It is true if
// the other end of a connected socket refused what was sent before; then the rest
// is dropped, too.
func (b *burst) send(fd, direction, from, to int) (refused bool) {
	for from < to {
		got, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.messages[from])), uintptr(to-from), 0, 0, 0)
		switch {
		case errno == 0:
			for i := from; i < from+int(got); i++ {
				b.flows[i].pass(direction, b.vectors[i].length(), b.count(i))
			}
			from += int(got)
		case errno == unix.EINTR:
		case errno == unix.EAGAIN, errno == unix.ECONNREFUSED:
			for i := from; i < to; i++ {
				b.flows[i].drop(b.count(i))
			}
			return errno == unix.ECONNREFUSED
		case b.segment[from] > 0: // the way out takes no such run, e.g. for its MTU
			b.sendEach(fd, direction, from)
			from++
		default:
			b.flows[from].drop(1)
			from++
		}
	}
	return false
}

// sendEach sends the datagrams of message i one by one.
func (b *burst) sendEach(fd, direction, i int) {
	m := unix.Msghdr{Name: b.messages[i].Name, Namelen: b.messages[i].Namelen}
	for d := range b.datagrams(i) {
		v := unix.Iovec{Base: unsafe.SliceData(d)}
		v.SetLen(len(d))
		m.Iov = &v
		m.SetIovlen(1)
		if _, _, errno := syscall.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&m)), 0); errno != 0 {
			b.flows[i].drop(1)
			continue
		}
		b.flows[i].pass(direction, len(d), 1)
	}
}
