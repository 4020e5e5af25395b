package proxy_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/quic-go/quic-go"
	"golang.org/x/net/websocket"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/proxytest"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// software is a world for programs that nobody here wrote: servers in attachments of
// the provider, at w.port of seat(1), seat(2) and so on, all in the server group, and
// clients in the consumer's attachment. The endpoint carries.
func software(t *testing.T, servers int, programs ...string) *world {
	t.Helper()
	t.Parallel()
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not installed: run make setup", name)
		}
	}
	d := namespaces(t)
	w := newWorld(t, d, startRemote(t, d, t.TempDir()))
	n := w.shall.Networks[provider]
	n.Attachments = map[string]vpc.Attachment{}
	var list []proxy.Server
	for i := 1; i <= servers; i++ {
		id := fmt.Sprint("att-", i)
		n.Attachments[id] = vpc.Attachment{ID: id, Kind: vpc.Managed, VSwitch: "vsw-p", Address: seat(i)}
		list = append(list, proxy.Server{ID: fmt.Sprint("srv-", i), Zone: zoneH, Address: netip.AddrPortFrom(seat(i), w.port), Weight: 1})
	}
	w.shall.Networks[provider] = n
	w.servers(list...)
	w.carry(endpoint, true)
	w.carrying(endpoint, true)
	return w
}

// seat is the address of the provider's nth attachment.
func seat(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 5, byte(200 + n)}) }

// place is a directory that programs of every user can reach.
func (w *world) place() string {
	w.Helper()
	dir, err := os.MkdirTemp("", "opl-place-") //nolint:usetesting // TempDir is for one user
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		w.Fatal(err)
	}
	return dir
}

func (w *world) write(file, text string) {
	w.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		w.Fatal(err)
	}
}

// exec runs a command inside an attachment, and returns its exit code.
func (w *world) exec(attachment string, output *os.File, args []string) (int, error) {
	program, err := exec.LookPath(args[0])
	if err != nil {
		return 0, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	return w.engine.(*proxy.Remote).Exec(w.Context(), proxy.ExecRequest{
		Attachment: attachment, Args: append([]string{program}, args[1:]...), Env: os.Environ(), Dir: "/",
	}, [3]*os.File{null, output, output})
}

// pipe is one whose writing end blocks, as programs expect of their output.
func (w *world) pipe() (out, in *os.File) {
	w.Helper()
	out, in, err := os.Pipe()
	if err != nil {
		w.Fatal(err)
	}
	_ = in.Fd() // this makes it block
	return out, in
}

// output is what a command inside an attachment prints until its end.
func (w *world) output(attachment string, args ...string) string {
	w.Helper()
	out, in := w.pipe()
	defer out.Close()
	var said bytes.Buffer
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = io.Copy(&said, out) })
	code, err := w.exec(attachment, in, args)
	_ = in.Close()
	reading.Wait()
	if err != nil || code != 0 {
		w.Fatalf("%v: exit code %d, %v: %.2000s", args, code, err, said.String())
	}
	return strings.TrimSpace(said.String())
}

// daemon runs a server in the provider's nth attachment until the test ends. It
// returns once the server listens at w.port.
func (w *world) daemon(n int, args ...string) {
	w.Helper()
	out, in := w.pipe()
	var said bytes.Buffer
	ended := make(chan string, 1)
	var running sync.WaitGroup
	running.Go(func() {
		code, err := w.exec(fmt.Sprint("att-", n), in, args)
		_ = in.Close()
		ended <- fmt.Sprintf("exit code %d, %v", code, err)
	})
	running.Go(func() { // to the end of the last process that writes there
		_, _ = io.Copy(&said, out)
		_ = out.Close()
	})
	w.Cleanup(func() {
		running.Wait()
		if w.Failed() {
			w.Logf("%s said:\n%s", args[0], said.String())
		}
	})
	// Not asked by connecting: an iperf3 takes who connects for a client, and listens
	// anew after that.
	listens := fmt.Sprintf(":%04X 00000000:0000 0A ", w.port)
	for end := time.Now().Add(soon); ; time.Sleep(10 * time.Millisecond) {
		if strings.Contains(w.output(fmt.Sprint("att-", n), "cat", "/proc/net/tcp"), listens) {
			return
		}
		if len(ended) > 0 {
			w.Fatalf("%s: %s", args[0], <-ended)
		}
		if time.Now().After(end) {
			w.Fatalf("%s does not listen", args[0])
		}
	}
}

const fileSize = 3 << 20

// serving is a world of an nginx that has a file. how are further words of its listen
// directive.
func serving(t *testing.T, how string, programs ...string) (w *world, dir string, file []byte) {
	t.Helper()
	w = software(t, 1, append(programs, "nginx")...)
	dir = w.place()
	w.write(dir+"/conf", fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr; events {}
http { access_log off; client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
 server { listen %[2]s:%[3]d %[4]s; root %[1]s; } }
`, dir, seat(1), w.port, how))
	file = make([]byte, fileSize)
	_, _ = proxytest.NewPattern(7).Read(file)
	w.write(dir+"/file", string(file))
	w.daemon(1, "nginx", "-e", "stderr", "-c", dir+"/conf")
	return w, dir, file
}

// One connection carries all requests of a client.
func TestRealKeepAlive(t *testing.T) {
	w, dir, file := serving(t, "", "curl")
	ask := []string{"curl", "-sS", "-w", `%{http_version} %{http_code} %{size_download} %{num_connects}\n`}
	var want []string
	for i := range 5 {
		ask = append(ask, "-o", fmt.Sprint(dir, "/got", i), fmt.Sprintf("http://%s:%d/file", epH, w.port))
		want = append(want, fmt.Sprintf("1.1 200 %d %d", fileSize, max(0, 1-i)))
	}
	if diff := cmp.Diff(want, strings.Split(w.output(client, ask...), "\n")); diff != "" {
		t.Error(diff)
	}
	for i := range want {
		if got, err := os.ReadFile(fmt.Sprint(dir, "/got", i)); err != nil || !bytes.Equal(got, file) {
			t.Errorf("got %d bytes that are not the file, %v", len(got), err)
		}
	}
	if r := w.records(1)[0]; r.Out < 5*fileSize {
		t.Errorf("record: %+v", r)
	}
}

// One connection carries many requests at a time.
func TestRealHTTP2(t *testing.T) {
	w, _, file := serving(t, "http2")
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{
		Protocols:   &protocols,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return w.dial(epH) },
	}
	asks := func() {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://orders.example.com/file", nil)
		if err != nil {
			t.Error(err)
			return
		}
		answer, err := transport.RoundTrip(request)
		if err != nil {
			t.Error(err)
			return
		}
		defer answer.Body.Close()
		if got, err := io.ReadAll(answer.Body); err != nil || answer.Proto != "HTTP/2.0" || !bytes.Equal(got, file) {
			t.Errorf("got %d bytes by %s that are not the file, %v", len(got), answer.Proto, err)
		}
	}
	asks() // from here on there is a connection
	var asking sync.WaitGroup
	for range 8 {
		asking.Go(asks)
	}
	asking.Wait()
	transport.CloseIdleConnections()
	if r := w.records(1)[0]; r.Out < 9*fileSize {
		t.Errorf("record: %+v", r)
	}
}

// Many clients with many requests under way count to the last one.
func TestRealRedis(t *testing.T) {
	w := software(t, 1, "redis-server", "redis-benchmark", "redis-cli")
	port := fmt.Sprint(w.port)
	w.daemon(1, "redis-server", "--bind", seat(1).String(), "--port", port, "--save", "", "--protected-mode", "no", "--dir", w.place())
	const clients, depth, requests = 20, 16, 3200 // a multiple of the depth
	w.output(client, "redis-benchmark", "-h", epH.String(), "-p", port, "-q", "-t", "set,get,incr,lpush,lrange_100",
		"-n", fmt.Sprint(requests), "-c", fmt.Sprint(clients), "-P", fmt.Sprint(depth))
	if got := w.output(client, "redis-cli", "-h", epI.String(), "-p", port, "get", "counter:__rand_int__"); got != fmt.Sprint(requests) {
		t.Errorf("counted to %q, want %d", got, requests)
	}
}

// Sessions of a database lose no transaction, and a large answer comes whole.
func TestRealPostgres(t *testing.T) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		t.Skip("PostgreSQL is not installed: run make setup")
	}
	if os.Getenv(envMode) == vpc.ModeUserns {
		t.Skip("PostgreSQL refuses root, and this user namespace has nobody else")
	}
	bin := filepath.Dir(found[len(found)-1])
	w := software(t, 1, "setpriv", filepath.Join(bin, "pgbench"), filepath.Join(bin, "psql"))
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	dir, port := w.place(), fmt.Sprint(w.port)
	data := filepath.Join(dir, "data")
	as := []string{"setpriv", "--reuid", nobody.Uid, "--regid", nobody.Gid, "--clear-groups"}
	w.output("att-1", "install", "-d", "-m", "700", "-o", nobody.Uid, "-g", nobody.Gid, data)
	w.output("att-1", append(slices.Clip(as), filepath.Join(bin, "initdb"), "-D", data, "-A", "trust", "-U", "opl", "--no-sync", "--no-instructions")...)
	w.output("att-1", "sh", "-c", "echo host all all all trust >>"+data+"/pg_hba.conf")
	w.daemon(1, append(slices.Clip(as), filepath.Join(bin, "postgres"), "-D", data, "-h", seat(1).String(), "-p", port, "-k", "", "-F")...)

	ask := func(program string, args ...string) string {
		t.Helper()
		return w.output(client, append([]string{filepath.Join(bin, program), "-h", epH.String(), "-p", port, "-U", "opl"}, args...)...)
	}
	for end := time.Now().Add(soon); ; time.Sleep(10 * time.Millisecond) { // it listens before it has started
		if code, err := w.exec(client, os.Stderr, []string{filepath.Join(bin, "pg_isready"), "-q", "-U", "opl", "-d", "postgres", "-h", epH.String(), "-p", port}); err == nil && code == 0 {
			break
		} else if time.Now().After(end) {
			t.Fatalf("pg_isready: exit code %d, %v", code, err)
		}
	}
	ask("psql", "-qc", "create table counted (n int); insert into counted values (0)", "postgres")
	const sessions, each = 4, 50
	script := filepath.Join(dir, "script")
	w.write(script, "update counted set n = n + 1;\nselect n from counted;\n")
	ask("pgbench", "-n", "-M", "prepared", "-f", script, "-c", fmt.Sprint(sessions), "-t", fmt.Sprint(each), "postgres")
	if got := ask("psql", "-Atc", "select n from counted", "postgres"); got != fmt.Sprint(sessions*each) {
		t.Errorf("counted to %q, want %d", got, sessions*each)
	}
	const rows, width = 2000, 1000
	if got := ask("psql", "-Atc", fmt.Sprintf("select repeat('x', %d) from generate_series(1, %d)", width, rows), "postgres"); len(got) != rows*(width+1)-1 {
		t.Errorf("%d bytes of an answer of %d", len(got), rows*(width+1)-1)
	}
}

// A remote command with bulk in both directions.
func TestRealSSH(t *testing.T) {
	const login = "postgres" // a user with a shell: root's sshd would change its root directory, which no attachment may
	me, err := user.Lookup(login)
	if err != nil {
		t.Skipf("%v: run make setup", err)
	}
	if os.Getenv(envMode) == vpc.ModeUserns {
		t.Skip("sshd is run as another user, and this user namespace has none")
	}
	w := software(t, 1, "sshd", "ssh", "ssh-keygen", "setpriv")
	dir := w.place()
	home := filepath.Join(dir, "home")
	w.output("att-1", "install", "-d", "-m", "755", "-o", me.Uid, "-g", me.Gid, home)
	as := []string{"setpriv", "--reuid", me.Uid, "--regid", me.Gid, "--clear-groups"}
	for _, name := range []string{"host", "key"} {
		w.output("att-1", append(slices.Clip(as), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(home, name))...)
	}
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		t.Fatal(err)
	}
	w.daemon(1, append(slices.Clip(as), sshd, "-D", "-e", "-f", "/dev/null", "-h", home+"/host", "-o", "ListenAddress="+netip.AddrPortFrom(seat(1), w.port).String(),
		"-o", "AuthorizedKeysFile="+home+"/key.pub", "-o", "StrictModes=no", "-o", "PidFile=none", "-o", "UsePAM=no")...)
	const size = 3 << 20
	got := w.output(client, append(slices.Clip(as), "sh", "-c", fmt.Sprintf(
		"head -c %d /dev/zero | ssh -F /dev/null -i %s/key -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -p %d %s@%s 'wc -c; head -c %[1]d /dev/zero' | { read n; echo $n; wc -c; }",
		size, home, w.port, login, epH))...)
	if want := fmt.Sprintf("%d\n%d", size, size); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// iperf3 asks the server of that name for a measurement, and returns what the server
// has received.
func (w *world) iperf3(args ...string) (received struct {
	Bytes   int64
	Seconds float64
},
) {
	w.Helper()
	said := w.output(client, append([]string{"iperf3", "-J", "-c", epH.String(), "-p", fmt.Sprint(w.port)}, args...)...)
	var report struct {
		End struct {
			Received *struct {
				Bytes   int64
				Seconds float64
			} `json:"sum_received"`
		}
	}
	if err := json.Unmarshal([]byte(said), &report); err != nil || report.End.Received == nil {
		w.Fatalf("%v: %s", err, said)
	}
	return *report.End.Received
}

// A client's connections that belong together come to the same server.
func TestRealIperf(t *testing.T) {
	w := software(t, 3, "iperf3")
	w.regroup(func(g *proxy.ServerGroup) { g.Scheduler = proxy.SourceHash })
	for n := range 3 {
		w.daemon(n+1, "iperf3", "-s", "-B", seat(n+1).String(), "-p", fmt.Sprint(w.port))
	}
	if got := w.iperf3("-t", "1", "-P", "4"); got.Bytes < 1<<20 {
		t.Errorf("%d bytes received in %v s", got.Bytes, got.Seconds)
	}
	records := w.records(5) // one of them for control
	for _, r := range records {
		if r.Server != records[0].Server {
			t.Errorf("at %s: %+v", records[0].Server, r)
		}
	}
}

// A browser's way of talking in both directions over one connection.
func TestWebSocket(t *testing.T) {
	each(t, func(w *world) {
		w.apply()
		ln, err := w.driver.Listen(w.Context(), provider, netip.AddrPortFrom(backend(1), w.port))
		if err != nil {
			w.Fatal(err)
		}
		server := &http.Server{Handler: websocket.Handler(func(c *websocket.Conn) { _, _ = io.Copy(c, c) })}
		var serving sync.WaitGroup
		serving.Go(func() { _ = server.Serve(ln) })
		w.Cleanup(func() { _ = server.Close(); serving.Wait() })
		w.carry(endpoint, true)
		w.carrying(endpoint, true)

		config, err := websocket.NewConfig("ws://orders.example.com/", "http://shop.example.com/")
		if err != nil {
			w.Fatal(err)
		}
		c, err := websocket.NewClient(config, w.mustDial(epH))
		if err != nil {
			w.Fatal(err)
		}
		for n := range 100 {
			want := fmt.Sprint("message ", n)
			var got string
			if err := errors.Join(websocket.Message.Send(c, want), websocket.Message.Receive(c, &got)); err != nil || got != want {
				w.Fatalf("got %q, %v, want %q", got, err, want)
			}
		}
		_ = c.Close()
		if r := w.records(1)[0]; r.Reason != proxy.ReasonClosed || r.Protocol != verdict.TCP {
			w.Errorf("record: %+v", r)
		}
	})
}

// A QUIC connection stays with its server, also when it goes on under ids that were
// agreed on in secret; connections are spread.
func TestQUIC(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	named := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"orders.example.com"}, NotAfter: time.Now().Add(time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, named, named, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}}, NextProtos: []string{"echo"},
		ServerName: "orders.example.com", InsecureSkipVerify: true,
	}
	patient := &quic.Config{HandshakeIdleTimeout: soon}
	each(t, func(w *world) {
		w.regroup(func(g *proxy.ServerGroup) { g.Scheduler = proxy.QUICConnectionHash })
		w.packets(func(n int, c *net.UDPConn) {
			transport := &quic.Transport{Conn: c}
			ln, err := transport.Listen(config, patient)
			if err != nil {
				w.Fatal(err)
			}
			var serving sync.WaitGroup
			serving.Go(func() {
				for {
					c, err := ln.Accept(context.Background())
					if err != nil {
						return
					}
					serving.Go(func() {
						for {
							s, err := c.AcceptStream(context.Background())
							if err != nil {
								return
							}
							serving.Go(func() {
								_, _ = s.Write([]byte{byte(n)})
								_, _ = io.Copy(s, s)
								_ = s.Close()
							})
						}
					})
				}
			})
			w.Cleanup(func() { _ = transport.Close(); serving.Wait() })
		}, nil, w.server(1, 1), w.server(2, 1), w.server(3, 1))

		to, err := w.driver.Reach(consumer, netip.AddrPortFrom(epH, w.port))
		if err != nil {
			w.Fatal(err)
		}
		want := make([]byte, 64<<10)
		_, _ = proxytest.NewPattern(9).Read(want)
		servers := map[byte]bool{}
		for range 16 {
			transport := &quic.Transport{Conn: w.bind(consumer, netip.AddrPortFrom(epI, 0))}
			w.Cleanup(func() { _ = transport.Close() })
			c, err := transport.Dial(w.Context(), net.UDPAddrFromAddrPort(to), config, patient)
			if err != nil {
				w.Fatal(err)
			}
			var first byte
			for n := range 3 {
				s, err := c.OpenStreamSync(w.Context())
				if err != nil {
					w.Fatal(err)
				}
				_ = s.SetDeadline(time.Now().Add(soon))
				var sending sync.WaitGroup
				sending.Go(func() { _, _ = s.Write(want); _ = s.Close() })
				got, err := io.ReadAll(s)
				sending.Wait()
				if err != nil || len(got) == 0 || !bytes.Equal(got[1:], want) {
					w.Fatalf("got %d bytes that are not those sent, %v", len(got), err)
				}
				if n == 0 {
					first = got[0]
				} else if got[0] != first {
					w.Errorf("stream %d came to server %d, the first to %d", n, got[0], first)
				}
			}
			servers[first] = true
			_ = c.CloseWithError(0, "")
		}
		if len(servers) < 2 { // with 3^-15 it is chance
			w.Errorf("all connections came to %v", servers)
		}
	})
}

// Datagrams that are more than the endpoint's bandwidth are lost on the way.
func TestRealIperfPackets(t *testing.T) {
	w := software(t, 1, "iperf3")
	w.listeners(
		proxy.Listener{ID: "lsn-1", Protocol: verdict.TCP, Port: w.port, ServerGroup: group}, // for control
		proxy.Listener{ID: "lsn-2", Protocol: verdict.UDP, Port: w.port, ServerGroup: group},
	)
	w.shall.Groups[firewall] = verdict.Group{ID: firewall, Rules: []verdict.Rule{
		{ID: "sgr-1", Priority: 1, Policy: verdict.Accept, Protocol: verdict.All, Peer: range16},
	}}
	const mbit, seconds = 10, 3
	w.change(func(ep *proxy.Endpoint) { ep.Bandwidth = mbit })
	w.daemon(1, "iperf3", "-s", "-B", seat(1).String(), "-p", fmt.Sprint(w.port))
	got := w.iperf3("-u", "-b", fmt.Sprint(2*mbit, "M"), "-t", fmt.Sprint(seconds))
	if rate := float64(got.Bytes) * 8 / 1e6 / got.Seconds; rate > mbit*1.1 || rate < mbit*0.75 { // less where the machine has no time
		t.Errorf("%.2f Mbit/s received, want %d", rate, mbit)
	}
}
