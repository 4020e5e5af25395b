package proxy_test

import (
	"fmt"
	"net/netip"
	"os/exec"
	"os/user"
	"strings"
	"testing"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy"
)

// A resolver asks a real server of names, by UDP.
func TestRealNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"dnsmasq", "dig"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not installed: run make setup", name)
		}
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	d := newFake()
	w := newWorld(t, d, start(t, d, ""))
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), freePort(t))
	server := exec.CommandContext(t.Context(), "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user="+me.Username,
		"--no-resolv", "--no-hosts", "--bind-interfaces", "--listen-address="+at.Addr().String(), fmt.Sprint("--port=", at.Port()),
		"--address=/orders.test/192.0.2.7", "--txt-record=long.test,"+strings.Repeat("x", 255))
	server.Stderr = t.Output()
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Wait() })
	w.packets(w.echoPackets, nil, proxy.Server{ID: "srv-host", Address: at, Host: true, Weight: 100})
	front, _ := d.Outside(consumer, netip.AddrPortFrom(epH, w.port))
	ask := func(question ...string) string {
		args := append([]string{"@" + front.Addr().String(), "-p", fmt.Sprint(front.Port()), "+short", "+notcp", "+tries=1", "+timeout=1"}, question...)
		var out []byte
		for end := time.Now().Add(soon); time.Now().Before(end); { // until the server has started
			if out, err = exec.CommandContext(t.Context(), "dig", args...).Output(); err == nil {
				return strings.TrimSpace(string(out))
			}
		}
		t.Fatalf("dig %v: %v, %s", question, err, out)
		return ""
	}
	if got := ask("orders.test"); got != "192.0.2.7" {
		t.Errorf("the address of orders.test: %q", got)
	}
	if got := ask("long.test", "txt"); len(got) != len(`""`)+255 {
		t.Errorf("the text of long.test: %q", got)
	}
}
