package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/proxytest"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
)

// A client that goes on asking is refused once; and it is let in, still asking, as
// soon as the rules do.
func TestRefusedOnce(t *testing.T) {
	each(t, func(w *world) {
		if !w.driver.Capabilities().Filters {
			w.Skip("sockets have no filters here")
		}
		open := w.shall.Groups[firewall]
		w.shall.Groups[firewall] = verdict.Group{ID: firewall}
		w.connected(proxytest.Echo)
		ctx, cancel := context.WithTimeout(w.Context(), 1500*time.Millisecond) // one packet, and again after a second
		defer cancel()
		if _, err := w.driver.DialFrom(ctx, consumer, client, netip.AddrPortFrom(epH, w.port)); !errors.Is(err, context.DeadlineExceeded) {
			w.Fatalf("got %v, want no answer", err)
		}
		asking := make(chan error, 1)
		go func() {
			c, err := w.driver.DialFrom(w.Context(), consumer, client, netip.AddrPortFrom(epH, w.port))
			if err == nil {
				_ = c.SetDeadline(time.Now().Add(soon))
				err = errors.Join(echo(c, "at last"), c.Close())
			}
			asking <- err
		}()
		for _, r := range w.records(2) {
			if r.Action != proxy.ActionReject || r.Reason != proxy.ReasonGroup || r.Verdict.Reason != verdict.ByDefault || r.Address.Addr() != epH {
				w.Errorf("record %+v", r)
			}
		}
		w.shall.Groups[firewall] = open
		w.apply()
		if err := <-asking; err != nil {
			w.Fatal(err)
		}
		if r := w.records(3)[2]; r.Action != proxy.ActionAccept {
			w.Errorf("record %+v", r)
		}
		w.observe("the counter", func(proxy.Observations) bool { c := w.counter(zoneH); return c.Refused == 2 && c.Flows == 1 })
	})
}

// Where the rules are too many for a filter, the verdict at accept refuses.
func TestTooManyRangesForAFilter(t *testing.T) {
	each(t, func(w *world) {
		many := verdict.Group{ID: firewall}
		for i := range 300 {
			a := netip.AddrFrom4([4]byte{192, 0, byte(i >> 7), byte(2 * i)})
			many.Rules = append(many.Rules, verdict.Rule{ID: fmt.Sprint(i), Priority: 1, Policy: verdict.Accept, Protocol: verdict.All, Peer: netip.PrefixFrom(a, 32)})
		}
		w.shall.Groups[firewall] = many
		w.connected(proxytest.Echo)
		w.resets(epH)
		if r := w.records(1)[0]; r.Action != proxy.ActionReject || r.Reason != proxy.ReasonGroup {
			w.Errorf("record %+v", r)
		}
	})
}
