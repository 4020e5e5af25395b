package vpc

import (
	"context"
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

func TestSameRangesTwice(t *testing.T) {
	l := newLab(t)
	for _, id := range []string{"vpc-a", "vpc-b"} {
		l.ensure(example(id))
		ln, err := l.Listen(t.Context(), id, addrPort(eniIP, 443))
		l.serve(ln, err, id)
	}
	for _, id := range []string{"vpc-a", "vpc-b"} {
		c, err := l.Dial(t.Context(), id, netip.MustParseAddr(eni2IP), addrPort(eniIP, 443))
		talk(t, c, err, id+" "+eni2IP)
		c, err = l.DialFrom(t.Context(), id, client, addrPort(eniIP, 443))
		talk(t, c, err, id+" "+clientIP)
	}
}

func TestRouting(t *testing.T) {
	l := newLab(t)
	l.ensure(example("vpc-a"))
	ln, err := l.listenIn("vpc-a", far, farIP+":80") // no privilege needed, by ip_unprivileged_port_start
	l.serve(ln, err, "far")
	ctx := t.Context()

	t.Run("between vSwitches", func(t *testing.T) {
		c, err := l.DialFrom(ctx, "vpc-a", client, addrPort(farIP, 80))
		talk(t, c, err, "far "+clientIP)
	})
	t.Run("from a load balancer's address in another vSwitch", func(t *testing.T) {
		c, err := l.Dial(ctx, "vpc-a", netip.MustParseAddr(eniIP), addrPort(farIP, 80))
		talk(t, c, err, "far "+eniIP)
	})
	t.Run("nobody listens", func(t *testing.T) {
		c, err := l.DialFrom(ctx, "vpc-a", client, addrPort(farIP, 81))
		refused(t, c, err, syscall.ECONNREFUSED)
		c, err = l.Dial(ctx, "vpc-a", netip.MustParseAddr(eniIP), addrPort(eniIP, 60000))
		refused(t, c, err, syscall.ECONNREFUSED)
	})
	t.Run("nothing leaves", func(t *testing.T) {
		for _, to := range []string{"192.0.2.2", "10.0.3.3"} {
			c, err := l.DialFrom(ctx, "vpc-a", client, addrPort(to, 80))
			refused(t, c, err, syscall.ENETUNREACH)
			c, err = l.Dial(ctx, "vpc-a", netip.MustParseAddr(eniIP), addrPort(to, 80))
			refused(t, c, err, syscall.ENETUNREACH)
		}
	})
	t.Run("deadline and cancellation", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		start := time.Now()
		c, err := l.DialFrom(ctx, "vpc-a", client, addrPort("10.0.1.200", 80)) // nobody answers ARP
		refused(t, c, err, context.DeadlineExceeded)
		if d := time.Since(start); d > time.Second {
			t.Errorf("took %v", d)
		}
		gone, stop := context.WithCancel(t.Context())
		stop()
		c, err = l.DialFrom(gone, "vpc-a", client, addrPort("10.0.1.200", 80))
		refused(t, c, err, context.Canceled)
	})
}

func TestQuickEnsureTimes(t *testing.T) {
	l := newLab(t)
	n := example("vpc-a")
	n.VSwitches = append(n.VSwitches, VSwitch{ID: "vsw-x", CIDR: netip.MustParsePrefix("10.0.128.0/17")})
	s := time.Now()
	l.ensure(n)
	t.Log("first", time.Since(s))
	s = time.Now()
	l.ensure(n)
	t.Log("again", time.Since(s))
	for i := range 5000 {
		n.Addresses = append(n.Addresses, netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", 128+i/250, 1+i%250)))
	}
	s = time.Now()
	l.ensure(n)
	t.Log("5000 addresses", time.Since(s))
	s = time.Now()
	l.ensure(n)
	t.Log("again", time.Since(s))
	n.Addresses = append(n.Addresses, netip.MustParseAddr("10.0.200.200"))
	s = time.Now()
	l.ensure(n)
	t.Log("one more", time.Since(s))
	n = with(n, managed("att-n", "vsw-h", "10.0.1.99"))
	s = time.Now()
	l.ensure(n)
	t.Log("one attachment more", time.Since(s))
	s = time.Now()
	l.repair("vpc-a")
	t.Log("repair", time.Since(s))
	s = time.Now()
	l.Remove(t.Context(), "vpc-a")
	t.Log("remove", time.Since(s))
}
