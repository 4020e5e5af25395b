package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// Goroutines is the forwarder for every system: one goroutine a listener, two a
// flow, and a buffer only while bytes are in hand, so that an idle flow holds none.
type Goroutines struct {
	driver  vpc.Driver
	log     *slog.Logger
	running sync.WaitGroup
	talks   bound // flows of UDP
}

// NewGoroutines makes a forwarder that dials with driver.
func NewGoroutines(driver vpc.Driver, log *slog.Logger) *Goroutines {
	return &Goroutines{driver: driver, log: log, talks: bound{most: flowsMostAll}}
}

// Close implements [Forwarder].
func (f *Goroutines) Close() { f.running.Wait() }

type listening struct {
	net.Listener
	door       Door
	redirected bool
	closed     chan struct{}
	done       chan struct{} // accept has returned and the socket is gone
}

// Accept implements [Forwarder].
func (f *Goroutines) Accept(fd int, door Door) (Listener, error) { return f.listen(fd, door, false) }

// AcceptRedirected implements [Forwarder].
func (f *Goroutines) AcceptRedirected(fd int, door Door) (Listener, error) {
	return f.listen(fd, door, true)
}

func (f *Goroutines) listen(fd int, door Door, redirected bool) (Listener, error) {
	file := os.NewFile(uintptr(fd), "listener")
	ln, err := net.FileListener(file)
	_ = file.Close()
	if err != nil {
		return nil, err
	}
	l := &listening{Listener: ln, door: door, redirected: redirected, closed: make(chan struct{}), done: make(chan struct{})}
	f.running.Go(func() { f.accept(l) })
	return closer{l}, nil
}

type closer struct{ *listening }

// Filter implements [Listener].
func (l closer) Filter(program []bpf.RawInstruction) error {
	rc, err := l.Listener.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	if e := rc.Control(func(fd uintptr) { err = vpc.SetFilter(int(fd), program) }); e != nil {
		return e
	}
	return err
}

// Close implements [Listener].
func (l closer) Close() {
	close(l.closed)
	_ = l.Listener.Close()
	<-l.done
}

// accept serves every connection until the listener is closed. After an error,
// such as out of descriptors, it pauses and goes on.
func (f *Goroutines) accept(l *listening) {
	defer close(l.done)
	failing := false
	for {
		c, err := l.Accept()
		if tc, ok := c.(*net.TCPConn); ok && err == nil {
			failing = false
			f.running.Go(func() { f.serve(tc, l) })
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_ = c.Close()
			err = errors.New("not a TCP connection")
		}
		if !failing {
			f.log.Warn("accept", "addr", l.Addr(), "err", err)
		}
		failing = true
		select {
		case <-l.closed:
			return
		case <-time.After(acceptPause):
		}
	}
}

// serve takes one connection from its accept to its end.
func (f *Goroutines) serve(c *net.TCPConn, l *listening) {
	peer, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok { // gone already
		hardClose(c)
		return
	}
	s := &relay{client: c}
	s.Source, s.Start, s.owner = netip.AddrPortFrom(peer.AddrPort().Addr().Unmap(), peer.AddrPort().Port()), time.Now(), s
	s.live, s.stop = context.WithCancel(context.Background())
	if raw, err := c.SyscallConn(); err == nil && l.redirected {
		_ = raw.Control(func(fd uintptr) { s.Address = vpc.OriginalDestination(int(fd)) })
	}
	session := l.door.Admit(&s.Flow)
	if session == nil {
		s.End(Reset)
		return
	}
	for s.Reason() == "" {
		t, ok := session.Next(&s.Flow)
		if !ok {
			break
		}
		ctx, cancel := context.WithTimeout(s.live, dialTimeout)
		server, err := f.dial(ctx, t)
		cancel()
		if err != nil {
			session.Failed(&s.Flow, err)
			continue
		}
		if s.attach(server) {
			session.Stands(&s.Flow)
			s.carry(t.Preface)
		}
	}
	s.End(Reset)
	session.Ended(&s.Flow)
}

func (f *Goroutines) dial(ctx context.Context, t Target) (*net.TCPConn, error) {
	var c net.Conn
	var err error
	if t.Network == "" {
		c, err = new(net.Dialer).DialContext(ctx, "tcp", t.To.String())
	} else {
		c, err = f.driver.Dial(ctx, t.Network, t.From, t.To)
	}
	if err != nil {
		return nil, err
	}
	tc, ok := c.(*net.TCPConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("dial %v: not a TCP connection", t.To)
	}
	return tc, nil
}

// relay is a flow that two goroutines carry.
type relay struct {
	Flow
	client *net.TCPConn

	// live ends with the flow, and with it what is under way for it, like a dial.
	live context.Context
	stop context.CancelFunc

	mu     sync.Mutex
	server *net.TCPConn // nil until it is dialled
	timer  *time.Timer  // idle; runs from then on

	moved  atomic.Int64 // when the last byte did, on the clock of monotonic
	halves atomic.Int32 // directions that have ended in order
}

// attach gives the flow its other side. It is false, and c reset, if the flow
// ended meanwhile.
func (s *relay) attach(c *net.TCPConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Reason() != "" {
		hardClose(c)
		return false
	}
	s.server = c
	s.moved.Store(monotonic())
	if s.Idle > 0 {
		s.timer = time.AfterFunc(s.Idle, s.due)
	}
	return true
}

// look closes both sides, in the way that belongs to the reason.
func (s *relay) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	if s.timer != nil {
		s.timer.Stop()
	}
	for _, c := range []*net.TCPConn{s.client, s.server} {
		switch {
		case c == nil:
		case s.Reason() == Closed:
			_ = c.Close()
		default:
			hardClose(c)
		}
	}
}

func (s *relay) due() {
	quiet := time.Duration(monotonic() - s.moved.Load())
	if quiet >= s.Idle {
		s.End(Idle)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Reason() == "" {
		s.timer.Reset(s.Idle - quiet)
	}
}

// carry returns when nothing can pass any more.
func (s *relay) carry(preface []byte) {
	if len(preface) > 0 {
		if _, err := s.server.Write(preface); err != nil {
			s.End(Reset)
			return
		}
	}
	in := pump{flow: s, direction: In, src: s.client, dst: s.server, limit: s.limit(In), grant: make(chan int, 1)}
	out := pump{flow: s, direction: Out, src: s.server, dst: s.client, limit: s.limit(Out), grant: make(chan int, 1)}
	var wg sync.WaitGroup
	wg.Go(in.run)
	out.run()
	wg.Wait()
}

// hardClose closes c so that its peer sees a reset at once, and nothing that is
// unsent.
func hardClose(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// pump is one direction of a relay.
type pump struct {
	flow      *relay
	direction int
	src, dst  *net.TCPConn

	limit  *Limit
	credit int      // bytes that the limit let pass and that were not read yet
	grant  chan int // of one that was waited for

	buf  *[]byte // nil while nothing is in hand
	rest []byte  // of buf: read and not yet written
	err  error
}

const relayBuffer = 64 << 10

var buffers = sync.Pool{New: func() any { return new(make([]byte, relayBuffer)) }}

// run copies until src ends or either side breaks. A reset of one side resets the
// other, also one that comes after src has ended its half. (While a write waits for
// a slow dst, a reset of src waits behind the bytes that it follows.)
func (p *pump) run() {
	src, err := p.src.SyscallConn()
	dst, err2 := p.dst.SyscallConn()
	if err != nil || err2 != nil {
		p.flow.End(Reset)
		return
	}
	for p.allowed() && p.step(src.Read, p.read) && len(p.rest) > 0 && p.step(dst.Write, p.write) {
	}
	p.release()
	p.limit.put(p.credit)
	if p.err == nil {
		p.err = p.dst.CloseWrite()
	}
	switch {
	case p.err != nil:
		p.flow.End(Reset)
	case p.flow.halves.Add(1) == 2:
		p.flow.End(Closed)
	case p.step(src.Read, p.broken):
		p.flow.End(Reset)
	}
}

// granted implements waiter.
func (p *pump) granted(n int) { p.grant <- n }

// allowed waits for a credit. It is false if the flow ends meanwhile.
func (p *pump) allowed() bool {
	if p.credit > 0 {
		return true
	}
	if p.credit = p.limit.take(p, relayBuffer); p.credit > 0 {
		return true
	}
	select {
	case p.credit = <-p.grant:
		return true
	case <-p.flow.live.Done():
		p.err = net.ErrClosed
		return false
	}
}

// step runs f on the descriptor as often as it says false, waiting in between.
func (p *pump) step(on func(func(uintptr) bool) error, f func(uintptr) bool) bool {
	if err := on(f); err != nil {
		p.err = err
	}
	return p.err == nil
}

// read takes what is there; nothing in rest then means the end of src.
func (p *pump) read(fd uintptr) bool {
	if p.buf == nil {
		p.buf = buffers.Get().(*[]byte)
	}
	n, err := retry(unix.Read, fd, (*p.buf)[:min(relayBuffer, p.credit)])
	if err == unix.EAGAIN { //nolint:errorlint // a bare errno
		p.release()
		return false
	}
	p.rest, p.err = (*p.buf)[:max(n, 0)], err
	p.credit -= len(p.rest)
	return true
}

func (p *pump) write(fd uintptr) bool {
	for len(p.rest) > 0 {
		n, err := retry(unix.Write, fd, p.rest)
		if err == unix.EAGAIN { //nolint:errorlint // a bare errno
			return false
		}
		if err != nil {
			p.err = err
			return true
		}
		p.rest = p.rest[n:]
		p.flow.count(p.direction, n)
		p.flow.moved.Store(monotonic())
	}
	p.release()
	return true
}

// broken waits for a reset of a side that has nothing more to say.
func (p *pump) broken(fd uintptr) bool {
	code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
	return err != nil || code != 0
}

func (p *pump) release() {
	if p.buf != nil {
		buffers.Put(p.buf)
		p.buf, p.rest = nil, nil
	}
}

func retry(call func(int, []byte) (int, error), fd uintptr, b []byte) (int, error) {
	for {
		if n, err := call(int(fd), b); err != unix.EINTR { //nolint:errorlint // a bare errno
			return n, err
		}
	}
}
