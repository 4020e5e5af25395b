package e2e

import (
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"testing"
)

// TestOwnService publishes a Redis server of the machine itself, in one step of the
// first page, and asks it something from inside the consumer's VPC.
func TestOwnService(t *testing.T) {
	server, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("Redis is not installed: run make setup")
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0") //nolint:noctx // only for a free port
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
	ln.Close()
	redis := exec.Command(server, "--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", t.TempDir()) //nolint:noctx // it is killed
	if err := redis.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		redis.Process.Kill()
		redis.Wait()
	})

	a := start(t, "--demo")
	p := a.person(profile{})
	p.open(a.link)
	p.press("Accept the connection")
	p.at("terminal", "hello from")
	p.fill("Host and port", "127.0.0.1:99999")
	p.press("Publish it")
	p.sees("Write an IPv4 address and a port")
	p.fill("Host and port", "127.0.0.1:"+port)
	p.press("Publish it")
	p.sees("is published")
	service := lastID.FindString(p.page.URL())
	p.open(acme + "/services/" + service + "/add-accounts")
	p.fill("Account IDs", "1000000000000042")
	p.press("Add")
	p.sees("1000000000000042")
	p.open(northwind + "/endpoints/new?service=" + service)
	p.fill("Address", "10.0.1.99")
	p.press("Create endpoint")
	p.sees("Waiting for approval")
	p.open(acme + "/connections")
	p.press("Accept northwind-shop")
	p.sees("is being connected")
	eventually(t, func() error {
		out, err := a.run1("shop-client", "redis-cli", "-h", "10.0.1.99", "-p", port, "ping")
		if err == nil && out != "PONG\n" {
			err = fmt.Errorf("got %q", out)
		}
		return err
	})
}
