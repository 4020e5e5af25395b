package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// hearing is a socket that datagrams of many clients come in by. One goroutine
// reads it.
type hearing struct {
	*net.UDPConn
	forwarder *Goroutines
	door      Door
	done      chan struct{} // the reader has returned

	mu      sync.Mutex
	clients clients[*talk]
}

// Packets implements [Forwarder].
func (f *Goroutines) Packets(fd int, door Door) (Listener, error) {
	file := os.NewFile(uintptr(fd), "packets")
	c, err := net.FilePacketConn(file)
	_ = file.Close()
	if err != nil {
		return nil, err
	}
	uc, ok := c.(*net.UDPConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("%v is not a UDP socket", c.LocalAddr())
	}
	_ = uc.SetReadBuffer(packetBuffer)
	h := &hearing{UDPConn: uc, forwarder: f, door: door, done: make(chan struct{}), clients: clients[*talk]{most: flowsMost, all: &f.talks}}
	f.running.Go(h.read)
	return quiet{hearing: h}, nil
}

type quiet struct {
	*hearing
	unfiltered
}

// Close implements [Listener].
func (q quiet) Close() {
	_ = q.UDPConn.Close()
	<-q.done
}

func (h *hearing) read() {
	defer close(h.done)
	buf := make([]byte, packetRoom)
	for {
		n, from, err := h.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			h.heard(netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), buf[:n])
		}
	}
}

// heard passes a datagram on, as the first of a new flow if need be.
func (h *hearing) heard(client netip.AddrPort, d []byte) {
	h.mu.Lock()
	s := h.clients.flows[client]
	h.mu.Unlock()
	if s != nil {
		s.send(d)
		return
	}
	s = &talk{at: h}
	s.Source, s.Start, s.owner, s.First = client, time.Now(), s, d
	s.live, s.stop = context.WithCancel(context.Background())
	h.mu.Lock()
	room := h.clients.add(client, s)
	h.mu.Unlock()
	if !room {
		s.End(Full)
	}
	session := h.door.Admit(&s.Flow)
	if session == nil {
		s.End(Closed)
		h.remove(s)
		return
	}
	s.early = append(s.early, append([]byte(nil), d...))
	s.First = s.early[0]
	h.forwarder.running.Go(func() { s.serve(session) })
}

func (h *hearing) remove(s *talk) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clients.remove(s.Source, s)
}

// talk is a UDP flow. One goroutine reads what its server answers.
type talk struct {
	Flow
	at   *hearing
	live context.Context // ends with the flow
	stop context.CancelFunc

	mu      sync.Mutex
	server  *net.UDPConn // nil until there is one
	preface []byte       // goes in front of the first datagram
	early   [][]byte     // datagrams that came before there was a server
	moved   int64        // when the last datagram did, on the clock of monotonic
}

// serve takes the flow from its first datagram to its end.
func (s *talk) serve(session Session) {
	for s.Reason() == "" {
		t, ok := session.Next(&s.Flow)
		if !ok {
			break
		}
		ctx, cancel := context.WithTimeout(s.live, dialTimeout)
		server, err := s.at.forwarder.dialPackets(ctx, t)
		cancel()
		if err != nil {
			session.Failed(&s.Flow, err)
			continue
		}
		s.First = nil
		session.Stands(&s.Flow)
		s.stand(server, t.Preface)
		s.answers(server)
		_ = server.Close()
		break
	}
	s.End(Closed)
	s.at.remove(s)
	session.Ended(&s.Flow)
}

// dialPackets makes a socket that is connected to t.
func (f *Goroutines) dialPackets(ctx context.Context, t Target) (*net.UDPConn, error) {
	var c net.Conn
	var err error
	if t.Network == "" {
		c, err = new(net.Dialer).DialContext(ctx, "udp", t.To.String())
	} else {
		c, err = f.driver.DialUDP(ctx, t.Network, t.From, t.To)
	}
	if err != nil {
		return nil, err
	}
	uc, ok := c.(*net.UDPConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("dial %v: not a UDP socket", t.To)
	}
	return uc, nil
}

// look closes the server's socket, on which the flow's goroutine waits.
func (s *talk) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	if s.server != nil {
		_ = s.server.Close()
	}
}

// stand begins to pass datagrams on, those first that have come already.
func (s *talk) stand(c *net.UDPConn, preface []byte) {
	s.mu.Lock()
	s.server, s.preface, s.moved = c, preface, monotonic()
	early := s.early
	s.early = nil
	if s.Reason() != "" {
		_ = c.Close()
	}
	var err error
	for _, d := range early {
		err = errors.Join(err, s.pass(d))
	}
	s.mu.Unlock()
	s.heed(err)
}

// send passes a datagram of the client on, or keeps it until there is a server.
func (s *talk) send(d []byte) {
	s.mu.Lock()
	var err error
	switch {
	case s.server != nil:
		err = s.pass(d)
	case len(s.early) < earlyMost:
		s.early = append(s.early, append([]byte(nil), d...))
	default:
		s.Dropped.Add(1)
	}
	s.mu.Unlock()
	s.heed(err)
}

// heed ends the flow if its server refused what was sent before.
func (s *talk) heed(err error) {
	if errors.Is(err, unix.ECONNREFUSED) {
		s.End(Unreachable)
	}
}

// pass sends d to the server if that is possible at once. The caller holds mu.
func (s *talk) pass(d []byte) error {
	n := len(d)
	if !s.limit(In).Take(n) {
		s.Dropped.Add(1)
		return nil
	}
	if len(s.preface) > 0 {
		d = append(slices.Clip(s.preface), d...)
	}
	if err := sendNow(s.server, d); err != nil {
		s.Dropped.Add(1)
		return err
	}
	s.preface = nil
	s.passed(In, n)
	return nil
}

func (s *talk) passed(direction, n int) {
	s.moved = monotonic()
	s.count(direction, n)
	s.Datagrams[direction].Add(1)
}

// sendNow does not wait for room.
func sendNow(c *net.UDPConn, d []byte) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Send(int(fd), d, 0)
		return true
	})
	return errors.Join(err, sent)
}

// answers returns when the flow is idle, or ended, or its server is gone.
func (s *talk) answers(c *net.UDPConn) {
	idle := s.Idle
	if idle <= 0 {
		idle = packetIdle
	}
	raw, err := c.SyscallConn()
	for err == nil {
		s.mu.Lock()
		left := idle - time.Duration(monotonic()-s.moved)
		s.mu.Unlock()
		if left <= 0 {
			s.End(Idle)
			return
		}
		_ = c.SetReadDeadline(time.Now().Add(left))
		var failed error
		err = raw.Read(func(fd uintptr) bool {
			failed = s.answer(fd)
			return failed != unix.EAGAIN //nolint:errorlint // a bare errno
		})
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil
		} else {
			err = errors.Join(err, failed)
		}
	}
	s.End(Unreachable)
}

// answer passes a datagram of the server on. It holds a buffer only meanwhile.
func (s *talk) answer(fd uintptr) error {
	buf := packetBuffers.Get().(*[]byte)
	defer packetBuffers.Put(buf)
	n, err := retry(unix.Read, fd, *buf)
	if err != nil {
		return err
	}
	d := (*buf)[:n]
	if s.Reply != nil {
		s.Reply(d)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.limit(Out).Take(n) {
		s.Dropped.Add(1)
		return nil
	}
	if _, err := s.at.WriteToUDPAddrPort(d, s.Source); err != nil {
		s.Dropped.Add(1)
		return nil
	}
	s.passed(Out, n)
	return nil
}

var packetBuffers = sync.Pool{New: func() any { return new(make([]byte, packetRoom)) }}
