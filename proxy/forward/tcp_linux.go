package forward

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	turnsOnce   = 16                     // reads of one direction, before others have their turn
	fullReads   = 2                      // that turn a direction to splicing
	unlimited   = 1 << 30                // credit of a flow without a limit, for one pump
	windowTime  = 100 * time.Millisecond // of its rate that a limited flow's receive buffer holds
	windowLeast = 64 << 10               // bytes
	windowMost  = 6 << 20
	steady      = 4 * bufferSize // bytes between two dry spells that keep it there
)

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
