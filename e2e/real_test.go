package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// realServer is software that nobody here wrote, and a question for it.
type realServer struct {
	port    string
	prepare []string // run once before, if any
	serve   []string
	ask     func(host string) []string
	want    string // the answer begins with it
}

// realServers are nginx, Redis and PostgreSQL, listening at an address with a port
// each. nginx answers with whom it saw, which shall begin with seen.
func realServers(t *testing.T, address, seen string, ports [3]string) []realServer {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		t.Skip("PostgreSQL is not installed: run make setup")
	}
	for _, name := range []string{"nginx", "redis-server"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not installed: run make setup", name)
		}
	}
	dir, err := os.MkdirTemp("", "opl-real-") //nolint:usetesting // servers that run as another user have to reach it
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	conf := filepath.Join(dir, "nginx.conf")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, `pid %[1]s/pid; daemon off; error_log %[1]s/err; events {}
http { access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
 server { listen %[2]s:%[3]s; location / { return 200 "nginx saw $remote_addr\n"; } } }`, dir, address, ports[0]), 0o644))

	data := filepath.Join(dir, "pg")
	must(t, os.Mkdir(data, 0o700))
	as := []string{}
	if os.Getuid() == 0 { // PostgreSQL refuses to run as root
		nobody, err := user.Lookup("nobody")
		must(t, err)
		uid, uidErr := strconv.Atoi(nobody.Uid)
		gid, gidErr := strconv.Atoi(nobody.Gid)
		must(t, errors.Join(uidErr, gidErr))
		must(t, os.Chown(data, uid, gid))
		as = []string{"setpriv", "--reuid", nobody.Uid, "--regid", nobody.Gid, "--clear-groups"}
	}
	bin := filepath.Dir(found[len(found)-1])
	return []realServer{
		{
			port: ports[0], serve: []string{"nginx", "-c", conf, "-e", dir + "/err"}, want: "nginx saw " + seen,
			ask: func(host string) []string {
				return []string{"curl", "-sS", "-m", "3", "http://" + host + ":" + ports[0] + "/"}
			},
		},
		{
			port: ports[1], serve: []string{"redis-server", "--bind", address, "--port", ports[1], "--save", "", "--protected-mode", "no", "--dir", dir}, want: "PONG\n",
			ask: func(host string) []string { return []string{"redis-cli", "-h", host, "-p", ports[1], "ping"} },
		},
		{
			port:    ports[2],
			prepare: append(slices.Clip(as), filepath.Join(bin, "initdb"), "-D", data+"/d", "-A", "trust", "-U", "opl", "--no-sync"),
			serve: append(slices.Clip(as), "sh", "-c", fmt.Sprintf(
				"echo 'host all all all trust' >> %[1]s/d/pg_hba.conf; exec %[2]s/postgres -D %[1]s/d -h %[3]s -p %[4]s -k ''", data, bin, address, ports[2])),
			want: "42\n",
			ask: func(host string) []string {
				return []string{filepath.Join(bin, "psql"), "-h", host, "-p", ports[2], "-U", "opl", "-Atc", "select 6 * 7", "postgres"}
			},
		},
	}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// answers waits until the server answers the shop's client at an address.
func (a *app) answers(s realServer, host string) {
	a.t.Helper()
	eventually(a.t, func() error {
		out, err := a.run1("shop-client", s.ask(host)...)
		if err == nil && !strings.HasPrefix(out, s.want) {
			err = fmt.Errorf("got %q, want %q", out, s.want)
		}
		return err
	})
}

// TestRealServers puts them behind the load balancer inside the provider's namespace.
func TestRealServers(t *testing.T) {
	b := publishBookings(t)
	b.accept()
	servers := realServers(t, "10.0.1.17", "10.0.", [3]string{"8081", "6379", "5432"})
	for _, s := range servers {
		if s.prepare != nil {
			_, err := b.run1("backend", s.prepare...)
			must(t, err)
		}
		b.background("backend", s.serve...)
	}
	b.listen("8081", "6379", "5432")
	for _, s := range servers {
		b.answers(s, "10.0.1.77")
	}
}

// TestOwnServices publishes them as services of the machine itself, each in one step of
// the first page, and asks them something from inside the consumer's VPC.
func TestOwnServices(t *testing.T) {
	a := start(t, "--demo")
	p := a.person(profile{})
	p.open(a.link)
	welcome := acme + "/welcome"
	p.press("Accept the connection")
	p.at("terminal", "hello from")
	p.fill("Host and port", "127.0.0.1:99999")
	p.press("Publish it")
	p.sees("Write an IPv4 address and a port")
	for i, s := range realServers(t, "127.0.0.1", "127.0.0.1", freePorts(t)) {
		if s.prepare != nil {
			out, err := exec.CommandContext(t.Context(), s.prepare[0], s.prepare[1:]...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		onHost(t, s.serve...)
		address := fmt.Sprintf("10.0.1.%d", 90+i)
		p.open(welcome)
		p.fill("Host and port", "127.0.0.1:"+s.port)
		p.press("Publish it")
		p.sees("is published")
		service := lastID.FindString(p.page.URL())
		p.open(acme + "/services/" + service + "/add-accounts")
		p.fill("Account IDs", "1000000000000042")
		p.press("Add")
		p.sees("1 account added")
		p.open(northwind + "/endpoints/new?service=" + service)
		p.fill("Address", address)
		p.press("Create endpoint")
		p.sees("Waiting for approval")
		p.open(acme + "/connections")
		p.press("Accept northwind-shop")
		p.sees("is being connected")
		a.answers(s, address)
	}
}

// onHost runs a server on the machine until the test ends.
func onHost(t *testing.T, argv ...string) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:noctx // it is ended below
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", argv[0], out.String())
		}
	})
}

// freePorts returns ports of the machine that nobody listens at.
func freePorts(t *testing.T) (ports [3]string) {
	t.Helper()
	for i := range ports {
		ln, err := net.Listen("tcp4", "127.0.0.1:0") //nolint:noctx // it is closed at once
		must(t, err)
		defer ln.Close()
		ports[i] = strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
	}
	return ports
}
