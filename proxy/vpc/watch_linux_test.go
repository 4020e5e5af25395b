package vpc

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/bpf"
)

// onlyFrom lets packets of one source pass to a listening socket.
func onlyFrom(tb testing.TB, source string) []bpf.RawInstruction {
	tb.Helper()
	a := netip.MustParseAddr(source).As4()
	return program(tb,
		bpf.LoadAbsolute{Off: 1<<32 - 0x100000 + 12, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(a[:]), SkipFalse: 1},
		bpf.RetConstant{Val: 1<<32 - 1},
		bpf.RetConstant{Val: 0},
	)
}

// openings keeps packets with SYN and nothing else, behind an IP header of 20 bytes.
func openings(tb testing.TB) []bpf.RawInstruction {
	tb.Helper()
	return program(tb,
		bpf.LoadAbsolute{Off: 33, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 2, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: 1<<32 - 1},
	)
}

func program(tb testing.TB, code ...bpf.Instruction) []bpf.RawInstruction {
	tb.Helper()
	p, err := bpf.Assemble(code)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func setFilter(tb testing.TB, ln net.Listener, program []bpf.RawInstruction) {
	tb.Helper()
	rc, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		tb.Fatal(err)
	}
	if e := rc.Control(func(fd uintptr) { err = SetFilter(int(fd), program) }); e != nil || err != nil {
		tb.Fatal(e, err)
	}
}

// A source that the listener's filter refuses gets no answer, and the watch sees
// it; a filter is swapped under live flows.
func TestFilterAndWatch(t *testing.T) {
	l := newLab(t)
	const network = "vpc-a"
	l.ensure(example(network))
	seen := make(chan Opening, 64)
	w, err := l.Watch(t.Context(), network, func(o Opening) { seen <- o })
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Filter(openings(t)); err != nil {
		t.Fatal(err)
	}
	at := addrPort(eniIP, 443)
	ln, err := l.Listen(t.Context(), network, at)
	l.serve(ln, err, "eni")
	setFilter(t, ln, onlyFrom(t, clientIP))

	// from wants the next opening that is seen to be source's, the only one.
	from := func(source string) Opening {
		t.Helper()
		select {
		case o := <-seen:
			if o.Source.Addr() != netip.MustParseAddr(source) || o.To != at {
				t.Fatalf("saw %+v, want a flow from %s to %v", o, source, at)
			}
			return o
		case <-time.After(5 * time.Second):
			t.Fatalf("the packet of %s was not seen", source)
		}
		return Opening{}
	}
	// silent dials until the first packet was sent a second time.
	silent := func(attachment, source string) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		dialled := make(chan error, 1)
		go func() {
			c, err := l.DialFrom(ctx, network, attachment, at)
			if err == nil {
				c.Close()
			}
			dialled <- err
		}()
		if first, again := from(source), from(source); first != again {
			t.Errorf("saw %+v and then %+v, want the same packet", first, again)
		}
		cancel()
		if err := <-dialled; !errors.Is(err, context.Canceled) {
			t.Fatalf("%s got an answer: %v", attachment, err)
		}
	}
	silent(mallory, malloryIP)
	silent(far, farIP) // by way of another bridge

	c, err := l.DialFrom(t.Context(), network, client, at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	from(clientIP)
	setFilter(t, ln, onlyFrom(t, malloryIP))
	silent(client, clientIP)
	if _, err := io.WriteString(c, "still\n"); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "eni "+clientIP+"\nstill\n" {
		t.Fatalf("a flow from before the change: %q, %v", got, err)
	}
	d, err := l.DialFrom(t.Context(), network, mallory, at)
	talk(t, d, err, "eni "+malloryIP)
	from(malloryIP)

	setFilter(t, ln, nil)
	setFilter(t, ln, nil) // there is none to take away
	d, err = l.Dial(t.Context(), network, netip.MustParseAddr(eni2IP), at)
	talk(t, d, err, "eni "+eni2IP)
	from(eni2IP)
}

func TestWatchOfNothing(t *testing.T) {
	l := newLab(t)
	if _, err := l.Watch(t.Context(), "vpc-none", func(Opening) {}); !errors.Is(err, ErrNoNetwork) {
		t.Errorf("got %v, want %v", err, ErrNoNetwork)
	}
}

func TestFilterTooLong(t *testing.T) {
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := SetFilter(int(f.Fd()), make([]bpf.RawInstruction, 4097)); err == nil {
		t.Error("the kernel takes no program of 4,097 instructions")
	}
}

func FuzzParseOpening(f *testing.F) {
	p := make([]byte, 40)
	p[0], p[9] = 0x45, 6
	f.Add(p)
	f.Add(p[:39])
	f.Add(append([]byte{0x4f}, p[1:]...))
	f.Fuzz(func(t *testing.T, p []byte) {
		o, ok := parseOpening(p)
		if ok && (!o.Source.IsValid() || !o.To.IsValid() || len(p) < 40) {
			t.Errorf("% x: got %+v", p, o)
		}
	})
}
