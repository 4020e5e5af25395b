package proxy

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	bufferSize  = 64 << 10          // of one read
	defaultIdle = 900 * time.Second // for listeners that say nothing
)

// A forwarder copies the bytes of flows whose two sides stand. carry returns when
// nothing can pass any more: it counts as it goes, ends the flow with the reason,
// and heeds an end that comes from elsewhere.
type forwarder interface {
	carry(f *flow)
}

// flow is one connection through a gate.
type flow struct {
	source netip.AddrPort // as the consumer's network knows it
	start  time.Time
	idle   time.Duration
	tally  *tally

	in, out atomic.Int64 // bytes, consumer to service and back
	moved   atomic.Int64 // when the last byte did, in ns since start
	halves  atomic.Int32 // directions that have ended in order

	// live ends with the flow, and with it what is under way for it, like a dial.
	live context.Context
	stop context.CancelFunc

	client *net.TCPConn
	mu     sync.Mutex
	server *net.TCPConn // nil until it is dialled
	timer  *time.Timer  // idle; runs from then on
	reason string       // empty while the flow lives
}

func newFlow(ctx context.Context, client *net.TCPConn, t *tally, idle time.Duration) *flow {
	f := &flow{client: client, tally: t, idle: idle, start: time.Now()}
	f.live, f.stop = context.WithCancel(ctx)
	return f
}

// attach gives the flow its other side. It is false, and c reset, if the flow
// ended meanwhile.
func (f *flow) attach(c *net.TCPConn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reason != "" {
		reset(c)
		return false
	}
	f.server = c
	f.moved.Store(int64(time.Since(f.start)))
	f.timer = time.AfterFunc(f.idle, f.checkIdle)
	return true
}

// end ends the flow. The first reason stands. After an orderly close both sides
// get what is still under way; for every other reason both are reset.
func (f *flow) end(reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reason != "" {
		return
	}
	f.reason = reason
	f.stop()
	if f.timer != nil {
		f.timer.Stop()
	}
	for _, c := range []*net.TCPConn{f.client, f.server} {
		switch {
		case c == nil:
		case reason == ReasonClosed:
			_ = c.Close()
		default:
			reset(c)
		}
	}
}

func (f *flow) ended() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reason
}

// stood says whether the flow ever had both sides.
func (f *flow) stood() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.server != nil
}

func (f *flow) checkIdle() {
	quiet := time.Since(f.start) - time.Duration(f.moved.Load())
	if quiet >= f.idle {
		f.end(ReasonIdle)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reason == "" {
		f.timer.Reset(f.idle - quiet)
	}
}

// reset closes c so that its peer sees a reset at once, and nothing that is unsent.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// goroutines is the forwarder for every system: two goroutines a flow, and a
// buffer only while bytes are in hand, so that an idle flow holds none.
type goroutines struct{}

func (goroutines) carry(f *flow) {
	in := pump{flow: f, src: f.client, dst: f.server, bytes: &f.in, total: &f.tally.in}
	out := pump{flow: f, src: f.server, dst: f.client, bytes: &f.out, total: &f.tally.out}
	var wg sync.WaitGroup
	wg.Go(in.run)
	out.run()
	wg.Wait()
}

// pump is one direction of a flow.
type pump struct {
	flow         *flow
	src, dst     *net.TCPConn
	bytes, total *atomic.Int64

	buf  *[]byte // nil while nothing is in hand
	rest []byte  // of buf: read and not yet written
	err  error
}

var buffers = sync.Pool{New: func() any { return new(make([]byte, bufferSize)) }}

// run copies until src ends or either side breaks. A reset of one side resets the
// other, also one that comes after src has ended its half. (While a write waits for
// a slow dst, a reset of src waits behind the bytes that it follows.)
func (p *pump) run() {
	src, err := p.src.SyscallConn()
	dst, err2 := p.dst.SyscallConn()
	if err != nil || err2 != nil {
		p.flow.end(ReasonReset)
		return
	}
	for p.step(src.Read, p.read) && len(p.rest) > 0 && p.step(dst.Write, p.write) {
	}
	p.release()
	if p.err == nil {
		p.err = p.dst.CloseWrite()
	}
	switch {
	case p.err != nil:
		p.flow.end(ReasonReset)
	case p.flow.halves.Add(1) == 2:
		p.flow.end(ReasonClosed)
	case p.step(src.Read, p.broken):
		p.flow.end(ReasonReset)
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
	n, err := retry(unix.Read, fd, *p.buf)
	if err == unix.EAGAIN { //nolint:errorlint // a bare errno
		p.release()
		return false
	}
	p.rest, p.err = (*p.buf)[:max(n, 0)], err
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
		p.bytes.Add(int64(n))
		p.total.Add(int64(n))
		p.flow.moved.Store(int64(time.Since(p.flow.start)))
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
