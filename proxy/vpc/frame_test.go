//go:build unix

package vpc

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func pair(tb testing.TB) (a, b *net.UnixConn) {
	tb.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		tb.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		syscall.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			tb.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
		tb.Cleanup(func() { c.Close() })
	}
	return conns[0], conns[1]
}

type letter struct{ Text string }

func TestFrames(t *testing.T) {
	a, b := pair(t)
	long := strings.Repeat("x", 3<<20) // more than the socket holds at once
	sent := make(chan error, 1)
	go func() {
		err := Send(a, letter{"first"})
		if err == nil {
			err = Send(a, letter{long})
		}
		if err == nil {
			err = Send(a, letter{"last"})
		}
		a.Close()
		sent <- err
	}()
	for _, want := range []string{"first", long, "last"} {
		var got letter
		fds, err := Receive(b, &got)
		if err != nil || len(fds) != 0 {
			t.Fatal(fds, err)
		}
		if diff := cmp.Diff(want, got.Text); diff != "" {
			t.Fatal(diff)
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if _, err := Receive(b, new(letter)); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v, want EOF", err)
	}
}

func TestFramesCarryDescriptors(t *testing.T) {
	a, b := pair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var fds []int
	for range MaxDescriptors {
		fd, err := syscall.Dup(int(w.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
	}
	w.Close()
	if err := Send(a, letter{"with"}, fds...); err != nil {
		t.Fatal(err)
	}
	if err := Send(a, letter{"without"}); err != nil {
		t.Fatal(err)
	}
	if err := Send(a, letter{"too many"}, append(fds, 0)...); err == nil {
		t.Error("more descriptors than a message takes were sent")
	}
	closeDescriptors(fds)
	var got letter
	fds, err = Receive(b, &got)
	if err != nil || len(fds) != MaxDescriptors || got.Text != "with" {
		t.Fatalf("got %d descriptors, %q, %v", len(fds), got.Text, err)
	}
	if more, err := Receive(b, &got); err != nil || len(more) != 0 || got.Text != "without" {
		t.Fatalf("got %d descriptors, %q, %v", len(more), got.Text, err)
	}
	if _, err := syscall.Write(fds[MaxDescriptors-1], []byte("x")); err != nil {
		t.Fatal(err)
	}
	closeDescriptors(fds)
	_ = r.SetReadDeadline(time.Now().Add(10 * time.Second))
	if all, err := io.ReadAll(r); string(all) != "x" || err != nil { // the end comes: none is left open
		t.Errorf("read %q %v", all, err)
	}
}

func TestBadFrames(t *testing.T) {
	size := func(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }
	for name, bytes := range map[string]string{
		"half a length":   "\x00\x00",
		"no body":         size(10),
		"half a body":     size(10) + "{",
		"no JSON":         size(3) + "abc",
		"an absurd size":  size(MaxMessage + 1),
		"another content": size(2) + "[]",
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if _, _, err := a.WriteMsgUnix([]byte(bytes), syscall.UnixRights(int(w.Fd())), nil); err != nil {
				t.Fatal(err)
			}
			w.Close()
			a.Close()
			fds, err := Receive(b, new(letter))
			if err == nil || errors.Is(err, io.EOF) || fds != nil {
				t.Errorf("got %v %v", fds, err)
			}
			_ = r.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("its descriptor was kept: %v", err)
			}
		})
	}
	a, _ := pair(t)
	if err := Send(a, func() {}); err == nil {
		t.Error("sent what is no JSON")
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Add([]byte("\x00\x00\x00\x0d{\"Text\":\"abc\"}"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, input []byte) {
		a, b := pair(t)
		if len(input) > 1<<16 {
			return
		}
		if _, err := a.Write(input); err != nil && !errors.Is(err, io.ErrShortWrite) {
			t.Fatal(err)
		}
		a.Close()
		for {
			if _, err := Receive(b, new(letter)); err != nil {
				return
			}
		}
	})
}
