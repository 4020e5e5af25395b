package forward

import (
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

const (
	eventsOnce  = 256                   // events that one wait returns
	bufferSize  = 16 << 10              // of a read; two full ones turn to splicing
	lingerIn    = 50 * time.Millisecond // that a thread stays in a network after it made a socket there
	descriptors = 512                   // kept for everything that is not a flow or a listener
)

// Loops is the forwarder of Linux: a few event loops, each an OS thread of its own
// that waits for many sockets by edge-triggered epoll.
type Loops struct {
	driver vpc.Driver
	log    *slog.Logger
	loops  []*loop
	files  files

	exchanges bound // flows of UDP

	running sync.WaitGroup
	dials   sync.WaitGroup // sockets that are made in the host's namespace
}

// files counts descriptors against the limit of the process, so that flows are
// refused while there are some left for everything else.
type files struct {
	used, limit atomic.Int64
}

func (f *files) take(n int64) bool {
	if f.used.Add(n) > f.limit.Load() {
		f.used.Add(-n)
		return false
	}
	return true
}

func (f *files) release(n int64) { f.used.Add(-n) }

// New starts n event loops that make their sockets with driver. Each takes a
// processor of the runtime's while it waits, so GOMAXPROCS should be n more than
// what the process needs besides.
func New(driver vpc.Driver, n int, log *slog.Logger) (Forwarder, error) {
	f := &Loops{driver: driver, log: log}
	f.exchanges.most = flowsMostAll
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, fmt.Errorf("read the limit of open files: %w", err)
	}
	f.files.limit.Store(max(int64(min(limit.Cur, 1<<40))-descriptors, 64))
	for range n {
		l, err := f.start()
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("start an event loop: %w", err)
		}
		f.loops = append(f.loops, l)
	}
	return f, nil
}

// Close implements [Forwarder].
func (f *Loops) Close() {
	f.dials.Wait()
	for _, l := range f.loops {
		l.post(func() { l.over = true })
	}
	f.running.Wait()
}

// loop is one thread and what it waits for. Everything but post is for the thread
// alone.
type loop struct {
	*Loops
	epoll  int
	bell   int // an eventfd that ends a wait
	thread vpc.Thread
	over   bool
	frozen bool // it accepts nothing

	mu     sync.Mutex
	posted []func()
	rung   bool // the bell has been, for what is posted
	deaf   bool // nothing that is posted will be done

	live  atomic.Int32 // flows
	hears atomic.Int32 // listeners of packets
	table []entry      // by descriptor
	turn  uint32       // of the next entry
	now   int64        // ns of the monotonic clock, as of the last wait
	wheel *wheel
	more  []*side // have more to do than one turn allowed
	burst *burst  // of UDP; nil until there is some

	inside  string // the network that the thread is in; empty: none
	entered int64

	buf   []byte
	pipes []*pipe
	made  int // pipes that are open
	addr  unix.RawSockaddrAny
	size  uint32
}

// entry is who waits for a descriptor. turn tells an event of the descriptor from
// one of a former that had the same number.
type entry struct {
	handler
	turn uint32
}

type handler interface {
	ready(l *loop, events uint32)
}

func (f *Loops) start() (*loop, error) {
	l := &loop{Loops: f, epoll: -1, bell: -1, buf: make([]byte, bufferSize)}
	ready := make(chan error)
	f.running.Go(func() { l.run(ready) })
	return l, <-ready
}

// open makes what the loop needs, on its thread.
func (l *loop) open() (err error) {
	if l.thread, err = l.driver.Thread(); err != nil {
		return err
	}
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	if l.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	l.now = monotonic()
	l.wheel = newWheel(l.now)
	return l.add(l.bell, unix.EPOLLIN, bell{})
}

func (l *loop) close() {
	l.mu.Lock()
	l.deaf = true
	l.mu.Unlock()
	for _, p := range l.pipes {
		p.close()
	}
	for _, fd := range []int{l.epoll, l.bell} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	if l.thread != nil {
		l.thread.Close()
	}
}

func (l *loop) run(ready chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
	defer l.close()
	err := l.open()
	ready <- err
	if err != nil {
		return
	}
	var events [eventsOnce]unix.EpollEvent
	for !l.over {
		n := l.wait(&events)
		l.now = monotonic()
		for i := range events[:n] {
			e := &events[i]
			if at := l.table[e.Fd]; at.handler != nil && at.turn == uint32(e.Pad) {
				at.ready(l, e.Events)
			}
		}
		more := l.more
		l.more = nil
		for _, s := range more {
			s.again = false
			s.flow.pump(s)
		}
		l.flush()
		l.wheel.advance(l.now)
		if l.inside != "" && l.now-l.entered > int64(lingerIn) {
			l.leave()
		}
	}
}

// wait returns the number of events; none after a time that is due.
func (l *loop) wait(events *[eventsOnce]unix.EpollEvent) int {
	due := int64(-1)
	if at, ok := l.wheel.next(); ok {
		due = at
	}
	if l.inside != "" && (due < 0 || l.entered+int64(lingerIn) < due) {
		due = l.entered + int64(lingerIn)
	}
	timeout := -1
	switch {
	case len(l.more) > 0:
		timeout = 0
	case due >= 0:
		timeout = int(max(due-monotonic()+int64(time.Millisecond)-1, 0) / int64(time.Millisecond))
	}
	// A call that may block must tell the runtime.
	n, _, errno := syscall.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epoll), uintptr(unsafe.Pointer(&events[0])), eventsOnce, uintptr(timeout), 0, 0)
	if errno != 0 {
		return 0 // interrupted
	}
	return int(n)
}

// post runs do on the loop's thread, soon.
func (l *loop) post(do func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.deaf {
		return
	}
	l.posted = append(l.posted, do)
	if !l.rung {
		l.rung = true
		one := [8]byte{1}
		_, _ = write(l.bell, one[:])
	}
}

type bell struct{}

func (bell) ready(l *loop, _ uint32) {
	var b [8]byte
	_, _ = read(l.bell, b[:])
	l.mu.Lock()
	posted := l.posted
	l.posted, l.rung = nil, false
	l.mu.Unlock()
	for _, do := range posted {
		do()
	}
}

// add waits for events of fd on behalf of h.
func (l *loop) add(fd int, events uint32, h handler) error {
	for fd >= len(l.table) {
		l.table = append(l.table, make([]entry, max(64, len(l.table)))...)
	}
	l.turn++
	e := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: int32(l.turn)}
	if _, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(l.epoll), unix.EPOLL_CTL_ADD, uintptr(fd), uintptr(unsafe.Pointer(&e)), 0, 0); errno != 0 {
		return os.NewSyscallError("epoll_ctl", errno)
	}
	l.table[fd] = entry{h, l.turn}
	return nil
}

// forget stops to wait for fd, which is about to be closed and with that leaves
// the epoll by itself.
func (l *loop) forget(fd int) {
	if fd < len(l.table) {
		l.table[fd] = entry{}
	}
}

// enter moves the thread into a network. It stays there for a while: the next
// socket is often for the same one.
func (l *loop) enter(network string) error {
	if l.inside != network {
		if err := l.thread.Enter(network); err != nil {
			return err
		}
		l.inside = network
	}
	l.entered = l.now
	return nil
}

func (l *loop) leave() {
	if err := l.thread.Leave(); err != nil {
		l.log.Error("leave a network", "network", l.inside, "err", err)
	}
	l.inside = ""
}

// System calls that cannot block do not tell the runtime.

func read(fd int, b []byte) (int, syscall.Errno) { return transfer(unix.SYS_READ, fd, b) }

func write(fd int, b []byte) (int, syscall.Errno) { return transfer(unix.SYS_WRITE, fd, b) }

func transfer(call uintptr, fd int, b []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch errno {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

func closeFile(fd int) { _, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

func setOption(fd, level, name int, value int32) syscall.Errno {
	_, _, errno := syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(unsafe.Pointer(&value)), 4, 0)
	return errno
}

// reset closes a TCP socket so that its peer sees a reset at once.
func reset(fd int) {
	hard := unix.Linger{Onoff: 1}
	_, _, _ = syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER, uintptr(unsafe.Pointer(&hard)), unsafe.Sizeof(hard), 0)
	closeFile(fd)
}
