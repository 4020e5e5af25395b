package vpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Exec is the client's side of a command in an attachment. It sends request as
// the message that asks for it, together with the command's standard input,
// output and error, and returns the command's exit code. Signals that come
// meanwhile are relayed. If stdin and stdout are terminals, the command gets a
// terminal of its own, of the same size, and request is told so.
//
// After request, nothing but [Note]s goes over c: from whoever answered the
// request, if it is an Error, and else from the command's shim. When ctx ends or c
// breaks, the command is asked to end.
func Exec(ctx context.Context, c *net.UnixConn, stdio [3]*os.File, request func(tty bool) any) (code int, err error) {
	fds := make([]int, len(stdio))
	for i, f := range stdio {
		if err := control(f, func(fd int) error { fds[i] = fd; return nil }); err != nil {
			return 0, fmt.Errorf("standard descriptor %d: %w", i, err)
		}
	}
	var t *terminal
	if isTerminal(fds[0]) && isTerminal(fds[1]) {
		if t, err = openTerminal(fds[0], stdio[0], stdio[1]); err != nil {
			return 0, err
		}
		defer t.restore()
		fds = []int{t.inner, t.inner, t.inner}
	}
	err = Send(c, request(t != nil), fds...)
	if t != nil {
		unix.Close(t.inner)
	}
	if err != nil {
		return 0, err
	}
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if t != nil {
		defer t.run()()
	}
	defer relay(c)()
	var n Note
	fds, err = Receive(c, &n)
	closeDescriptors(fds)
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case errors.Is(err, io.EOF):
		return 0, errors.New("the command's shim is gone")
	case err != nil:
		return 0, err
	case n.Error != "":
		return 0, errors.New(n.Error)
	case n.Exit == nil:
		return 0, errors.New("no exit code came")
	}
	return *n.Exit, nil
}

// relay sends the signals of this process to the command's shim.
func relay(c *net.UnixConn) (stop func()) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	var wg sync.WaitGroup
	wg.Go(func() {
		for s := range signals {
			_ = Send(c, Note{Signal: int(s.(syscall.Signal))}) // a broken connection is seen by the reader
		}
	})
	return func() {
		signal.Stop(signals)
		close(signals)
		wg.Wait()
	}
}

// terminal joins the user's terminal, made raw, to a pseudo-terminal for the
// command. The command line does the copying: not a byte of a session goes through
// the engine.
type terminal struct {
	fd     int // the user's
	saved  *unix.Termios
	in     *os.File
	out    *os.File
	master *os.File
	inner  int // the command's end
}

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

func openTerminal(fd int, in, out *os.File) (*terminal, error) {
	t := &terminal{fd: fd, in: in, out: out}
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	t.master = os.NewFile(uintptr(master), "ptmx")
	fail := func(err error) (*terminal, error) {
		t.master.Close()
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return fail(err)
	}
	// By the master and not by a path, which another namespace may show otherwise.
	// Its argument is a value, and without O_RDWR the end would be read-only.
	inner, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return fail(errno)
	}
	t.inner = int(inner)
	t.resize()
	if t.saved, err = unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
		unix.Close(t.inner)
		return fail(err)
	}
	raw := *t.saved // as cfmakeraw(3)
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &raw); err != nil {
		unix.Close(t.inner)
		return fail(err)
	}
	return t, nil
}

func (t *terminal) resize() {
	size, err := unix.IoctlGetWinsize(t.fd, unix.TIOCGWINSZ)
	if err != nil {
		return
	}
	_ = control(t.master, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size) })
}

// drain is how long after the command's end, or its last output since, something
// that it left running may keep the terminal.
const drain = 100 * time.Millisecond

// run copies until stop is called, which first writes what the command left. The
// reader of the user's terminal ends with the process, or when that terminal does.
func (t *terminal) run() (stop func()) {
	sizes := make(chan os.Signal, 1)
	signal.Notify(sizes, syscall.SIGWINCH)
	var wg sync.WaitGroup
	wg.Go(func() {
		for range sizes {
			t.resize()
		}
	})
	go func() { _, _ = io.Copy(t.master, t.in) }()
	ended := make(chan struct{})
	var output sync.WaitGroup
	output.Go(func() {
		b := make([]byte, 32<<10)
		for {
			n, err := t.master.Read(b)
			if n > 0 {
				if _, err := t.out.Write(b[:n]); err != nil {
					return
				}
			}
			if err != nil { // EIO: nobody has the command's end any more; or the drain is over
				return
			}
			select {
			case <-ended:
				_ = t.master.SetReadDeadline(time.Now().Add(drain))
			default:
			}
		}
	})
	return func() {
		close(ended)
		_ = t.master.SetReadDeadline(time.Now().Add(drain))
		output.Wait()
		t.master.Close()
		signal.Stop(sizes)
		close(sizes)
		wg.Wait()
	}
}

// restore makes the user's terminal what it was.
func (t *terminal) restore() {
	_ = unix.IoctlSetTermios(t.fd, unix.TCSETS, t.saved)
}
