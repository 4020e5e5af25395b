package proxy_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/proxytest"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// As package main of the program does.
func init() { runtime.LockOSThread() }

// envMode tells a run of these tests which kind of namespaces it can make.
const envMode = "PROXY_TEST_MODE"

// TestMain is also the program that engines, shims, probes and workloads are. For
// an ordinary user it runs the tests again in a user namespace.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch args := os.Args[2:]; os.Args[1] {
		case "engine":
			os.Exit(proxy.EngineMain(args, "test"))
		case "shim":
			os.Exit(vpc.ShimMain(args))
		case "probe-userns":
			os.Exit(vpc.ProbeMain())
		case "workload":
			os.Exit(workload(args))
		}
	}
	if os.Getenv(envMode) == "" && os.Getuid() != 0 {
		if _, _, err := vpc.Probe(vpc.ModeUserns); err == nil {
			os.Exit(inUserNamespace())
		}
	}
	if os.Getenv("GORACE") == "" { // the race detector holds each process for a second after its end, and us who wait for it
		_ = os.Setenv("GORACE", "atexit_sleep_ms=0")
	}
	goleak.VerifyTestMain(m)
}

func inUserNamespace() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), envMode+"="+vpc.ModeUserns)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = vpc.SysProcAttr(vpc.ModeUserns)
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	} else if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// namespaces returns a driver that makes real ones, and takes everything that it
// made away at the end.
func namespaces(tb testing.TB) vpc.Driver {
	tb.Helper()
	mode := os.Getenv(envMode)
	if mode == "" {
		mode = vpc.ModeNetns
	}
	if mode == vpc.ModeNetns && os.Getuid() != 0 {
		_, _, err := vpc.Probe(vpc.ModeUserns)
		tb.Skipf("not root, and %v", err)
	}
	d, err := vpc.New(vpc.Config{Installation: newInstallation(), Mode: mode, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := errors.Join(d.Sweep(context.Background(), nil), d.Close()); err != nil {
			tb.Error(err)
		}
	})
	return d
}

func newInstallation() string { return fmt.Sprintf("p%06x", time.Now().UnixNano()&0xffffff) }

// workload is what tests run inside attachments.
//
//	echo PORT         serve an echo at the attachment's address, by TCP and UDP
//	datagrams ADDR    send one datagram after the other, each when the one before came
//	                  back or is lost, until four in a row are; print how many were before
//	say ADDR TEXT     connect, send TEXT, end, and print what comes back
//	bulk ADDR MIB     connect, send so much, end, and print whether it all came back
//	hold ADDR N       connect N times and echo once on each; print how many were carried and
//	                  reset; at the end of the input echo again, and print how many could
//	streams ADDR N    echo on N connections without a pause until the input ends; print
//	                  how many could not
//	knock ADDR N      connect N times and leave without a word
//	stream ADDR       connect and echo without a pause until the end; print how that came
func workload(args []string) int {
	fail := func(err error) int {
		_, _ = fmt.Fprintln(os.Stdout, err)
		return 1
	}
	if args[0] == "echo" {
		ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp4", net.JoinHostPort(os.Getenv("OPENPRIVATELINK_ADDRESS"), args[1]))
		if err != nil {
			return fail(err)
		}
		packets, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp4", ln.Addr().String())
		if err != nil {
			return fail(err)
		}
		go func() {
			b := make([]byte, 64<<10)
			for {
				n, from, err := packets.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = packets.WriteTo(b[:n], from)
			}
		}()
		for {
			c, err := ln.Accept()
			if err != nil {
				return fail(err)
			}
			go func() {
				defer c.Close()
				proxytest.Echo(c.(*net.TCPConn))
			}()
		}
	}
	switch args[0] {
	case "datagrams":
		return datagrams(args[1])
	case "hold", "streams", "knock":
		n, err := strconv.Atoi(args[2])
		if err == nil {
			err = map[string]func(string, int) error{"hold": hold, "streams": streams, "knock": knock}[args[0]](args[1], n)
		}
		if err != nil {
			return fail(err)
		}
		return 0
	}
	c, err := (&net.Dialer{Timeout: soon}).Dial("tcp4", args[1])
	if err != nil {
		return fail(err)
	}
	defer c.Close()
	switch args[0] {
	case "say":
		if _, err := io.WriteString(c, strings.Join(args[2:], " ")); err != nil {
			return fail(err)
		}
		_ = c.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(os.Stdout, c); err != nil {
			return fail(err)
		}
	case "bulk":
		mib, err := strconv.Atoi(args[2])
		if err != nil {
			return fail(err)
		}
		whole := func() io.Reader { return io.LimitReader(proxytest.NewPattern(3), int64(mib)<<20) }
		sent := make(chan error, 1)
		go func() {
			_, err := io.Copy(onlyWriter{c}, whole())
			if err == nil {
				err = c.(*net.TCPConn).CloseWrite()
			}
			sent <- err
		}()
		got := proxytest.SumOf(c)
		if err := <-sent; err != nil {
			return fail(err)
		}
		if got != proxytest.SumOf(whole()) {
			return fail(fmt.Errorf("sum %s", got))
		}
		_, _ = fmt.Fprintln(os.Stdout, "all of it")
	case "stream":
		for first := true; ; first = false {
			if err := echo(c, "a line that comes back"); err != nil {
				return fail(err)
			}
			if first {
				_, _ = fmt.Fprintln(os.Stdout, "running")
			}
		}
	}
	return 0
}

func datagrams(to string) int {
	c, err := net.Dial("udp4", to)
	if err != nil {
		_, _ = fmt.Fprintln(os.Stdout, err)
		return 1
	}
	defer c.Close()
	lost, row := 0, 0
	b := make([]byte, 8)
	for n := uint64(1); row < 4; n++ {
		_, _ = c.Write(binary.BigEndian.AppendUint64(nil, n))
		_ = c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		for {
			if _, err = c.Read(b); err != nil || binary.BigEndian.Uint64(b) == n {
				break // another is late
			}
		}
		if err != nil {
			lost, row = lost+1, row+1
		} else {
			row = 0
		}
		if n == 100 {
			_, _ = fmt.Fprintln(os.Stdout, "running")
		}
	}
	_, _ = fmt.Fprintln(os.Stdout, "lost", lost-row)
	return 0
}

func hold(to string, n int) error {
	var held []net.Conn
	reset := 0
	for range n {
		c, err := net.DialTimeout("tcp4", to, soon)
		if err == nil {
			_ = c.SetDeadline(time.Now().Add(soon))
			if err = echo(c, "hello"); err != nil {
				_ = c.Close()
			}
		}
		switch {
		case err == nil:
			held = append(held, c)
		case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
			reset++
		default:
			return err
		}
	}
	_, _ = fmt.Fprintln(os.Stdout, len(held), reset)
	_, _ = io.Copy(io.Discard, os.Stdin)
	live := 0
	for _, c := range held {
		_ = c.SetDeadline(time.Now().Add(soon))
		if echo(c, "still there") == nil {
			live++
		}
		_ = c.Close()
	}
	_, _ = fmt.Fprintln(os.Stdout, live)
	return nil
}

func streams(to string, n int) error {
	var stop atomic.Bool
	var started, ended sync.WaitGroup
	errs := make([]error, n)
	started.Add(n)
	for i := range n {
		ended.Go(func() {
			c, err := net.DialTimeout("tcp4", to, soon)
			if err == nil {
				defer c.Close()
				err = echo(c, "hello")
			}
			started.Done()
			for err == nil && !stop.Load() {
				_ = c.SetDeadline(time.Now().Add(soon))
				err = echo(c, "a line that comes back")
			}
			errs[i] = err
		})
	}
	started.Wait()
	_, _ = fmt.Fprintln(os.Stdout, "running")
	_, _ = io.Copy(io.Discard, os.Stdin)
	stop.Store(true)
	ended.Wait()
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) > 0 {
		return fmt.Errorf("%d of %d, the first: %w", len(errs), n, errs[0])
	}
	return nil
}

func knock(to string, n int) error {
	for range n {
		c, err := net.DialTimeout("tcp4", to, soon)
		if err != nil {
			return err
		}
		_ = c.Close()
	}
	_, _ = fmt.Fprintln(os.Stdout, n)
	return nil
}
