package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

const (
	probeTimeout = 5 * time.Second
	probeConnect = 2 * time.Second // of it, until there is a connection: the address is this machine's own
	probeLongest = 60 * time.Second
	probeOutput  = 8 << 10                // bytes of output that are kept
	probeWatch   = 300 * time.Millisecond // that a TCP probe waits for a reset after it connected
)

// Probe implements [Engine]. A target that cannot be reached is a result, not an
// error; an error says that the probe could not be made.
func (e *Local) Probe(ctx context.Context, r ProbeRequest) (ProbeResult, error) {
	e.mu.Lock()
	a := e.attachments[r.Attachment]
	e.mu.Unlock()
	if a == nil {
		return ProbeResult{}, fmt.Errorf("probe from %q: %w", r.Attachment, ErrNotFound)
	}
	if r.Timeout <= 0 {
		r.Timeout = probeTimeout
	}
	r.Timeout = min(r.Timeout, probeLongest)
	p := probe{ProbeRequest: r, engine: e, network: a.network, start: time.Now()}
	switch r.Kind {
	case ProbeTCP:
		return p.tcp(ctx), nil
	case ProbeHTTP:
		if curl, err := exec.LookPath("curl"); err == nil && e.driver.Capabilities().Exec {
			res, err := p.curl(ctx, curl)
			if !errors.Is(err, vpc.ErrNoInside) && !errors.Is(err, vpc.ErrNoExec) {
				return res, err
			}
		}
		return p.http(ctx), nil
	}
	return ProbeResult{}, fmt.Errorf("probe of kind %q: want tcp or http", r.Kind)
}

// probe is one attempt.
type probe struct {
	ProbeRequest
	engine  *Local
	network string
	start   time.Time
}

// connect opens a connection from the attachment and fills in what that shows.
func (p *probe) connect(ctx context.Context, res *ProbeResult) (net.Conn, error) {
	ctx, cancel := context.WithDeadline(ctx, p.start.Add(min(p.Timeout, probeConnect)))
	defer cancel()
	began := time.Now()
	c, err := p.engine.driver.DialFrom(ctx, p.network, p.Attachment, p.Target)
	res.Connect = time.Since(began)
	if err != nil {
		return nil, err
	}
	if a, ok := c.LocalAddr().(*net.TCPAddr); ok {
		at := netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port())
		res.Source = p.engine.driver.Translate(p.network, at).Addr()
	}
	return c, c.SetDeadline(p.start.Add(p.Timeout))
}

// tcp connects, and looks for a moment whether the other side takes that back,
// as an endpoint does that refuses by security group.
func (p *probe) tcp(ctx context.Context) (res ProbeResult) {
	defer func() { res.Total = time.Since(p.start) }()
	c, err := p.connect(ctx, &res)
	if err != nil {
		res.Error = plain(err)
		return res
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(probeWatch))
	_, err = c.Read(make([]byte, 1))
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) {
		res.Error = plain(err)
		return res
	}
	res.OK = true
	return res
}

// http asks for "/" itself. The output is as curl -i would print it.
func (p *probe) http(ctx context.Context) (res ProbeResult) {
	defer func() { res.Total = time.Since(p.start) }()
	c, err := p.connect(ctx, &res)
	if err != nil {
		res.Error = plain(err)
		return res
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) })()
	var out output
	client := http.Client{
		Transport: &http.Transport{
			DialContext:       func(context.Context, string, string) (net.Conn, error) { return c, nil },
			DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%v/", p.Target), nil)
	if err != nil {
		res.Error = plain(err)
		return res
	}
	resp, err := client.Do(req)
	if err != nil {
		res.Error = plain(err)
		return res
	}
	defer resp.Body.Close()
	res.Status = resp.StatusCode
	_, _ = fmt.Fprintf(&out, "%s %s\r\n", resp.Proto, resp.Status)
	_ = resp.Header.Write(&out)
	_, _ = io.WriteString(&out, "\r\n")
	if _, err = io.Copy(&out, io.LimitReader(resp.Body, probeOutput)); err != nil {
		res.Error = plain(err)
	}
	res.OK, res.Output = err == nil, out.String()
	return res
}

// measure is what curl is asked to print beside its output: its own address, the
// seconds until it was connected, and the status.
const measure = "\n%{local_ip} %{time_connect} %{http_code}"

// curl runs curl inside the attachment.
func (p *probe) curl(ctx context.Context, curl string) (res ProbeResult, err error) {
	seconds := max(1, int(math.Ceil(p.Timeout.Seconds())))
	args := []string{"curl", "-sS", "-i", "--connect-timeout", fmt.Sprint(probeConnect.Seconds()), "--max-time", fmt.Sprint(seconds), fmt.Sprintf("http://%v/", p.Target)}
	if p.Target.Port() == 80 {
		args[len(args)-1] = fmt.Sprintf("http://%v/", p.Target.Addr())
	}
	res.Command = strings.Join(args, " ")
	args[0] = curl
	args = append(args, "--write-out", "%{stderr}"+measure)

	code, stdout, stderr, err := p.run(ctx, args)
	res.Total = time.Since(p.start)
	if err != nil {
		return ProbeResult{}, fmt.Errorf("run curl: %w", err)
	}
	said, measured := stderr, ""
	if i := strings.LastIndexByte(stderr, '\n'); i >= 0 {
		said, measured = stderr[:i], stderr[i+1:]
	}
	var source string
	var connect float64
	if _, err := fmt.Sscan(measured, &source, &connect, &res.Status); err == nil {
		res.Source, _ = netip.ParseAddr(source)
		res.Connect = time.Duration(connect * float64(time.Second))
	}
	var out output
	_, _ = io.WriteString(&out, stdout+said)
	res.Output, res.OK = out.String(), code == 0
	if code != 0 {
		res.Error = p.curlError(ctx, code, said)
	}
	return res, nil
}

// curlError says in plain words why curl failed. What kept it from connecting it
// does not say, so that is tried once more.
func (p *probe) curlError(ctx context.Context, code int, said string) string {
	switch code {
	case 7:
		again := probe{ProbeRequest: p.ProbeRequest, engine: p.engine, network: p.network, start: time.Now()}
		if res := again.tcp(ctx); res.Error != "" {
			return res.Error
		}
	case 28:
		return plain(os.ErrDeadlineExceeded)
	case 52:
		return plain(io.EOF)
	case 56:
		if strings.Contains(said, "reset") {
			return plain(syscall.ECONNRESET)
		}
	}
	return strings.TrimSpace(said)
}

// run runs a command inside the attachment to its end.
func (p *probe) run(ctx context.Context, args []string) (code int, stdout, stderr string, err error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, "", "", err
	}
	defer null.Close()
	var outs [2]output
	var writers [2]*os.File
	var readers sync.WaitGroup
	for i := range outs {
		r, w, err := os.Pipe()
		if err != nil {
			return 0, "", "", err
		}
		writers[i] = w
		w.Fd() // sets it to block, as commands expect of their output
		defer w.Close()
		defer r.Close()
		readers.Go(func() { _, _ = io.Copy(&outs[i], r) })
	}
	exited := make(chan int, 1)
	err = p.engine.driver.Start(ctx, p.network, p.Attachment, vpc.Command{
		Args: args, Env: os.Environ(), Stdio: [3]*os.File{null, writers[0], writers[1]},
		Exited: func(code int) { exited <- code },
	})
	for _, w := range writers {
		_ = w.Close()
	}
	if err == nil {
		select {
		case code = <-exited:
		case <-ctx.Done():
			return 0, "", "", ctx.Err()
		}
	}
	readers.Wait()
	return code, outs[0].String(), outs[1].String(), err
}

// output keeps the first probeOutput bytes that are written to it.
type output struct{ kept []byte }

func (o *output) Write(b []byte) (int, error) {
	o.kept = append(o.kept, b[:min(len(b), probeOutput-len(o.kept))]...)
	return len(b), nil
}

// String is what was kept, as text: of what is none, little is left.
func (o *output) String() string { return strings.ToValidUTF8(string(o.kept), "?") }

// plain says an error of a connection in words for a person.
func plain(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed without an answer"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "no route to the address"
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() || errors.Is(err, os.ErrDeadlineExceeded) {
		return "timed out"
	}
	return err.Error()
}
