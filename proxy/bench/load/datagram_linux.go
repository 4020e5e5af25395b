package load

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A datagram begins with its flow and its number there; the rest is cut from the
// pattern at the place of that message.
const labelSize = 8

const (
	batch       = 64                     // messages of a system call
	segments    = 16                     // datagrams of a message, where the kernel cuts them
	largest     = 2 << 10                // datagram
	socketBytes = 8 << 20                // buffered by a socket
	lostAfter   = 100 * time.Millisecond // without any datagram, all that are under way are lost
)

// Datagrams describes a load of them.
type Datagrams struct {
	Flows  int        // each from an address of its own
	From   netip.Addr // of the first flow; those of the others follow it
	Size   int        // of a datagram
	Window int        // datagrams under way at a time
	GSO    bool       // hand 16 at once to the kernel, which cuts them
}

// Run sends datagrams to the backend and gets them back, until d is over.
func (l Datagrams) Run(to netip.AddrPort, d time.Duration) (Result, error) {
	if l.Size < labelSize || l.Size > largest {
		return Result{}, fmt.Errorf("datagrams of %d bytes: want %d to %d", l.Size, labelSize, largest)
	}
	runtime.LockOSThread()
	fd, err := datagramSocket(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
	if err != nil {
		return Result{}, err
	}
	defer hangUp(fd)
	limit := unix.NsecToTimeval(lostAfter.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return Result{}, fmt.Errorf("limit the wait for datagrams: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1); err != nil {
		return Result{}, fmt.Errorf("ask where datagrams come: %w", err)
	}
	out, in := l.outbox(to), newInbox()
	step := 1
	if l.GSO {
		step = segments
	}
	r := Result{}
	sent := make([]uint32, l.Flows) // number of the next message
	next, flying := 0, 0
	start := time.Now()
	for time.Since(start) < d {
		n := 0
		for ; n < batch && flying+step <= l.Window; n++ {
			out.fill(n, next, sent[next], step)
			sent[next] += uint32(step)
			next = (next + 1) % l.Flows
			flying += step
		}
		if err := out.send(fd, n); err != nil {
			return Result{}, err
		}
		n, err := in.receive(fd, unix.MSG_WAITFORONE)
		if err == unix.EAGAIN { //nolint:errorlint // a bare errno
			r.Failed, flying = r.Failed+flying, 0
			continue
		}
		if err != nil {
			return Result{}, fmt.Errorf("receive datagrams: %w", err)
		}
		for i := range n {
			if err := l.check(in.datagram(i), in.came(i), sent); err != nil {
				return Result{}, err
			}
		}
		r.Work += float64(n)
		flying = max(0, flying-n)
	}
	r.Seconds = time.Since(start).Seconds()
	return r, nil
}

// at returns the address of a flow.
func (l Datagrams) at(flow int) [4]byte {
	a := l.From.As4()
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])+uint32(flow))
	return a
}

// check compares a datagram that came to an address with the one that was sent.
func (l Datagrams) check(b []byte, came [4]byte, sent []uint32) error {
	if len(b) != l.Size {
		return fmt.Errorf("a datagram of %d bytes: %w", len(b), ErrCorrupt)
	}
	flow, n := int(binary.LittleEndian.Uint32(b)), binary.LittleEndian.Uint32(b[4:])
	if flow >= len(sent) || n >= sent[flow] || came != l.at(flow) {
		return fmt.Errorf("datagram %d of flow %d came to %v: %w", n, flow, netip.AddrFrom4(came), ErrCorrupt)
	}
	at := message(flow, int(n))
	if !bytes.Equal(b[labelSize:], pattern[at:at+l.Size-labelSize]) {
		return fmt.Errorf("datagram %d of flow %d: %w", n, flow, ErrCorrupt)
	}
	return nil
}

// header is the kernel's struct mmsghdr.
type header struct {
	unix.Msghdr
	n uint32
	_ [4]byte
}

func exchange(call uintptr, fd int, h []header, flags uintptr) (int, error) {
	for {
		n, _, errno := unix.Syscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&h[0])), uintptr(len(h)), flags, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// controls of a message: where it comes from or goes to, and how to cut it.
type controls struct {
	info unix.Cmsghdr
	from unix.Inet4Pktinfo
	_    [4]byte
	cut  unix.Cmsghdr
	size uint16
	_    [6]byte
}

// outbox holds the messages of one system call.
type outbox struct {
	l        Datagrams
	headers  [batch]header
	to       unix.RawSockaddrInet4
	controls [batch]controls
	parts    [batch][2 * segments]unix.Iovec // label and body of each datagram
	labels   [batch][segments][labelSize]byte
}

func (l Datagrams) outbox(to netip.AddrPort) *outbox {
	o := &outbox{l: l, to: unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: to.Addr().As4()}}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&o.to.Port))[:], to.Port())
	for i := range o.headers {
		h, c := &o.headers[i], &o.controls[i]
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&o.to)), unix.SizeofSockaddrInet4
		h.Iov = &o.parts[i][0]
		c.info = unix.Cmsghdr{Level: unix.IPPROTO_IP, Type: unix.IP_PKTINFO}
		c.info.SetLen(unix.CmsgLen(unix.SizeofInet4Pktinfo))
		c.cut = unix.Cmsghdr{Level: unix.SOL_UDP, Type: unix.UDP_SEGMENT}
		c.cut.SetLen(unix.CmsgLen(int(unsafe.Sizeof(c.size))))
		c.size = uint16(l.Size)
		h.Control = (*byte)(unsafe.Pointer(c))
		h.SetControllen(unix.CmsgSpace(unix.SizeofInet4Pktinfo))
		if l.GSO {
			h.SetControllen(unix.CmsgSpace(unix.SizeofInet4Pktinfo) + unix.CmsgSpace(int(unsafe.Sizeof(c.size))))
		}
	}
	return o
}

// fill makes message i hold datagrams of a flow, the first of which is its nth.
func (o *outbox) fill(i, flow int, n uint32, datagrams int) {
	o.controls[i].from.Spec_dst = o.l.at(flow)
	for k := range datagrams {
		label := &o.labels[i][k]
		binary.LittleEndian.PutUint32(label[:], uint32(flow))
		binary.LittleEndian.PutUint32(label[4:], n+uint32(k))
		o.parts[i][2*k].Base = &label[0]
		o.parts[i][2*k].SetLen(labelSize)
		o.parts[i][2*k+1].Base = &pattern[message(flow, int(n)+k)]
		o.parts[i][2*k+1].SetLen(o.l.Size - labelSize)
	}
	o.headers[i].SetIovlen(2 * datagrams)
}

// send sends the first n messages.
func (o *outbox) send(fd, n int) error {
	for at := 0; at < n; {
		k, err := exchange(unix.SYS_SENDMMSG, fd, o.headers[at:n], 0)
		if err == unix.ECONNREFUSED { //nolint:errorlint // a bare errno; of a datagram before
			continue
		}
		if err != nil {
			return fmt.Errorf("send datagrams: %w", err)
		}
		at += k
	}
	return nil
}

// inbox is room for the messages of one system call.
type inbox struct {
	headers  [batch]header
	names    [batch]unix.RawSockaddrInet4
	controls [batch]controls
	parts    [batch]unix.Iovec
	bodies   [batch][largest]byte
}

func newInbox() *inbox {
	in := new(inbox)
	for i := range in.headers {
		in.headers[i].Iov = &in.parts[i]
		in.headers[i].SetIovlen(1)
		in.headers[i].Control = (*byte)(unsafe.Pointer(&in.controls[i]))
		in.headers[i].Name = (*byte)(unsafe.Pointer(&in.names[i]))
		in.parts[i].Base = &in.bodies[i][0]
	}
	return in
}

// receive waits for messages and returns how many came.
func (in *inbox) receive(fd int, flags uintptr) (int, error) {
	for i := range in.headers {
		in.headers[i].Namelen = unix.SizeofSockaddrInet4
		in.headers[i].SetControllen(unix.CmsgSpace(unix.SizeofInet4Pktinfo))
		in.parts[i].SetLen(largest)
	}
	return exchange(unix.SYS_RECVMMSG, fd, in.headers[:], flags)
}

func (in *inbox) datagram(i int) []byte { return in.bodies[i][:in.headers[i].n] }

// came returns the address that a message came to.
func (in *inbox) came(i int) [4]byte { return in.controls[i].from.Addr }

// echo sends back the first n messages that came.
func (in *inbox) echo(fd, n int) {
	for i := range n {
		in.parts[i].SetLen(int(in.headers[i].n))
		in.headers[i].SetControllen(0)
	}
	for at := 0; at < n; {
		k, err := exchange(unix.SYS_SENDMMSG, fd, in.headers[at:n], 0)
		if err != nil {
			k = 1 // it is lost, as datagrams may be
		}
		at += k
	}
}

// datagramSocket opens one with large buffers.
func datagramSocket(at netip.AddrPort) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket: %w", err)
	}
	for _, name := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, name[0], socketBytes) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, name[1], socketBytes) // as much as an ordinary user gets
		}
	}
	if err := unix.Bind(fd, sockaddr(at)); err != nil {
		hangUp(fd)
		return 0, fmt.Errorf("bind to %v: %w", at, err)
	}
	return fd, nil
}

// echoDatagrams is the backend's thread for datagrams.
func echoDatagrams(fd int) error {
	runtime.LockOSThread()
	in := newInbox()
	for {
		n, err := in.receive(fd, unix.MSG_WAITFORONE)
		switch {
		case err == unix.ECONNREFUSED: //nolint:errorlint // a bare errno; of an answer before
		case err != nil:
			return fmt.Errorf("receive datagrams: %w", err)
		default:
			in.echo(fd, n)
		}
	}
}
