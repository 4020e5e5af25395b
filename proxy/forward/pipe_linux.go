package forward

import (
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	pipeSize   = 1 << 20   // bytes; what one splice moves at most
	pipeLesser = 256 << 10 // where the user's quota of pipe pages does not allow more
	pipeLeast  = 64 << 10  // a smaller one is not worth its calls
	pipesMost  = 64        // of a loop; further flows copy
)

// pipe carries bytes of one direction from socket to socket inside the kernel. A
// direction holds it only while bytes are in flight.
type pipe struct {
	r, w int
	size int
}

// takePipe returns a pipe, or nil if there is none to be had: then the bytes are
// copied.
func (l *loop) takePipe() *pipe {
	if n := len(l.pipes); n > 0 {
		p := l.pipes[n-1]
		l.pipes = l.pipes[:n-1]
		return p
	}
	if l.made >= pipesMost || !l.files.take(2) {
		return nil
	}
	p := newPipe()
	if p == nil {
		l.files.release(2)
		return nil
	}
	l.made++
	return p
}

// putPipe gives back a pipe that is empty.
func (l *loop) putPipe(p *pipe) { l.pipes = append(l.pipes, p) }

// dropPipe closes a pipe that may hold bytes.
func (l *loop) dropPipe(p *pipe) {
	p.close()
	l.files.release(2)
	l.made--
}

func newPipe() *pipe {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return nil
	}
	p := &pipe{r: fds[0], w: fds[1]}
	for _, size := range []int{pipeSize, pipeLesser, pipeLeast} {
		if got, err := unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, size); err == nil && got >= pipeLeast {
			p.size = got
			return p
		}
	}
	p.close() // the user's quota is used up: a pipe of a page or two costs more than it saves
	return nil
}

func (p *pipe) close() {
	closeFile(p.r)
	closeFile(p.w)
}

func splice(from, to, n int) (int, syscall.Errno) {
	for {
		moved, _, errno := syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch errno {
		case 0:
			return int(moved), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
