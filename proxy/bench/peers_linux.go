package main

import (
	"bufio"
	"context"
	"embed"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"text/template"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy/bench/load"
	"github.com/openprivatelink/openprivatelink/proxy/bench/report"
)

// peer is one way from the client to the backend.
type peer struct {
	name string
	at   netip.Addr // that clients connect to
	from *cell      // where they do
	pid  int        // of the forwarder; 0: there is none
	only []string   // loads; empty: all
	udp  bool       // it carries datagrams, too
	slow bool       // a limit sets its pace, whatever others do
}

// errMissing says why a peer cannot run here.
var errMissing = errors.New("not installed")

// An opener starts a peer at an address.
type opener func(ctx context.Context, r *rig, name string, at netip.Addr) (*exec.Cmd, error)

// others are the forwarders beside the engine, in the order of their addresses.
var others = []struct {
	name string
	open opener
}{
	{report.Control, haproxy(true, 0)},
	{"nginx", nginx},
	{"haproxy-p1m", haproxy(true, 1<<20)},
	{"haproxy-nosplice", haproxy(false, 0)},
	{"go-iocopy", goCopy},
	{report.Again, haproxy(true, 0)},
}

//go:embed peers
var templates embed.FS

// write fills in a template and returns the file's path.
func (r *rig) write(name, file string, data any) (string, error) {
	t, err := template.ParseFS(templates, "peers/"+file)
	if err != nil {
		return "", err
	}
	path := filepath.Join(r.dir, name+"-"+file)
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	return path, errors.Join(t.Execute(f, data), f.Close())
}

var ports = []uint16{load.PortEcho, load.PortSink}

func haproxy(splice bool, pipe int) opener {
	return func(ctx context.Context, r *rig, name string, at netip.Addr) (*exec.Cmd, error) {
		program, err := exec.LookPath("haproxy")
		if err != nil {
			return nil, errMissing
		}
		data := struct {
			At, To      netip.Addr
			Front, Back string // namespaces, where they are two
			Splice      bool
			PipeSize    int
			Ports       []uint16
		}{At: at, To: backendAt, Splice: splice, PipeSize: pipe, Ports: ports}
		if r.front != r.back {
			data.Front, data.Back = r.front.name, r.back.name
		}
		file, err := r.write(name, "haproxy.cfg", data)
		return exec.CommandContext(ctx, program, "-db", "-f", file), err
	}
}

func nginx(ctx context.Context, r *rig, name string, at netip.Addr) (*exec.Cmd, error) {
	if r.front != r.back {
		return nil, errors.New("it cannot listen in one namespace and connect in another")
	}
	program, err := exec.LookPath("nginx")
	if err != nil {
		return nil, errMissing
	}
	module, err := streamModule(ctx, program)
	if err != nil {
		return nil, err
	}
	file, err := r.write(name, "nginx.conf", struct {
		At, To      netip.Addr
		Module, Dir string
		Ports       []uint16
		Datagrams   uint16
	}{at, backendAt, module, r.dir, ports, load.PortDatagram})
	return exec.CommandContext(ctx, program, "-p", r.dir, "-c", file), err
}

// streamModule returns the module that makes nginx a layer-4 forwarder; none if
// that is built in.
func streamModule(ctx context.Context, program string) (string, error) {
	built, err := exec.CommandContext(ctx, program, "-V").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ask nginx how it was built: %w", err)
	}
	if !strings.Contains(string(built), "--with-stream=dynamic") {
		return "", nil
	}
	dir := regexp.MustCompile(`--modules-path=(\S+)`).FindSubmatch(built)
	if dir == nil {
		return "", errMissing
	}
	module := filepath.Join(string(dir[1]), "ngx_stream_module.so")
	if _, err := os.Stat(module); err != nil {
		return "", fmt.Errorf("its stream module: %w", errMissing)
	}
	return module, nil
}

func goCopy(ctx context.Context, r *rig, _ string, at netip.Addr) (*exec.Cmd, error) {
	if r.front != r.back {
		return nil, errors.New("it listens and connects in one namespace")
	}
	return exec.CommandContext(ctx, r.self, "copy", "-at", at.String(), "-to", backendAt.String()), nil
}

// answersDatagrams says whether whoever is at an address echoes a datagram.
func answersDatagrams(ctx context.Context, from *cell, at netip.Addr) bool {
	err := from.do(func() error {
		c, err := new(net.Dialer).DialContext(ctx, "udp4", netip.AddrPortFrom(at, load.PortDatagram).String())
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		if _, err := fmt.Fprint(c, "?"); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 1))
		return err
	})
	return err == nil
}

// answers waits until whoever is at an address echoes, seen from a cell.
func answers(ctx context.Context, from *cell, at netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		err := from.do(func() error { return echoes(ctx, netip.AddrPortFrom(at, load.PortEcho)) })
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func echoes(ctx context.Context, at netip.AddrPort) error {
	c, err := new(net.Dialer).DialContext(ctx, "tcp4", at.String())
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	const line = "are you there?\n"
	if _, err := fmt.Fprint(c, line); err != nil {
		return err
	}
	got, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && got != line {
		err = fmt.Errorf("it says %q", got)
	}
	return err
}
