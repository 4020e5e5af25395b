package proxy_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/proxytest"
)

func TestSocketIsClosedToOthers(t *testing.T) {
	d := newFake()
	dir := socketDir(t)
	socket := filepath.Join(dir, "engine.sock")
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // that is what must be refused
		t.Fatal(err)
	}
	if err := proxy.Serve(t.Context(), proxy.Config{Driver: d, Log: quiet(t)}, socket); err == nil {
		t.Fatal("served in a directory that others can enter")
	}
	if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a directory
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- proxy.Serve(ctx, proxy.Config{Driver: d, Log: quiet(t)}, socket) }()
	var info os.FileInfo
	var err error
	for end := time.Now().Add(soon); ; { // as early as it can be seen
		if info, err = os.Stat(socket); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestRemoteComesBack(t *testing.T) {
	dir, sockets := t.TempDir(), socketDir(t)
	socket := filepath.Join(sockets, "engine.sock")
	d := newFake()
	r := proxy.Dial(socket)
	defer r.Close()
	if _, err := r.Status(t.Context()); !errors.Is(err, proxy.ErrAway) {
		t.Fatalf("nobody there: %v, want ErrAway", err)
	}
	serve := func() (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() { ended <- proxy.Serve(ctx, proxy.Config{Driver: d, Dir: dir, Log: quiet(t)}, socket) }()
		for end := time.Now().Add(soon); ; time.Sleep(time.Millisecond) {
			if _, err := r.Status(t.Context()); err == nil || time.Now().After(end) {
				break
			}
		}
		return func() {
			t.Helper()
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	stop := serve()
	w := newWorld(t, d, r)
	w.connected(proxytest.Echo)
	polled := make(chan error)
	go func() {
		o, err := proxy.Observations{Next: w.since}, error(nil)
		for err == nil {
			o, err = r.Observe(t.Context(), o.Next)
		}
		polled <- err
	}()
	stop()
	if err := <-polled; !errors.Is(err, proxy.ErrAway) {
		t.Errorf("a poll at the engine's end: %v, want ErrAway", err)
	}
	stop = serve()
	defer stop()
	w.since, w.seen = 0, proxy.Observations{}
	w.carrying(endpoint, true)
	w.carry(endpoint, false) // goes on where it was
	w.carrying(endpoint, false)
}

func TestRemoteHeedsItsContext(t *testing.T) {
	d := newFake()
	r := startRemote(t, d, "")
	o, err := r.Observe(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := r.Observe(ctx, o.Next); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > soon/2 {
		t.Errorf("got %v after %v", err, time.Since(began))
	}
	if _, err := r.Status(t.Context()); err != nil { // others go on
		t.Error(err)
	}
}

// Nonsense on the socket ends that conversation and no other.
func FuzzControl(f *testing.F) {
	frame := func(body string) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	}
	f.Add(frame(`{"status":{}}`))
	f.Add(frame(`{"apply":{"base":0,"generation":1,"set":{"endpoints":{"ep":{"zones":[{}],"carry":true}}}}}`))
	f.Add(frame(`{"apply":{"set":{"networks":{"n":{"attachments":{"a":{"kind":"published_port"}}}},"loadBalancers":{"l":{"zones":[{}],"listeners":[{"protocol":"tcp"}]}}}}}`))
	f.Add(frame(`{"records":{"after":18446744073709551615,"limit":-1}}`))
	f.Add(frame(`{"observe":18446744073709551615}`))
	f.Add(frame(`{"exec":{"attachment":"a"}}`))
	f.Add(frame(`{}`))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 'x'})
	d := newFake()
	d.failing(func(string, string) error { return errors.New("this driver makes nothing") })
	r := startRemote(f, d, "")
	socket := proxy.SocketOf(r)
	f.Fuzz(func(t *testing.T, message []byte) {
		if bytes.Contains(bytes.ToLower(message), []byte("stop")) {
			t.Skip("that would be heeded")
		}
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = c.Write(message)
		_ = c.(*net.UnixConn).CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // a long poll is answered later
		_, _ = c.Read(make([]byte, 1<<10))
		if _, err := r.Status(t.Context()); err != nil {
			t.Fatalf("after %q: %v", message, err)
		}
	})
}
