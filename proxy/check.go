package proxy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy/pp2"
)

// Reasons of an unhealthy server, as the load balancer's API names them.
const (
	connectTimeout   = "CONNECT_TIMEOUT"
	connectFailed    = "CONNECT_FAILED"
	connectInterrupt = "CONNECT_INTERRUPT"
	responseTimeout  = "RECV_RESPONSE_TIMEOUT"
	codeNotMatch     = "HTTP_CODE_NOT_MATCH"
	invalidHeader    = "HTTP_INVALID_HEADER"
)

const (
	headerMost = 8 << 10 // bytes of a response that are read for its status and header
	replyMost  = 1 << 10 // bytes of a datagram that are read; an expected one has 512 at most
	serverIP   = "$SERVER_IP"
)

// question is what a check asks of a server.
type question struct {
	kind   HealthType
	host   bool // from the host's own namespace
	from   origin
	to     netip.AddrPort
	send   string // once connected
	expect string // datagram; empty: any answer will do, and none as well
	codes  codes
}

// codes is a set of the hundreds of HTTP status codes.
type codes uint16

func (c codes) has(status int) bool { return c>>(status/100)&1 == 1 }

// newQuestion says what h asks of the server at to.
func newQuestion(h HealthCheck, to netip.AddrPort) question {
	q := question{kind: cmp.Or(h.Type, HealthTCP), to: to}
	if h.Proxy {
		q.send = string(pp2.Append(nil, pp2.Header{}))
	}
	switch q.kind {
	case HealthHTTP:
		q.send += httpRequest(h.HTTP, to)
		for _, c := range h.HTTP.Codes {
			if i := slices.Index([]string{"http_2xx", "http_3xx", "http_4xx", "http_5xx"}, c); i >= 0 {
				q.codes |= 1 << (2 + i)
			}
		}
		q.codes = cmp.Or(q.codes, 1<<2)
	case HealthUDP:
		q.send += h.UDP.Request
		q.expect = h.UDP.Expect
	}
	return q
}

func httpRequest(h HTTPCheck, to netip.AddrPort) string {
	host := h.Host
	if host == "" || host == serverIP {
		host = to.String()
		if to.Port() == 80 {
			host = to.Addr().String()
		}
	}
	return fmt.Sprintf("%s %s HTTP/%s\r\nHost: %s\r\nUser-Agent: openprivatelink-health-check\r\nAccept: */*\r\nConnection: close\r\n\r\n",
		cmp.Or(h.Method, "GET"), cmp.Or(h.Path, "/"), cmp.Or(h.Version, "1.0"), host)
}

// ask asks a server and returns why it is not healthy; empty if it is.
//
// A TCP connection ends in a reset, as the cloud's checks do: it leaves no
// TIME_WAIT behind, of which many checks would fill the ports of the load
// balancer's address, and the server is rid of it at once.
func (e *Local) ask(ctx context.Context, q question) (reason string) {
	c, err := e.reach(ctx, q)
	if err != nil {
		if timedOut(err) {
			return connectTimeout
		}
		return connectFailed
	}
	defer c.Close()
	if tc, ok := c.(*net.TCPConn); ok {
		_ = tc.SetLinger(0)
	}
	return converse(ctx, c, q)
}

func (e *Local) reach(ctx context.Context, q question) (net.Conn, error) {
	network := "tcp"
	if q.kind == HealthUDP {
		network = "udp"
	}
	switch {
	case q.host:
		return new(net.Dialer).DialContext(ctx, network, q.to.String())
	case network == "udp":
		return e.driver.DialUDP(ctx, q.from.network, q.from.local, q.to)
	}
	return e.driver.Dial(ctx, q.from.network, q.from.local, q.to)
}

// converse says on c what is to be said, and judges the answer.
func converse(ctx context.Context, c net.Conn, q question) (reason string) {
	if end, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(end)
	}
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	if q.send != "" || q.kind == HealthUDP { // an empty datagram asks, too
		if _, err := c.Write([]byte(q.send)); err != nil {
			return silence(err, q)
		}
	}
	switch q.kind {
	case HealthHTTP:
		return hearHTTP(c, q)
	case HealthUDP:
		return hearUDP(c, q)
	}
	return ""
}

func hearHTTP(c net.Conn, q question) (reason string) {
	b := make([]byte, headerMost)
	for n := 0; n < len(b); {
		m, err := c.Read(b[n:])
		n += m
		switch status, more, bad := parseStatus(b[:n]); {
		case bad != nil:
			return invalidHeader
		case !more && q.codes.has(status):
			return ""
		case !more:
			return codeNotMatch
		case err != nil:
			return silence(err, q)
		}
	}
	return invalidHeader
}

// hearUDP waits for the right answer; another one may still be followed by it.
func hearUDP(c net.Conn, q question) (reason string) {
	b := make([]byte, replyMost)
	for {
		n, err := c.Read(b)
		switch {
		case err != nil:
			return silence(err, q)
		case q.expect == "" || q.expect == string(b[:n]):
			return ""
		}
	}
}

// silence says what it means that no answer came, but err.
func silence(err error, q question) (reason string) {
	switch {
	case timedOut(err) && q.kind == HealthUDP && q.expect == "":
		return ""
	case timedOut(err):
		return responseTimeout
	case q.kind == HealthUDP: // the machine says that the port is closed
		return connectFailed
	}
	return connectInterrupt
}

func timedOut(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout() || errors.Is(err, os.ErrDeadlineExceeded)
}

var errNotHTTP = errors.New("not an HTTP response")

// parseStatus reads the status of an HTTP/1 response, whose header must be whole
// and well-formed. more says that b may become one.
func parseStatus(b []byte) (status int, more bool, err error) {
	const version, line = "HTTP/1.", len("HTTP/1.1 200")
	if n := min(len(b), len(version)); string(b[:n]) != version[:n] {
		return 0, false, errNotHTTP
	}
	first, rest, whole := bytes.Cut(b, []byte("\n"))
	if !whole {
		return 0, true, nil
	}
	first = bytes.TrimSuffix(first, []byte("\r"))
	if len(first) < line || first[len(version)] != '0' && first[len(version)] != '1' || first[line-4] != ' ' ||
		len(first) > line && first[line] != ' ' {
		return 0, false, errNotHTTP
	}
	for _, c := range first[line-3 : line] {
		if c < '0' || c > '9' {
			return 0, false, errNotHTTP
		}
		status = 10*status + int(c-'0')
	}
	if status < 100 || status > 599 {
		return 0, false, errNotHTTP
	}
	for {
		var field []byte
		field, rest, whole = bytes.Cut(rest, []byte("\n"))
		if !whole {
			return 0, true, nil
		}
		if field = bytes.TrimSuffix(field, []byte("\r")); len(field) == 0 {
			return status, false, nil
		}
		name, _, ok := strings.Cut(string(field), ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t\r") {
			return 0, false, errNotHTTP
		}
	}
}
