package vpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A watch reads at most watchBurst packets in watchPause; what its buffer does not
// hold meanwhile is lost.
const (
	watchBurst  = 64
	watchPause  = 100 * time.Millisecond
	watchBuffer = 64 << 10 // bytes
)

// watch is a packet socket. It hears what comes into the network's stack, a frame
// for the router once, after its bridge.
type watch struct {
	file   *os.File
	closed chan struct{}
	done   sync.WaitGroup
}

func (d *namespaces) Watch(ctx context.Context, network string, seen func(Opening)) (Watch, error) {
	ns, err := d.routerOf(network)
	if err != nil {
		return nil, err
	}
	w := &watch{closed: make(chan struct{})}
	err = d.thread.in(ctx, ns, func() error {
		// Of no protocol, it hears nothing until it has its filter.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		w.file = os.NewFile(uintptr(fd), "packets")
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, watchBuffer); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
		if err := SetFilter(fd, []bpf.RawInstruction{{Op: unix.BPF_RET | unix.BPF_K}}); err != nil {
			return err
		}
		ip := binary.NativeEndian.Uint16([]byte{unix.ETH_P_IP >> 8, unix.ETH_P_IP & 0xff})
		return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: ip}))
	})
	if err != nil {
		if w.file != nil {
			w.file.Close()
		}
		return nil, fmt.Errorf("watch network %s: %w", network, err)
	}
	w.done.Go(func() {
		if err := w.run(seen); err != nil {
			d.Log.Warn("watch", "network", network, "err", err)
		}
	})
	return w, nil
}

func (w *watch) Filter(program []bpf.RawInstruction) error {
	return control(w.file, func(fd int) error { return SetFilter(fd, program) })
}

func (w *watch) Close() error {
	close(w.closed)
	err := w.file.Close()
	w.done.Wait()
	return err
}

// run returns when the watch is closed.
func (w *watch) run(seen func(Opening)) error {
	packet := make([]byte, 128)
	var began time.Time
	for read := 0; ; read++ {
		n, err := w.file.Read(packet)
		if errors.Is(err, os.ErrClosed) {
			return nil
		} else if err != nil {
			return err
		}
		if o, ok := parseOpening(packet[:n]); ok {
			seen(o)
		}
		now := time.Now()
		if rest := watchPause - now.Sub(began); rest <= 0 {
			began, read = now, 0
		} else if read >= watchBurst {
			select {
			case <-w.closed:
				return nil
			case <-time.After(rest):
			}
		}
	}
}

// parseOpening reads the first packet of a flow of TCP over IPv4.
func parseOpening(p []byte) (Opening, bool) {
	if len(p) < 20 || p[0]>>4 != 4 || p[9] != unix.IPPROTO_TCP {
		return Opening{}, false
	}
	head := int(p[0]&0xf) * 4
	if head < 20 || len(p) < head+20 {
		return Opening{}, false
	}
	tcp := p[head:]
	return Opening{
		Source: netip.AddrPortFrom(netip.AddrFrom4([4]byte(p[12:])), binary.BigEndian.Uint16(tcp)),
		To:     netip.AddrPortFrom(netip.AddrFrom4([4]byte(p[16:])), binary.BigEndian.Uint16(tcp[2:])),
		Number: binary.BigEndian.Uint32(tcp[4:]),
	}, true
}
