package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	proxyproto "github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
)

// prefaced makes the load balancer's listener begin flows with a PROXY header.
func (w *world) prefaced(p proxy.ProxyProtocol) {
	b := w.shall.LoadBalancers[balancer]
	b.Listeners = []proxy.Listener{{ID: "lsn-1", Protocol: verdict.TCP, Port: w.port, ServerGroup: group, Proxy: p}}
	w.shall.LoadBalancers[balancer] = b
}

// knows wants a header to say what the consumer's network knows of c.
func (w *world) knows(h *proxyproto.Header, c net.Conn, at netip.Addr, transport proxyproto.AddressFamilyAndProtocol) {
	w.Helper()
	local, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		w.Fatal(err)
	}
	from := w.driver.Translate(consumer, local)
	to := netip.AddrPortFrom(at, w.port)
	if h.TransportProtocol != transport || h.SourceAddr.String() != from.String() || h.DestinationAddr.String() != to.String() {
		w.Errorf("got %v from %v to %v, want %v from %v to %v", h.TransportProtocol, h.SourceAddr, h.DestinationAddr, transport, from, to)
	}
}

// A server learns who its client is, also one that speaks first, and then gets the
// bytes of the client from the first on.
func TestProxyHeader(t *testing.T) {
	each(t, func(w *world) {
		w.prefaced(proxy.ProxyProtocol{Enabled: true, VPC: true, Endpoint: true, Service: true})
		headers := make(chan *proxyproto.Header, 1)
		w.connected(func(c *net.TCPConn) {
			_, _ = io.WriteString(c, "server first")
			r := bufio.NewReader(c)
			h, err := proxyproto.Read(r)
			if err != nil {
				w.Errorf("read a header: %v", err)
				return
			}
			headers <- h
			_, _ = io.Copy(c, r)
			_ = c.CloseWrite()
		})
		header := func(c net.Conn, at netip.Addr) {
			w.Helper()
			h := <-headers
			w.knows(h, c, at, proxyproto.TCPv4)
			got, err := h.TLVs()
			if err != nil {
				w.Fatal(err)
			}
			want := []proxyproto.TLV{
				{Type: 0xe1, Value: []byte("\x01" + consumer)},
				{Type: 0xe1, Value: []byte("\x02" + endpoint)},
				{Type: 0xe1, Value: []byte("\x03epsrv-1")},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				w.Error(diff)
			}
		}
		for _, first := range []string{"said at once", ""} {
			c := w.mustDial(epI)
			_, _ = io.WriteString(c, first)
			const greeting = "server first"
			got := make([]byte, len(greeting+first))
			if _, err := io.ReadFull(c, got); err != nil || string(got) != greeting+first {
				w.Fatalf("got %q, %v", got, err)
			}
			header(c, epI)
			w.echoes(c, "and later")
			if err := c.CloseWrite(); err != nil {
				w.Fatal(err)
			}
			if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
				w.Errorf("at the end: %q, %v", rest, err)
			}
		}
		// A header is nobody's bytes.
		for _, r := range w.records(2) {
			if r.In > int64(len("said at once"+"and later")) {
				w.Errorf("%d bytes from the client", r.In)
			}
		}
	})
}

func TestProxyDialects(t *testing.T) {
	t.Parallel()
	d := newFake()
	w := newWorld(t, d, start(t, d, ""))
	ep := w.shall.Endpoints[endpoint]
	ep.ID = "vpce-08d2bf15fac5001c9"
	delete(w.shall.Endpoints, endpoint)
	w.shall.Endpoints[ep.ID] = ep
	headers := make(chan *proxyproto.Header, 1)
	w.apply()
	w.serve(1, func(c *net.TCPConn) {
		h, err := proxyproto.Read(bufio.NewReader(c))
		if err != nil {
			w.Errorf("read a header: %v", err)
		}
		headers <- h
	})
	w.carry(ep.ID, true)
	w.carrying(ep.ID, true)
	tests := map[proxy.ProxyDialect]func([]proxyproto.TLV) bool{
		proxy.ProxyAWS:   func(t []proxyproto.TLV) bool { return tlvparse.FindAWSVPCEndpointID(t) == ep.ID },
		proxy.ProxyAzure: func(t []proxyproto.TLV) bool { _, ok := tlvparse.FindAzurePrivateEndpointLinkID(t); return ok },
		proxy.ProxyGCP:   func(t []proxyproto.TLV) bool { _, ok := tlvparse.ExtractPSCConnectionID(t); return ok },
		proxy.ProxyAlibaba: func(t []proxyproto.TLV) bool {
			return len(t) == 1 && t[0].Type == 0xe1 && string(t[0].Value) == "\x02"+ep.ID
		},
	}
	for dialect, ok := range tests {
		w.prefaced(proxy.ProxyProtocol{Enabled: true, Dialect: dialect, Endpoint: true})
		w.apply()
		w.mustDial(epH)
		tlvs, err := (<-headers).TLVs()
		if err != nil || !ok(tlvs) {
			t.Errorf("%s: got %v, %v", dialect, tlvs, err)
		}
	}
}

// Real receivers take what they are told for the client's address.
func TestProxyReceivers(t *testing.T) {
	t.Parallel()
	receivers := map[string]string{ // their configuration
		"nginx": `daemon off; master_process off; error_log stderr; pid %[1]s/nginx.pid; events {}
http { access_log off; client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
 server { listen 127.0.0.1:%[2]d proxy_protocol;
  location / { return 200 "$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_addr:$proxy_protocol_server_port"; } } }
`,
		"haproxy": `defaults
 mode http
 timeout connect 5s
 timeout client 5s
 timeout server 5s
frontend f
 bind 127.0.0.1:%[2]d accept-proxy
 http-request return status 200 content-type text/plain lf-string "%%[src]:%%[src_port] %%[dst]:%%[dst_port]"
`,
	}
	for name, text := range receivers {
		t.Run(name, func(t *testing.T) {
			program, err := exec.LookPath(name)
			if err != nil {
				t.Skip(err)
			}
			d := newFake()
			w := newWorld(t, d, start(t, d, ""))
			dir, port := t.TempDir(), freePort(t)
			config := filepath.Join(dir, "config")
			if err := os.WriteFile(config, fmt.Appendf(nil, text, dir, port), 0o600); err != nil {
				t.Fatal(err)
			}
			args := map[string][]string{"nginx": {"-e", "stderr", "-c", config}, "haproxy": {"-db", "-f", config}}
			cmd := exec.CommandContext(t.Context(), program, args[name]...)
			cmd.Stderr = t.Output()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = cmd.Wait() })
			host := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
			for end := time.Now().Add(soon); ; time.Sleep(10 * time.Millisecond) {
				if c, err := net.Dial("tcp4", host.String()); err == nil {
					_ = c.Close()
					break
				} else if time.Now().After(end) {
					t.Fatal(err)
				}
			}
			w.prefaced(proxy.ProxyProtocol{Enabled: true, VPC: true, Endpoint: true, Service: true})
			w.servers(proxy.Server{ID: "srv-host", Address: host, Host: true, Weight: 100})
			w.apply()
			w.carry(endpoint, true)
			w.carrying(endpoint, true)
			c := w.mustDial(epH)
			_, _ = io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
			answer, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			got, err := io.ReadAll(answer.Body)
			local := netip.MustParseAddrPort(c.LocalAddr().String())
			if want := fmt.Sprint(d.Translate(consumer, local), " ", netip.AddrPortFrom(epH, w.port)); string(got) != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		})
	}
}
