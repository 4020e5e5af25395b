package proxy_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
)

// page answers one HTTP request like any web server.
func page(c *net.TCPConn) {
	req, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nX-Asked-For: "+req.Method+" "+req.URL.Path+"\r\nContent-Length: 6\r\n\r\nhello\n")
}

func TestProbe(t *testing.T) {
	each(t, func(w *world) {
		w.connected(page)
		probe := func(kind proxy.ProbeKind, port uint16) proxy.ProbeResult {
			w.Helper()
			res, err := w.engine.Probe(w.Context(), proxy.ProbeRequest{
				Attachment: client, Target: netip.AddrPortFrom(epH, port), Kind: kind, Timeout: 2 * time.Second,
			})
			if err != nil {
				w.Fatal(err)
			}
			if res.OK && (res.Connect <= 0 || res.Total < res.Connect) {
				w.Errorf("connected in %v, done in %v", res.Connect, res.Total)
			}
			return res
		}
		if res := probe(proxy.ProbeTCP, w.port); !res.OK || res.Error != "" || res.Source != clientAt {
			w.Errorf("tcp: %+v", res)
		}
		res := probe(proxy.ProbeHTTP, w.port)
		command := ""
		if _, err := exec.LookPath("curl"); err == nil && w.driver.Capabilities().Exec {
			command = fmt.Sprintf("curl -sS -i --connect-timeout 2 --max-time 2 http://%v:%d/", epH, w.port)
		}
		if !res.OK || res.Status != 200 || res.Source != clientAt || res.Command != command {
			w.Errorf("http: %+v", res)
		}
		for _, want := range []string{"HTTP/1.1 200 OK\r\n", "X-Asked-For: GET /\r\n", "\r\n\r\nhello\n"} {
			if !strings.Contains(res.Output, want) {
				w.Errorf("http printed %q, want %q in it", res.Output, want)
			}
		}
		for _, kind := range []proxy.ProbeKind{proxy.ProbeTCP, proxy.ProbeHTTP} {
			if res := probe(kind, w.port+1); res.OK || res.Error != "connection refused" {
				w.Errorf("%s to nobody: %+v", kind, res)
			}
		}
		w.shall.Groups[firewall] = verdict.Group{ID: firewall}
		w.apply()
		refused := "reset"
		if w.driver.Capabilities().Filters {
			refused = "timed out"
		}
		for _, kind := range []proxy.ProbeKind{proxy.ProbeTCP, proxy.ProbeHTTP} {
			if res := probe(kind, w.port); res.OK || res.Error != refused {
				w.Errorf("%s past the security group: %+v", kind, res)
			}
		}
		if _, err := w.engine.Probe(w.Context(), proxy.ProbeRequest{Attachment: "att-unknown", Kind: proxy.ProbeTCP}); !errors.Is(err, proxy.ErrNotFound) {
			w.Errorf("from nowhere: %v, want ErrNotFound", err)
		}
		if _, err := w.engine.Probe(w.Context(), proxy.ProbeRequest{Attachment: client, Kind: "icmp"}); err == nil {
			w.Error("a probe of an unknown kind was made")
		}
	})
}

func TestProbeTimesOut(t *testing.T) {
	each(t, func(w *world) {
		w.connected(func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }) // says nothing
		res, err := w.engine.Probe(w.Context(), proxy.ProbeRequest{
			Attachment: client, Target: netip.AddrPortFrom(epH, w.port), Kind: proxy.ProbeHTTP, Timeout: 300 * time.Millisecond,
		})
		if err != nil || res.OK || res.Error != "timed out" || res.Total > soon {
			w.Errorf("got %+v, %v", res, err)
		}
	})
}

// A long answer is taken to its end, and its beginning is kept.
func TestProbeOfALongAnswer(t *testing.T) {
	const size = 3 << 20
	each(t, func(w *world) {
		w.connected(func(c *net.TCPConn) {
			if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
				return
			}
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
			_, _ = io.WriteString(c, strings.Repeat("x", size))
		})
		res, err := w.engine.Probe(w.Context(), proxy.ProbeRequest{Attachment: client, Target: netip.AddrPortFrom(epH, w.port), Kind: proxy.ProbeHTTP})
		if err != nil || !res.OK || res.Status != 200 || len(res.Output) != 8<<10 || !strings.HasSuffix(res.Output, "xx") {
			w.Errorf("ok %v, status %d, %q, %d bytes of output, %v", res.OK, res.Status, res.Error, len(res.Output), err)
		}
	})
}
