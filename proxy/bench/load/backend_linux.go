package load

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// Backend serves all ports at an address until one of its threads fails. ready is
// called once every port is open.
func Backend(at netip.Addr, threads int, ready func()) error {
	failed := make(chan error)
	for range threads {
		s, err := newServer(at)
		if err != nil {
			return err
		}
		go func() { failed <- s.run() }()
	}
	fd, err := datagramSocket(netip.AddrPortFrom(at, PortDatagram))
	if err != nil {
		return err
	}
	go func() { failed <- echoDatagrams(fd) }()
	ready()
	return <-failed
}

// server is one thread of a backend.
type server struct {
	poll  *poller
	doors map[int32]peer // what a connection to a listening socket is
	peers []peer         // by descriptor
	buf   []byte
}

// peer is one connection.
type peer struct {
	sink   bool
	header []byte // of PROXY v2 so far; nil: none is expected any more
	right  int    // sink: bytes that were as they should be
	wrong  bool   // sink: one was not
	rest   []byte // echo: that could not be sent yet
}

func newServer(at netip.Addr) (*server, error) {
	p, err := newPoller()
	if err != nil {
		return nil, err
	}
	s := &server{poll: p, doors: map[int32]peer{}, buf: make([]byte, longest)}
	for port, kind := range map[uint16]peer{
		PortEcho:      {},
		PortSink:      {sink: true},
		PortEchoProxy: {header: []byte{}},
		PortSinkProxy: {sink: true, header: []byte{}},
	} {
		fd, err := listen(netip.AddrPortFrom(at, port))
		if err != nil {
			return nil, err
		}
		s.doors[int32(fd)] = kind
		if err := p.add(fd, unix.EPOLLIN); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *server) run() error {
	runtime.LockOSThread()
	for {
		events, err := s.poll.wait(-1)
		if err != nil {
			return err
		}
		for _, ev := range events {
			if kind, ok := s.doors[ev.Fd]; ok {
				if err := s.accept(int(ev.Fd), kind); err != nil {
					return err
				}
			} else if !s.serve(int(ev.Fd), ev.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0) {
				s.peers[ev.Fd] = peer{}
				hangUp(int(ev.Fd))
			}
		}
	}
}

func (s *server) accept(door int, kind peer) error {
	for {
		fd, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(door), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		switch errno {
		case 0:
		case unix.EAGAIN:
			return nil
		case unix.ECONNABORTED:
			continue
		default:
			return fmt.Errorf("accept: %w", errno)
		}
		c := int(fd)
		if err := unix.SetsockoptInt(c, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		if c >= len(s.peers) {
			s.peers = append(s.peers, make([]peer, c+1-len(s.peers))...)
		}
		s.peers[c] = kind
		if err := s.poll.add(c, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP|edge); err != nil {
			return err
		}
	}
}

// serve does what can be done for a connection, and says whether it goes on. Unless
// its end has come, a read that does not fill the buffer was the last for now.
func (s *server) serve(fd int, ending bool) bool {
	p := &s.peers[fd]
	for {
		if len(p.rest) > 0 {
			n, errno := send(fd, p.rest)
			if errno != 0 {
				return errno == unix.EAGAIN
			}
			p.rest = p.rest[n:]
			continue
		}
		n, errno := recv(fd, s.buf)
		if errno != 0 {
			return errno == unix.EAGAIN
		}
		b := s.buf[:n]
		if n > 0 && p.header != nil {
			var ok bool
			if b, ok = p.strip(b); !ok {
				return false
			}
		}
		switch {
		case n == 0 && p.sink:
			_, _ = send(fd, binary.LittleEndian.AppendUint64(nil, uint64(p.right)))
			return false
		case n == 0:
			return false
		case p.sink:
			p.compare(b)
		case len(b) > 0:
			sent, errno := send(fd, b)
			if errno != 0 && errno != unix.EAGAIN {
				return false
			}
			p.rest = slices.Clone(b[max(sent, 0):])
		}
		if n < len(s.buf) && len(p.rest) == 0 && !ending {
			return true
		}
	}
}

// compare counts what comes for as long as it is right.
func (p *peer) compare(b []byte) {
	at := p.right % period
	if p.wrong = p.wrong || !bytes.Equal(b, pattern[at:at+len(b)]); !p.wrong {
		p.right += len(b)
	}
}

// A PROXY v2 header is a signature, a version and command, a family, and the length
// of what follows.
const (
	signature   = "\r\n\r\n\x00\r\nQUIT\n"
	fixedHeader = len(signature) + 4
)

// strip takes the header off the first bytes of a connection. It is false if they
// are none.
func (p *peer) strip(b []byte) ([]byte, bool) {
	had := len(p.header)
	h := append(p.header, b...)
	if !bytes.HasPrefix(h, []byte(signature[:min(len(h), len(signature))])) {
		return nil, false
	}
	p.header = h
	if len(h) < fixedHeader {
		return nil, true
	}
	whole := fixedHeader + int(binary.BigEndian.Uint16(h[fixedHeader-2:]))
	if len(h) < whole {
		return nil, true
	}
	p.header = nil
	return b[whole-had:], true
}
