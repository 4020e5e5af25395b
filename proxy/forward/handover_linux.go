package forward

import (
	"net/netip"
	"slices"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Freeze implements [Heritable].
func (f *Loops) Freeze() (flows []Handover, thaw func()) {
	var mu sync.Mutex
	var ready sync.WaitGroup
	melt := make(chan struct{})
	all := func(do func(*loop)) {
		ready.Add(len(f.loops))
		for _, l := range f.loops {
			l.post(func() { do(l) })
		}
		ready.Wait()
	}
	// First nobody accepts: what a loop gave to another is posted there by then.
	all(func(l *loop) {
		l.frozen = true
		ready.Done()
	})
	all(func(l *loop) {
		held := l.leaveAll()
		mu.Lock()
		flows = append(flows, held...)
		mu.Unlock()
		ready.Done()
		<-melt // the thread itself waits: what it has stays as it was told
		l.frozen = false
	})
	return flows, sync.OnceFunc(func() { close(melt) })
}

// leaveAll describes the loop's flows. Those that have ended, and only wait for
// their turn to be told, are gone afterwards.
func (l *loop) leaveAll() (flows []Handover) {
	l.flush()
	seen := map[*stream]bool{}
	for _, at := range l.table {
		switch h := at.handler.(type) {
		case *side:
			switch s := h.flow; {
			case seen[s]:
				continue
			case s.Reason() != "":
				s.finish(Closed)
			default:
				flows = append(flows, s.leave())
			}
			seen[h.flow] = true
		case *exchange:
			if h.Reason() != "" {
				h.finish(Closed)
			} else if h.fd >= 0 {
				flows = append(flows, h.leave())
			}
		}
	}
	return flows
}

// leave describes the flow.
func (s *exchange) leave() Handover {
	h := Handover{
		Packet: true, Source: s.Source, Start: s.Start, Quiet: time.Duration(s.at.loop.now - s.moved),
		Client: -1, Server: s.fd, Preface: s.preface, Session: s.session,
	}
	for direction, half := range []*Half{&h.In, &h.Out} {
		*half = Half{Moved: s.Moved[direction].Load(), Datagrams: s.Datagrams[direction].Load()}
	}
	return h
}

// leave describes the flow, and takes the bytes out of its pipes.
func (s *stream) leave() Handover {
	h := Handover{
		Source: s.Source, Start: s.Start, Quiet: time.Duration(s.loop.now - s.moved),
		Client: s.sides[In].fd, Server: -1, Preface: s.preface, Head: s.head, Session: s.session,
	}
	if s.stands {
		h.Server = s.sides[Out].fd
	}
	for direction, half := range []*Half{&h.In, &h.Out} {
		e := &s.sides[direction]
		e.drain()
		*half = Half{Moved: s.Moved[direction].Load(), Rest: slices.Clone(e.rest), EOF: e.eof, Shut: e.shut}
	}
	return h
}

// drain turns what is in the pipe of e into bytes in hand, which are written first.
func (e *side) drain() {
	for e.held > 0 {
		b := make([]byte, e.held)
		n, errno := read(e.pipe.r, b)
		if errno != 0 {
			return // impossible for a pipe that holds so much
		}
		e.rest = append(e.rest, b[:n]...)
		e.held -= n
	}
}

// Adopt implements [Heritable].
func (f *Loops) Adopt(h Handover, l Listener, admit func(*Flow) Session) {
	if p, ok := l.(*packets); ok && h.Packet {
		p.loop.post(func() { p.resume(h, admit) })
		return
	}
	if h.Packet { // nobody is left to answer by
		unix.Close(h.Server)
		return
	}
	least := f.loops[0].lightest()
	s := &stream{home: least, loop: least, preface: h.Preface, head: h.Head}
	s.Source, s.Start, s.owner = h.Source, h.Start, s
	s.sides = [2]side{{flow: s, fd: h.Client}, {flow: s, fd: h.Server}}
	for direction, half := range []Half{h.In, h.Out} {
		e := &s.sides[direction]
		e.rest, e.eof, e.shut = half.Rest, half.EOF, half.Shut
		s.Moved[direction].Store(half.Moved)
	}
	f.files.used.Add(2)
	if s.session = admit(&s.Flow); s.session == nil {
		f.files.release(2)
		for _, e := range s.sides {
			if e.fd >= 0 {
				reset(e.fd)
			}
		}
		s.gone = true
		return
	}
	least.live.Add(1)
	least.post(func() { s.resume(h.Quiet) })
}

// resume goes on where the flow was left. The kernel tells anew what is ready.
func (s *stream) resume(quiet time.Duration) {
	server := &s.sides[Out]
	if s.gone || server.fd < 0 {
		s.begin()
		return
	}
	s.timer.owner, s.stands = s, true
	s.moved = s.loop.now - int64(quiet)
	if s.Idle > 0 {
		s.loop.wheel.set(&s.timer, s.moved+int64(s.Idle))
	}
	for i := range s.sides {
		if err := s.watch(&s.sides[i]); err != nil {
			s.loop.log.Error("watch a flow that was handed over", "err", err)
			s.finish(Reset)
			return
		}
	}
	for i := range s.sides {
		if !s.gone {
			s.pump(&s.sides[i])
		}
	}
}

// resume goes on with a flow of UDP, on the loop's thread.
func (p *packets) resume(h Handover, admit func(*Flow) Session) {
	s := &exchange{at: p, fd: -1, preface: h.Preface}
	s.Source, s.Start, s.owner = h.Source, h.Start, s
	s.name, s.size = rawAddress(h.Source)
	for direction, half := range []Half{h.In, h.Out} {
		s.Moved[direction].Store(half.Moved)
		s.Datagrams[direction].Store(half.Datagrams)
	}
	if !p.clients.add(s.Source, s) {
		unix.Close(h.Server)
		return
	}
	l := p.loop
	l.files.used.Add(1)
	if s.session = admit(&s.Flow); s.session == nil {
		s.gone = true
		p.clients.remove(s.Source, s)
		l.files.release(1)
		unix.Close(h.Server)
		return
	}
	l.live.Add(1)
	s.moved, s.timer.owner = l.now-int64(h.Quiet), s
	l.wheel.set(&s.timer, s.moved+int64(s.idle()))
	s.fd = h.Server
	if err := l.add(s.fd, unix.EPOLLIN, s); err != nil {
		l.log.Error("watch a flow that was handed over", "err", err)
		s.finish(Unreachable)
	}
}

// rawAddress is how the kernel writes a.
func rawAddress(a netip.AddrPort) (name sockaddr, size uint32) {
	if a.Addr().Is4() {
		*(*unix.RawSockaddrInet4)(unsafe.Pointer(&name)) = unix.RawSockaddrInet4{
			Family: unix.AF_INET, Port: bigEndian(a.Port()), Addr: a.Addr().As4(),
		}
		return name, unix.SizeofSockaddrInet4
	}
	return sockaddr{Family: unix.AF_INET6, Port: bigEndian(a.Port()), Addr: a.Addr().As16()}, unix.SizeofSockaddrInet6
}

// Descriptor implements [Heritable].
func (f *Loops) Descriptor(l Listener) int {
	if p, ok := l.(*packets); ok {
		return p.fd
	}
	return l.(*acceptor).fd
}
