package proxy

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNewQuestion(t *testing.T) {
	to := netip.MustParseAddrPort("10.0.2.1:8080")
	head := func(first, host string) string {
		return first + "\r\nHost: " + host + "\r\nUser-Agent: openprivatelink-health-check\r\nAccept: */*\r\nConnection: close\r\n\r\n"
	}
	tests := map[string]struct {
		in    HealthCheck
		to    netip.AddrPort
		kind  HealthType
		send  string
		yes   []int
		no    []int
		reply string
	}{
		"nothing said": {kind: HealthTCP},
		"PROXY":        {in: HealthCheck{Proxy: true}, kind: HealthTCP, send: "\r\n\r\n\x00\r\nQUIT\n \x00\x00\x00"},
		"HTTP": {
			in: HealthCheck{Type: HealthHTTP}, kind: HealthHTTP, send: head("GET / HTTP/1.0", "10.0.2.1:8080"),
			yes: []int{200, 204, 299}, no: []int{100, 199, 300, 404, 500},
		},
		"HTTP with everything": {
			in: HealthCheck{Type: HealthHTTP, Proxy: true, HTTP: HTTPCheck{
				Method: "HEAD", Path: "/up?deep=1", Host: "example.com", Version: "1.1", Codes: []string{"http_3xx", "http_5xx"},
			}},
			kind: HealthHTTP, send: "\r\n\r\n\x00\r\nQUIT\n \x00\x00\x00" + head("HEAD /up?deep=1 HTTP/1.1", "example.com"),
			yes: []int{301, 503}, no: []int{200, 404, 101},
		},
		"HTTP at its own port": {
			in: HealthCheck{Type: HealthHTTP, HTTP: HTTPCheck{Host: "$SERVER_IP"}}, to: netip.MustParseAddrPort("10.0.2.1:80"),
			kind: HealthHTTP, send: head("GET / HTTP/1.0", "10.0.2.1"), yes: []int{200},
		},
		"UDP": {in: HealthCheck{Type: HealthUDP}, kind: HealthUDP},
		"UDP with everything": {
			in:   HealthCheck{Type: HealthUDP, UDP: UDPCheck{Request: "ping", Expect: "pong"}},
			kind: HealthUDP, send: "ping", reply: "pong",
		},
	}
	for name, test := range tests {
		if !test.to.IsValid() {
			test.to = to
		}
		q := newQuestion(test.in, test.to)
		if q.kind != test.kind || q.to != test.to || q.expect != test.reply {
			t.Errorf("%s: %+v", name, q)
		}
		if diff := cmp.Diff(test.send, q.send); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		for _, code := range test.yes {
			if !q.codes.has(code) {
				t.Errorf("%s: %d is wrong", name, code)
			}
		}
		for _, code := range test.no {
			if q.codes.has(code) {
				t.Errorf("%s: %d is right", name, code)
			}
		}
	}
}

// What a server may do to a check, and what that means.
func TestAnswers(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nServer: x\r\n\r\n"
	say := func(parts ...string) func(net.Conn) {
		return func(c net.Conn) {
			for _, p := range parts {
				if _, err := c.Write([]byte(p)); err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
			_ = c.Close()
		}
	}
	silent := func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) }
	reset := func(c net.Conn) { _ = c.Close() }
	drip := func(c net.Conn) { // never ends, and never stops
		_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nX: "))
		for {
			if _, err := c.Write([]byte("x")); err != nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	tests := map[string]struct {
		kind   HealthType
		expect string
		server func(net.Conn)
		want   string
		took   time.Duration // exactly; 0: less than the time-out
	}{
		"TCP":                      {kind: HealthTCP, server: silent},
		"HTTP at once":             {kind: HealthHTTP, server: say(ok)},
		"HTTP in pieces":           {kind: HealthHTTP, server: say("HTTP/1", ".1 200", " OK\r", "\nServer: x\r\n", "\r\nbody")},
		"HTTP of bare line feeds":  {kind: HealthHTTP, server: say("HTTP/1.0 200\n\n")},
		"HTTP 404":                 {kind: HealthHTTP, server: say("HTTP/1.1 404 Not Found\r\n\r\n"), want: codeNotMatch},
		"HTTP silent":              {kind: HealthHTTP, server: silent, want: responseTimeout, took: time.Second},
		"HTTP without an end":      {kind: HealthHTTP, server: drip, want: responseTimeout, took: time.Second},
		"HTTP too long":            {kind: HealthHTTP, server: say("HTTP/1.1 200 OK\r\n" + strings.Repeat("X: x\r\n", 2000)), want: invalidHeader},
		"HTTP closed":              {kind: HealthHTTP, server: reset, want: connectInterrupt},
		"HTTP closed in a header":  {kind: HealthHTTP, server: say("HTTP/1.1 200 OK\r\nServ"), want: connectInterrupt},
		"HTTP that is SSH":         {kind: HealthHTTP, server: say("SSH-2.0-OpenSSH\r\n"), want: invalidHeader},
		"HTTP with a broken field": {kind: HealthHTTP, server: say("HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), want: invalidHeader},
		"UDP answered":             {kind: HealthUDP, server: say("pong"), expect: "pong"},
		"UDP answered at last":     {kind: HealthUDP, server: say("peng", "pong"), expect: "pong"},
		"UDP answered wrong":       {kind: HealthUDP, server: func(c net.Conn) { _, _ = c.Write([]byte("peng")); silent(c) }, expect: "pong", want: responseTimeout, took: time.Second},
		"UDP silent":               {kind: HealthUDP, server: silent, expect: "pong", want: responseTimeout, took: time.Second},
		"UDP silent, as it may":    {kind: HealthUDP, server: silent, took: time.Second},
		"UDP answered as it likes": {kind: HealthUDP, server: say("x")},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				var served sync.WaitGroup
				defer served.Wait()
				defer near.Close()
				served.Go(func() {
					if test.kind != HealthTCP {
						_, _ = far.Read(make([]byte, 1024))
					}
					test.server(far)
				})
				q := newQuestion(HealthCheck{Type: test.kind, UDP: UDPCheck{Request: "ping", Expect: test.expect}}, netip.MustParseAddrPort("10.0.0.1:80"))
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				began := time.Now()
				got := converse(ctx, near, q)
				took := time.Since(began)
				if got != test.want || test.took > 0 && took != test.took || test.took == 0 && took >= time.Second {
					t.Errorf("%q after %v, want %q", got, took, test.want)
				}
			})
		})
	}
}

// A check that is stopped lets go of its connection at once.
func TestStoppedCheckEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		go func() { _, _ = far.Read(make([]byte, 1024)) }()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		began := time.Now()
		converse(ctx, near, newQuestion(HealthCheck{Type: HealthHTTP}, netip.MustParseAddrPort("10.0.0.1:80")))
		if took := time.Since(began); took != time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestTimedOut(t *testing.T) {
	for err, want := range map[error]bool{
		context.DeadlineExceeded: true, syscall.ETIMEDOUT: true, syscall.ECONNREFUSED: false, context.Canceled: false,
		&net.OpError{Op: "dial", Err: context.DeadlineExceeded}: true,
	} {
		if got := timedOut(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}

func FuzzHTTPStatus(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 0\r\n\r\n", "HTTP/1.0 503\n\n", "HTTP/1.1 204 \r\n\r\n",
		"HTTP/2 200\r\n\r\n", "HTTP/1.1 99 Too small\r\n\r\n", "HTTP/1.1 200 OK\r\n folded: x\r\n\r\n", "HTTP/1.1 200 OK\r\n: x\r\n\r\n", "", "H",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		status, more, err := parseStatus(b)
		if (status != 0) == (more || err != nil) || more && err != nil {
			t.Fatalf("%q: %d %v %v", b, status, more, err)
		}
		for i := range b { // what may still become a response until the last byte was never bad before
			if _, _, bad := parseStatus(b[:i]); bad != nil && err == nil {
				t.Fatalf("%q is bad, %q is not", b[:i], b)
			}
		}
		if status == 0 {
			return
		}
		r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), nil)
		if err == nil && r.StatusCode != status {
			t.Errorf("%q: %d, net/http says %d", b, status, r.StatusCode)
		}
		if err == nil {
			r.Body.Close()
		}
	})
}
