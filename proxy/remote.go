package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

const idleConns = 4 // that a Remote keeps for the next calls

// Remote is an engine in another process, by its control socket. A call takes a
// connection of its own, so calls do not wait for each other and a long poll not
// for any. While no engine answers calls fail with [ErrAway]; they reach the next
// one as soon as it is there.
type Remote struct {
	socket string
	idle   chan *net.UnixConn
}

// Dial returns the engine that listens on socket. It does not connect yet.
func Dial(socket string) *Remote {
	return &Remote{socket: socket, idle: make(chan *net.UnixConn, idleConns)}
}

// Close drops connections that are not in use. The engine goes on.
func (r *Remote) Close() {
	for {
		select {
		case c := <-r.idle:
			_ = c.Close()
		default:
			return
		}
	}
}

// Status implements [Engine].
func (r *Remote) Status(ctx context.Context) (Status, error) {
	a, err := r.call(ctx, request{Status: new(struct{})})
	return value(a.Status), err
}

// Apply implements [Engine].
func (r *Remote) Apply(ctx context.Context, c Change) error {
	_, err := r.call(ctx, request{Apply: &c})
	return err
}

// Observe implements [Engine].
func (r *Remote) Observe(ctx context.Context, since uint64) (Observations, error) {
	for {
		a, err := r.call(ctx, request{Observe: &since})
		o := value(a.Observations)
		if err != nil {
			return Observations{Next: since}, err
		}
		if since == 0 || !o.empty() {
			return o, nil
		}
	}
}

// Probe implements [Engine].
func (r *Remote) Probe(ctx context.Context, q ProbeRequest) (ProbeResult, error) {
	a, err := r.call(ctx, request{Probe: &q})
	return value(a.Probe), err
}

// Records implements [Engine].
func (r *Remote) Records(ctx context.Context, q RecordQuery) (Records, error) {
	a, err := r.call(ctx, request{Records: &q})
	return value(a.Records), err
}

// Series implements [Engine].
func (r *Remote) Series(ctx context.Context, q SeriesQuery) (Points, error) {
	a, err := r.call(ctx, request{Series: &q})
	return value(a.Points), err
}

// Vitals implements [Engine].
func (r *Remote) Vitals(ctx context.Context) (Vitals, error) {
	a, err := r.call(ctx, request{Vitals: new(struct{})})
	return value(a.Vitals), err
}

// Stop asks the engine to take away every network, forget its state and end.
func (r *Remote) Stop(ctx context.Context) error {
	_, err := r.call(ctx, request{Stop: new(struct{})})
	return err
}

// Upgrade puts a program in the place of the engine's, with its networks, listeners,
// flows and commands, and returns the status of the one that answers then. If the
// program cannot take over, nothing has changed.
func (r *Remote) Upgrade(ctx context.Context, program string) (Status, error) {
	was, err := r.Status(ctx)
	if err != nil {
		return Status{}, err
	}
	c, err := r.dial(ctx) // a new one: the request must not be made twice
	if err != nil {
		return Status{}, err
	}
	_, err = r.converse(ctx, c, request{Upgrade: &program})
	if !errors.Is(err, ErrAway) {
		return Status{}, cmp.Or(err, errors.New("the engine neither refused nor hung up"))
	}
	for {
		is, err := r.Status(ctx)
		if err == nil && !is.Started.Equal(was.Started) {
			return is, nil
		}
		if pause(ctx, answerPoll) != nil {
			return Status{}, fmt.Errorf("wait for the engine to answer again: %w", cmp.Or(err, ctx.Err()))
		}
	}
}

// Exec runs a command inside an attachment with the caller's standard input, output
// and error, relays signals to it, and returns its exit code: 128+n for signal n.
// See [vpc.Exec].
func (r *Remote) Exec(ctx context.Context, q ExecRequest, stdio [3]*os.File) (code int, err error) {
	c, err := r.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return vpc.Exec(ctx, c, stdio, func(tty bool) any {
		q.TTY = tty
		return request{Exec: &q}
	})
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// failure is an error of the engine that came over the socket.
type failure struct {
	text string
	is   error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.is }

// call asks one thing. A connection that was kept may be of an engine that is gone;
// then the call is made once more on a new one.
func (r *Remote) call(ctx context.Context, q request) (response, error) {
	select {
	case c := <-r.idle:
		if a, err := r.converse(ctx, c, q); !errors.Is(err, ErrAway) {
			return a, err
		}
	default:
	}
	c, err := r.dial(ctx)
	if err != nil {
		return response{}, err
	}
	return r.converse(ctx, c, q)
}

func (r *Remote) dial(ctx context.Context) (*net.UnixConn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "unix", r.socket)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
	return c.(*net.UnixConn), nil
}

// converse sends q and receives the answer, then keeps c for the next call.
func (r *Remote) converse(ctx context.Context, c *net.UnixConn, q request) (a response, err error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	if err = vpc.Send(c, q); err == nil {
		var fds []int
		fds, err = vpc.Receive(c, &a)
		closeAll(fds)
	}
	if !stop() || err != nil {
		_ = c.Close()
		if ctx.Err() != nil {
			return response{}, ctx.Err()
		}
		return response{}, fmt.Errorf("%w: %w", ErrAway, err)
	}
	select {
	case r.idle <- c:
	default:
		_ = c.Close()
	}
	if a.Error != "" {
		return response{}, &failure{a.Error, faults[a.Fault]}
	}
	return a, nil
}
