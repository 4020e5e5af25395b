package load

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Bulk sends on streams connections at once for d, ends its half of each, and waits
// for the backend's answer and its end: bytes count once they have been delivered,
// all of them and right.
func Bulk(to netip.AddrPort, streams int, d time.Duration) (Result, error) {
	runtime.LockOSThread()
	p, err := newPoller()
	if err != nil {
		return Result{}, err
	}
	defer p.close()
	sent := map[int]int{} // by descriptor
	defer func() {
		for fd := range sent {
			hangUp(fd)
		}
	}()
	for range streams {
		fd, err := connect(sockaddr(to))
		if err != nil {
			return Result{}, err
		}
		sent[fd] = 0
		if err := p.add(fd, unix.EPOLLOUT); err != nil {
			return Result{}, err
		}
	}
	start := time.Now()
	for time.Since(start) < d {
		events, err := p.wait(time.Second)
		if err != nil {
			return Result{}, err
		}
		for _, ev := range events {
			fd := int(ev.Fd)
			for range turns {
				at := sent[fd] % period
				n, errno := send(fd, pattern[at:at+longest])
				if errno == unix.EAGAIN {
					break
				}
				if errno != 0 {
					return Result{}, fmt.Errorf("send after %d bytes: %w", sent[fd], errno)
				}
				if sent[fd] += n; n < longest {
					break
				}
			}
		}
	}
	r := Result{}
	for fd := range sent {
		if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
			return Result{}, fmt.Errorf("end a stream: %w", err)
		}
	}
	for fd, n := range sent {
		if err := answered(fd, n); err != nil {
			return Result{}, err
		}
		r.Work += float64(n)
	}
	r.Seconds = time.Since(start).Seconds()
	return r, nil
}

// answered reads the backend's answer, which shall be n, and the end.
func answered(fd, n int) error {
	if err := unix.SetNonblock(fd, false); err != nil {
		return fmt.Errorf("wait for the backend: %w", err)
	}
	limit := unix.NsecToTimeval(quiet.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return fmt.Errorf("wait for the backend: %w", err)
	}
	var answer [16]byte
	got := 0
	for got < len(answer) {
		k, err := unix.Read(fd, answer[got:])
		if err != nil {
			return fmt.Errorf("wait for the backend: %w", err)
		}
		if k == 0 {
			break
		}
		got += k
	}
	if got != 8 {
		return fmt.Errorf("%d bytes of an answer to %d: %w", got, n, ErrCorrupt)
	}
	if right := binary.LittleEndian.Uint64(answer[:]); right != uint64(n) {
		return fmt.Errorf("%d of %d bytes were right: %w", right, n, ErrCorrupt)
	}
	return nil
}

// turns is how many pieces a stream may send before the others get their turn.
const turns = 4

// Connections makes one connection after the other, clients at a time: each sends
// size bytes, gets them back and closes.
func Connections(to netip.AddrPort, clients, size int, d time.Duration) (Result, error) {
	c := client{to: sockaddr(to), size: size, until: d, renew: true}
	defer c.close()
	if err := c.dialAll(clients); err != nil {
		return Result{}, err
	}
	return c.finish()
}

// Requests sends size bytes on each of conns connections, gets them back, and does
// so again. The clock starts when each of them has done so once.
func Requests(to netip.AddrPort, conns, size int, d time.Duration) (Result, error) {
	c := client{to: sockaddr(to), size: size, until: d}
	defer c.close()
	if err := c.open(conns); err != nil {
		return Result{}, err
	}
	c.start = time.Now()
	for fd := range c.calls {
		if c.calls[fd].open {
			c.calls[fd].asked = 0
			if err := c.step(fd); err != nil {
				return Result{}, err
			}
		}
	}
	return c.finish()
}

// Idle opens conns connections, sends 64 bytes on each and gets them back, calls
// held, and closes them when that returns.
func Idle(to netip.AddrPort, conns int, held func()) (Result, error) {
	c := client{to: sockaddr(to), size: 64}
	defer c.close()
	if err := c.open(conns); err != nil {
		return Result{}, err
	}
	held()
	return Result{Work: float64(conns), Seconds: time.Since(c.start).Seconds()}, nil
}

// call is a connection with one message in flight, or none.
type call struct {
	id    int
	n     int // number of the message
	got   int // bytes of it that came back
	asked time.Duration
	open  bool
	sent  bool
}

// client keeps calls going.
type client struct {
	to    *unix.SockaddrInet4
	size  int
	until time.Duration // since start
	renew bool          // a connection for each message
	hold  bool          // do not go on to the next message

	poll  *poller
	calls []call // by descriptor
	live  int
	next  int // id
	held  int // connections that do not go on
	buf   []byte

	start time.Time
	lat   histogram
	done  int
	res   Result
}

func (c *client) close() {
	for fd := range c.calls {
		if c.calls[fd].open {
			hangUp(fd)
		}
	}
	if c.poll != nil {
		c.poll.close()
	}
}

func (c *client) dialAll(n int) (err error) {
	runtime.LockOSThread()
	c.buf, c.start = make([]byte, c.size), time.Now()
	if c.poll, err = newPoller(); err != nil {
		return err
	}
	for range n {
		if err := c.dial(); err != nil {
			return err
		}
	}
	return nil
}

// open makes n connections and waits until a message has come back on each.
func (c *client) open(n int) error {
	c.hold = true
	if err := c.dialAll(n); err != nil {
		return err
	}
	for c.held < n {
		events, err := c.turn()
		if err != nil {
			return err
		}
		if events == 0 || c.res.Failed > 0 {
			return fmt.Errorf("open %d connections: only %d answer", n, c.held)
		}
	}
	c.hold, c.done, c.lat = false, 0, histogram{}
	return nil
}

// finish goes on until the time is over and the last message has come back.
func (c *client) finish() (Result, error) {
	for c.live > 0 {
		events, err := c.turn()
		if err != nil {
			return Result{}, err
		}
		if events == 0 { // they hang
			c.res.Failed += c.live
			break
		}
	}
	c.res.Work, c.res.Seconds = float64(c.done), time.Since(c.start).Seconds()
	c.res.latencies(&c.lat)
	return c.res, nil
}

// turn handles what has happened, and says how much that was.
func (c *client) turn() (int, error) {
	events, err := c.poll.wait(quiet)
	if err != nil {
		return 0, err
	}
	for _, ev := range events {
		if err := c.step(int(ev.Fd)); err != nil {
			return 0, err
		}
	}
	return len(events), nil
}

func (c *client) dial() error {
	fd, err := connect(c.to)
	if err != nil {
		return err
	}
	for fd >= len(c.calls) {
		c.calls = append(c.calls, call{})
	}
	c.calls[fd] = call{id: c.next, open: true, asked: time.Since(c.start)}
	c.next++
	c.live++
	return c.poll.add(fd, unix.EPOLLIN|unix.EPOLLOUT|edge)
}

// step goes on with a connection that something happened to.
func (c *client) step(fd int) error {
	k := &c.calls[fd]
	at := message(k.id, k.n)
	if !k.sent {
		n, errno := send(fd, pattern[at:at+c.size])
		switch {
		case errno == unix.EAGAIN: // not connected yet
		case errno != 0 || n != c.size: // the socket's buffer is empty
			return c.fail(fd)
		default:
			k.sent = true
		}
		return nil
	}
	for k.got < c.size {
		n, errno := recv(fd, c.buf[:c.size-k.got])
		switch {
		case errno == unix.EAGAIN:
			return nil
		case errno != 0 || n == 0:
			return c.fail(fd)
		case !bytes.Equal(c.buf[:n], pattern[at+k.got:at+k.got+n]):
			return fmt.Errorf("message %d of connection %d: %w", k.n, k.id, ErrCorrupt)
		}
		k.got += n
	}
	now := time.Since(c.start)
	c.lat.add(now - k.asked)
	c.done++
	k.n, k.got, k.sent, k.asked = k.n+1, 0, false, now
	switch {
	case c.hold:
		c.held++
		return nil
	case c.renew || now >= c.until:
		return c.end(fd)
	}
	return c.step(fd)
}

func (c *client) fail(fd int) error {
	c.res.Failed++
	return c.end(fd)
}

// end closes a connection, and puts another one in its place.
func (c *client) end(fd int) error {
	c.calls[fd].open = false
	hangUp(fd)
	c.live--
	if c.renew && time.Since(c.start) < c.until {
		return c.dial()
	}
	return nil
}
