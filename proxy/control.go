package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

const (
	socketName   = 103                   // bytes that every system allows
	controlConns = 256                   // clients at the same time; more wait
	controlPause = 50 * time.Millisecond // after an accept that failed
	observeLimit = 20 * time.Second      // after which a long poll is answered with nothing, so that a client that is gone is noticed
)

// request is one message of a client: exactly one field is set. The answer is a
// response, but for exec: there the shim of the command has the connection from
// then on, and only a failure is answered, by a [vpc.Note].
type request struct {
	Status  *struct{}     `json:"status,omitempty"`
	Apply   *Change       `json:"apply,omitempty"`
	Observe *uint64       `json:"observe,omitempty"`
	Probe   *ProbeRequest `json:"probe,omitempty"`
	Records *RecordQuery  `json:"records,omitempty"`
	Series  *SeriesQuery  `json:"series,omitempty"`
	Vitals  *struct{}     `json:"vitals,omitempty"`
	Exec    *ExecRequest  `json:"exec,omitempty"`
	Stop    *struct{}     `json:"stop,omitempty"`
	Upgrade *string       `json:"upgrade,omitempty"` // the program's path; answered only if it does not come to that
}

type response struct {
	Fault        fault         `json:"fault,omitempty"`
	Error        string        `json:"error,omitempty"`
	Status       *Status       `json:"status,omitempty"`
	Observations *Observations `json:"observations,omitempty"`
	Probe        *ProbeResult  `json:"probe,omitempty"`
	Records      *Records      `json:"records,omitempty"`
	Points       *Points       `json:"points,omitempty"`
	Vitals       *Vitals       `json:"vitals,omitempty"`
}

// ExecRequest asks for a command inside an attachment.
type ExecRequest struct {
	Attachment string   `json:"attachment"`
	Args       []string `json:"args"`
	Env        []string `json:"env"`
	Dir        string   `json:"dir,omitempty"`
	TTY        bool     `json:"tty,omitempty"` // the three descriptors are a terminal's
}

// fault names an error that callers tell apart, where its identity cannot travel.
type fault string

var faults = map[fault]error{
	"generation": ErrGeneration,
	"not_found":  ErrNotFound,
	"away":       ErrAway,
}

func faultOf(err error) fault {
	for f, is := range faults {
		if errors.Is(err, is) {
			return f
		}
	}
	return ""
}

// Serve runs an engine and answers for it on a unix socket that only this user can
// reach. It returns nil once ctx has ended, or a client asked the engine to stop,
// and everything is closed. Networks stay, except after a stop.
func Serve(ctx context.Context, cfg Config, socket string) error {
	e, err := New(cfg) //nolint:contextcheck // it ends with Close, after its last client
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var ln *net.UnixListener
	if cfg.inherited != nil {
		ln, err = inheritControl(cfg.inherited.Control)
	} else {
		ln, err = listenControl(ctx, socket)
	}
	if err != nil {
		return errors.Join(err, e.Close())
	}
	s := &control{engine: e, ln: ln, succeed: cfg.succeed, stop: cancel, conns: map[*net.UnixConn]struct{}{}, slots: make(chan struct{}, controlConns)}
	var loop sync.WaitGroup
	loop.Go(func() { s.accept(ctx, ln) })
	<-ctx.Done()
	_ = ln.Close()
	loop.Wait()
	s.hangUp()
	s.handlers.Wait()
	return e.Close()
}

// listenControl makes the socket. There is no moment at which others can reach it:
// its mode is set before it has a name, and so is its directory's.
func listenControl(ctx context.Context, socket string) (*net.UnixListener, error) {
	if len(socket) > socketName {
		return nil, fmt.Errorf("control socket: the name %s is longer than %d bytes; choose a shorter directory", socket, socketName)
	}
	if err := checkDir(filepath.Dir(socket)); err != nil {
		return nil, err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove old control socket: %w", err)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.Fchmod(int(fd), 0o600) }) // Linux binds with it; elsewhere the directory protects
	}}
	ln, err := lc.Listen(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("listen on control socket: %w", err)
	}
	return ln.(*net.UnixListener), os.Chmod(socket, 0o600)
}

// inheritControl goes on with the socket of the program before.
func inheritControl(fd int) (*net.UnixListener, error) {
	syscall.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), socketFile)
	defer f.Close()
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("go on with the control socket: %w", err)
	}
	u, ok := ln.(*net.UnixListener)
	if !ok {
		return nil, errors.New("go on with the control socket: it is another kind of socket")
	}
	u.SetUnlinkOnClose(true)
	return u, nil
}

// checkDir wants a directory that only this user can enter: where the kernel does
// not say who calls, nothing else keeps strangers out.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); info.Mode().Perm()&0o077 != 0 || ok && int(st.Uid) != os.Getuid() {
		return fmt.Errorf("control socket: %s must be this user's own and closed to others (mode 0700)", dir)
	}
	return nil
}

// control answers clients for an engine.
type control struct {
	engine   *Local
	ln       *net.UnixListener
	succeed  *succession // nil: no program can take this one's place
	stop     context.CancelFunc
	slots    chan struct{}
	handlers sync.WaitGroup

	mu    sync.Mutex
	conns map[*net.UnixConn]struct{} // nil once hung up
}

func (s *control) accept(ctx context.Context, ln *net.UnixListener) {
	for {
		c, err := ln.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				_ = c.Close()
			}
			return
		}
		if err == nil {
			err = CheckPeer(c)
		}
		if err != nil {
			s.engine.log.Warn("accept control connection", "err", err)
			if c != nil {
				_ = c.Close()
			} else {
				s.engine.wait(ctx, nil, controlPause)
			}
			continue
		}
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			_ = c.Close()
			return
		}
		s.mu.Lock()
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.handlers.Go(func() {
			s.handle(ctx, c)
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
			_ = c.Close()
			<-s.slots
		})
	}
}

// hangUp ends the conversations that wait for a request.
func (s *control) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.SetReadDeadline(time.Now())
	}
}

// handle answers the requests of one client until it hangs up.
func (s *control) handle(ctx context.Context, c *net.UnixConn) {
	for ctx.Err() == nil {
		var q request
		fds, err := vpc.Receive(c, &q)
		if err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				s.engine.log.Warn("control request", "err", err)
			}
			return
		}
		if q.Exec != nil {
			err := s.exec(ctx, c, *q.Exec, fds)
			if err != nil {
				_ = vpc.Send(c, vpc.Note{Error: err.Error()})
			}
			return
		}
		closeAll(fds)
		answer, err := s.answer(ctx, q)
		if err != nil && ctx.Err() != nil {
			return // the engine ends; to hang up says so
		}
		if err != nil {
			answer = response{Fault: faultOf(err), Error: err.Error()}
		}
		err = vpc.Send(c, answer)
		if q.Stop != nil && answer.Error == "" {
			s.stop() // also if who asked for it is gone
		}
		if err != nil {
			return
		}
	}
}

func (s *control) answer(ctx context.Context, q request) (a response, err error) {
	switch {
	case q.Status != nil:
		a.Status = new(Status)
		*a.Status, err = s.engine.Status(ctx)
	case q.Apply != nil:
		err = s.engine.Apply(ctx, *q.Apply)
	case q.Observe != nil:
		ctx, cancel := context.WithTimeout(ctx, observeLimit)
		defer cancel()
		a.Observations = new(Observations)
		*a.Observations, err = s.engine.Observe(ctx, *q.Observe)
		if errors.Is(err, context.DeadlineExceeded) {
			err = nil
		}
	case q.Probe != nil:
		a.Probe = new(ProbeResult)
		*a.Probe, err = s.engine.Probe(ctx, *q.Probe)
	case q.Records != nil:
		a.Records = new(Records)
		*a.Records, err = s.engine.Records(ctx, *q.Records)
	case q.Series != nil:
		a.Points = new(Points)
		*a.Points, err = s.engine.Series(ctx, *q.Series)
	case q.Vitals != nil:
		a.Vitals = new(Vitals)
		*a.Vitals, err = s.engine.Vitals(ctx)
	case q.Stop != nil:
		err = s.engine.Clear(ctx)
	case q.Upgrade != nil:
		err = s.upgrade(ctx, *q.Upgrade)
	default:
		err = errors.New("the request asks for nothing that this engine knows")
	}
	return a, err
}

// upgrade puts a program in the place of this one. It returns only if that fails,
// and everything goes on as before.
func (s *control) upgrade(ctx context.Context, program string) error {
	if s.succeed == nil {
		return errors.New("this engine is a part of the server: restart that")
	}
	var control int
	c, err := s.ln.SyscallConn()
	if err == nil {
		err = c.Control(func(fd uintptr) { control = int(fd) })
	}
	if err != nil {
		return fmt.Errorf("hand over the control socket: %w", err)
	}
	return s.engine.handOver(func(h *handover) error {
		h.Control = control
		return s.succeed.try(ctx, program, h)
	}, func(h *handover) error { return s.succeed.take(program, h) })
}

// exec starts a command with the client's descriptors and leaves the connection to
// its shim.
func (s *control) exec(ctx context.Context, c *net.UnixConn, q ExecRequest, fds []int) error {
	var stdio [3]*os.File
	if len(fds) != len(stdio) || len(q.Args) == 0 {
		closeAll(fds)
		return errors.New("exec wants a command and three descriptors")
	}
	for i, fd := range fds {
		stdio[i] = os.NewFile(uintptr(fd), "stdio")
		defer stdio[i].Close()
	}
	s.engine.mu.Lock()
	a := s.engine.attachments[q.Attachment]
	s.engine.mu.Unlock()
	if a == nil {
		return fmt.Errorf("exec in %q: %w", q.Attachment, ErrNotFound)
	}
	client, err := c.File()
	if err != nil {
		return fmt.Errorf("hand over the connection: %w", err)
	}
	defer client.Close()
	return s.engine.driver.Start(ctx, a.network, q.Attachment, vpc.Command{
		Args: q.Args, Env: q.Env, Dir: q.Dir, TTY: q.TTY, Stdio: stdio, Control: client,
	})
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
