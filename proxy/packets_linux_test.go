package proxy_test

import (
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openprivatelink/openprivatelink/proxy/proxytest"
)

// What a client has its kernel cut arrives as the datagrams it would have sent, in
// their order, also where the server's socket does not ask for runs.
func TestPacketsCutByTheKernel(t *testing.T) {
	each(t, func(w *world) {
		w.packets(w.echoPackets, nil)
		c := w.dialPackets(epH)
		raw, err := c.SyscallConn()
		if err != nil {
			w.Fatal(err)
		}
		const size, runs = 1200, 20
		for run := range runs {
			// A shorter last one, and runs that the loop has to tell apart.
			sent := make([]byte, size*(run%16)+1+run)
			_, _ = proxytest.NewPattern(uint64(run)).Read(sent)
			control := make([]byte, unix.CmsgSpace(2)) // of a 64-bit machine
			binary.NativeEndian.PutUint64(control, uint64(unix.CmsgLen(2)))
			binary.NativeEndian.PutUint32(control[8:], unix.SOL_UDP)
			binary.NativeEndian.PutUint32(control[12:], unix.UDP_SEGMENT)
			binary.NativeEndian.PutUint16(control[16:], size)
			if err := raw.Control(func(fd uintptr) { err = unix.Sendmsg(int(fd), sent, control, nil, 0) }); err != nil {
				w.Fatal(err)
			}
			if err != nil {
				w.Fatal(err)
			}
			for rest := sent; len(rest) > 0; {
				want := rest[:min(size, len(rest))]
				rest = rest[len(want):]
				got := make([]byte, 64<<10)
				_ = c.SetReadDeadline(time.Now().Add(soon))
				n, err := c.Read(got)
				if err != nil || string(got[:n]) != string(want) {
					w.Fatalf("run %d with %d bytes left: got %d, %v, want %d", run, len(rest), n, err, len(want))
				}
			}
		}
	})
}
