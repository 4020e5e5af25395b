package proxy_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/proxytest"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// A real nginx, asked in every way, and then one whose machine swallows packets.
func TestHealthOfNginx(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"nginx", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	d := namespaces(t)
	w := newWorld(t, d, start(t, d, t.TempDir()))
	at := netip.MustParseAddr("10.0.5.200")
	n := w.shall.Networks[provider]
	n.Attachments = map[string]vpc.Attachment{"att-server": {ID: "att-server", Kind: vpc.Managed, VSwitch: "vsw-p", Address: at}}
	w.shall.Networks[provider] = n
	w.apply()
	w.nginx(at)
	w.servers(proxy.Server{ID: "srv-1", Zone: zoneH, Address: netip.AddrPortFrom(at, w.port), Weight: 1})

	check := func(h proxy.HealthCheck, want proxy.Health, reason string) {
		w.Helper()
		h.Enabled, h.Interval, h.Timeout, h.HealthyThreshold, h.UnhealthyThreshold = true, 1, 1, 2, 2
		w.regroup(func(g *proxy.ServerGroup) { g.Health = h })
		w.health("srv-1", want, reason)
	}
	asked := func(c proxy.HTTPCheck) proxy.HealthCheck { return proxy.HealthCheck{Type: proxy.HealthHTTP, HTTP: c} }
	check(asked(proxy.HTTPCheck{Path: "/up"}), proxy.Healthy, "")
	check(asked(proxy.HTTPCheck{Path: "/down"}), proxy.Unhealthy, "HTTP_CODE_NOT_MATCH")
	check(asked(proxy.HTTPCheck{Path: "/down", Codes: []string{"http_2xx", "http_5xx"}}), proxy.Healthy, "")
	check(asked(proxy.HTTPCheck{Path: "/hang"}), proxy.Unhealthy, "CONNECT_INTERRUPT")
	check(asked(proxy.HTTPCheck{Path: "/up", Method: "HEAD", Version: "1.1"}), proxy.Healthy, "")
	check(asked(proxy.HTTPCheck{Path: "/named"}), proxy.Unhealthy, "HTTP_CODE_NOT_MATCH")
	check(asked(proxy.HTTPCheck{Path: "/named", Host: "orders.example.com"}), proxy.Healthy, "")

	ofProxy := asked(proxy.HTTPCheck{Path: "/up"})
	ofProxy.Port = w.port + 1
	check(ofProxy, proxy.Unhealthy, "CONNECT_INTERRUPT") // nginx wants a PROXY header there
	ofProxy.Proxy = true
	check(ofProxy, proxy.Healthy, "")

	// Silent: packets are dropped, nothing is closed.
	check(proxy.HealthCheck{}, proxy.Healthy, "")
	since := time.Now()
	w.in("att-server", "nft", "add table ip silent; add chain ip silent in { type filter hook input priority 0; policy drop; }")
	w.health("srv-1", proxy.Unhealthy, "CONNECT_TIMEOUT")
	if took := time.Since(since); took > 3200*time.Millisecond { // 3 s, and what the machine is slow
		t.Errorf("seen after %v, want 3 s at most", took)
	}
	w.in("att-server", "nft", "delete table ip silent")
	w.health("srv-1", proxy.Healthy, "")
}

// nginx runs inside the server's attachment at w.port, and behind PROXY headers at
// the port after it.
func (w *world) nginx(at netip.Addr) {
	w.Helper()
	dir := w.TempDir()
	conf := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error.log;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
	server {
		listen %[2]s:%[3]d;
		listen %[2]s:%[4]d proxy_protocol;
		location = /up { return 204; }
		location = /down { return 503; }
		location = /hang { return 444; }
		location = /named { return 404; }
	}
	server {
		listen %[2]s:%[3]d;
		server_name orders.example.com;
		location = /named { return 200; }
	}
}
`, dir, at, w.port, w.port+1)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		w.Fatal(err)
	}
	ended := make(chan int, 1)
	w.command("att-server", ended, "nginx", "-p", dir, "-e", filepath.Join(dir, "error.log"), "-c", file)
	for end := time.Now().Add(soon); ; time.Sleep(10 * time.Millisecond) {
		c, err := w.driver.Dial(w.Context(), provider, lbH, netip.AddrPortFrom(at, w.port))
		if err == nil {
			_ = c.Close()
			return
		}
		if len(ended) > 0 || time.Now().After(end) {
			said, _ := os.ReadFile(filepath.Join(dir, "error.log"))
			w.Fatalf("nginx: %v; %s", err, said)
		}
	}
}

// in runs a command inside an attachment of the provider to its end.
func (w *world) in(attachment string, args ...string) {
	w.Helper()
	ended := make(chan int, 1)
	w.command(attachment, ended, args...)
	if code := <-ended; code != 0 {
		w.Fatalf("%v: exit code %d", args, code)
	}
}

func (w *world) command(attachment string, ended chan<- int, args ...string) {
	w.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		w.Fatal(err)
	}
	defer null.Close()
	program, err := exec.LookPath(args[0])
	if err != nil {
		w.Fatal(err)
	}
	args[0] = program
	err = w.driver.Start(w.Context(), provider, attachment, vpc.Command{
		Args: args, Capable: true, Stdio: [3]*os.File{null, null, null}, Exited: func(code int) { ended <- code },
	})
	if err != nil {
		w.Fatal(err)
	}
}

func TestHealthByUDP(t *testing.T) {
	each(t, func(w *world) {
		w.connected(proxytest.Echo)
		at := netip.AddrPortFrom(backend(1), w.port)
		check := func(c proxy.UDPCheck, want proxy.Health, reason string) {
			w.Helper()
			w.regroup(func(g *proxy.ServerGroup) {
				g.Health = proxy.HealthCheck{Enabled: true, Type: proxy.HealthUDP, Interval: 1, Timeout: 1, UDP: c}
			})
			w.health("srv-1", want, reason)
		}
		check(proxy.UDPCheck{}, proxy.Unhealthy, "CONNECT_FAILED")
		answers := w.answers(at, map[string]string{"ping": "pong", "knock": "who is there"})
		check(proxy.UDPCheck{}, proxy.Healthy, "")
		check(proxy.UDPCheck{Request: "ping", Expect: "ping"}, proxy.Unhealthy, "RECV_RESPONSE_TIMEOUT")
		check(proxy.UDPCheck{Request: "ping", Expect: "pong"}, proxy.Healthy, "")
		check(proxy.UDPCheck{Request: "nobody answers this", Expect: "pong"}, proxy.Unhealthy, "RECV_RESPONSE_TIMEOUT")
		check(proxy.UDPCheck{Request: "nobody answers this"}, proxy.Healthy, "")
		_ = answers.Close()
		w.health("srv-1", proxy.Unhealthy, "CONNECT_FAILED")
	})
}

// answers is a UDP server of the provider that knows what to say to what.
func (w *world) answers(at netip.AddrPort, said map[string]string) net.PacketConn {
	w.Helper()
	fd, err := w.driver.Bind(w.Context(), provider, at, vpc.SocketOptions{Packet: true})
	if err != nil {
		w.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "udp")
	c, err := net.FilePacketConn(file)
	_ = file.Close()
	if err != nil {
		w.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		b := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if answer := said[string(b[:n])]; answer != "" {
				_, _ = c.WriteTo([]byte(answer), from)
			}
		}
	})
	w.Cleanup(func() { _ = c.Close(); serving.Wait() })
	return c
}
