package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/proxytest"
	"github.com/openprivatelink/openprivatelink/proxy/verdict"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// The fate of real connections equals the verdict, through random changes of the
// security groups, and the record says the same.
func TestFateEqualsExplain(t *testing.T) {
	const configurations, clients = 300, 4
	each(t, func(w *world) {
		n := w.shall.Networks[consumer]
		n.Attachments = map[string]vpc.Attachment{}
		for i := range clients {
			id := fmt.Sprint("att-", i)
			n.Attachments[id] = vpc.Attachment{ID: id, Kind: vpc.Managed, VSwitch: "vsw-c", Address: clientOf(i)}
		}
		w.shall.Networks[consumer] = n
		ep := w.shall.Endpoints[endpoint]
		ep.Carry = true
		w.shall.Endpoints[endpoint] = ep
		w.apply()
		w.serve(1, proxytest.Echo)
		w.carrying(endpoint, true)
		random := rand.New(rand.NewPCG(3, 4))
		after, accepted := uint64(0), 0
		for range configurations {
			w.shall = clone(w.shall)
			ep.Groups = nil
			for i := range 3 {
				g := randomGroup(random, fmt.Sprint("sg-", i), w.port, clients)
				w.shall.Groups[g.ID] = g
				if random.IntN(3) > 0 {
					ep.Groups = append(ep.Groups, g.ID)
				}
			}
			ep.Version++
			w.shall.Endpoints[endpoint] = ep
			w.apply()
			i := random.IntN(clients)
			var groups []verdict.Group
			for _, id := range ep.Groups {
				groups = append(groups, w.shall.Groups[id])
			}
			want := verdict.Explain(groups, w.shall.Groups, verdict.Flow{Source: clientOf(i), Protocol: verdict.TCP, Port: w.port})
			ctx, cancel := context.WithCancel(w.Context())
			tried := make(chan error, 1)
			go func() { tried <- w.tries(ctx, fmt.Sprint("att-", i)) }()
			rec := w.nextRecord(&after)
			refused := error(syscall.ECONNRESET)
			if !want.Accept && w.driver.Capabilities().Filters { // nobody will answer
				refused = context.Canceled
				cancel()
			}
			err := <-tried
			cancel()
			if want.Accept != (err == nil) || err != nil && !errors.Is(err, refused) {
				w.Fatalf("%v: got %v, the verdict is %+v", clientOf(i), err, want)
			}
			if rec.Verdict != want || rec.Source.Addr() != clientOf(i) || (rec.Action == proxy.ActionAccept) != want.Accept {
				w.Fatalf("record %+v, the verdict is %+v", rec, want)
			}
			if want.Accept {
				accepted++
			}
		}
		if accepted < configurations/10 || accepted > configurations*9/10 {
			w.Errorf("%d of %d accepted: the configurations say little", accepted, configurations)
		}
	})
}

func clientOf(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 5, byte(100 + i)}) }

func randomGroup(random *rand.Rand, id string, port uint16, clients int) verdict.Group {
	g := verdict.Group{ID: id, IntraAllow: random.IntN(8) == 0}
	for i := range clients {
		if random.IntN(4) == 0 {
			g.Members = append(g.Members, clientOf(i))
		}
	}
	for i := range random.IntN(6) {
		r := verdict.Rule{
			ID: fmt.Sprint(id, "-", i), Priority: 1 + random.IntN(3),
			Policy:   []verdict.Policy{verdict.Accept, verdict.Drop}[random.IntN(2)],
			Protocol: []verdict.Protocol{verdict.All, verdict.TCP, verdict.UDP}[random.IntN(3)],
		}
		if random.IntN(2) == 0 {
			r.From, r.To = port-uint16(random.IntN(2)), port+uint16(random.IntN(2))
		}
		if random.IntN(4) == 0 {
			r.Group = fmt.Sprint("sg-", random.IntN(4))
		} else {
			r.Peer = netip.PrefixFrom(clientOf(random.IntN(clients)), 29+random.IntN(4))
		}
		g.Rules = append(g.Rules, r)
	}
	return g
}

// tries sends a line through the endpoint and back, from an attachment.
func (w *world) tries(ctx context.Context, attachment string) error {
	c, err := w.driver.DialFrom(ctx, consumer, attachment, netip.AddrPortFrom(epH, w.port))
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(soon))
	if err := echo(c, "hello"); err != nil && !errors.Is(err, syscall.EPIPE) {
		return err
	} else if err != nil {
		return syscall.ECONNRESET // it came between two writes
	}
	return nil
}

// nextRecord waits for the record that follows after.
func (w *world) nextRecord(after *uint64) proxy.Record {
	w.Helper()
	for end := time.Now().Add(soon); ; time.Sleep(time.Millisecond) {
		page, err := w.engine.Records(w.Context(), proxy.RecordQuery{After: *after, Limit: 1})
		if err != nil {
			w.Fatal(err)
		}
		if len(page.Records) > 0 {
			*after = page.Next
			return page.Records[0]
		}
		if time.Now().After(end) {
			w.Fatal("no record")
		}
	}
}

// Counters move while flows do, and are told once a second at most.
func TestCountersAreLive(t *testing.T) {
	each(t, func(w *world) {
		w.connected(proxytest.Echo)
		c := w.mustDial(epI)
		began := time.Now()
		told, sent := 0, int64(0)
		for time.Since(began) < 2500*time.Millisecond {
			w.echoes(c, "0123456789")
			sent += 10
			o, err := w.engine.Observe(w.Context(), w.since)
			if err != nil {
				w.Fatal(err)
			}
			w.since = o.Next
			for _, n := range o.Counters {
				if n.Zone != zoneI || n.Endpoint != endpoint || n.Active != 1 || n.Flows != 1 || n.In == 0 || n.In > sent {
					w.Fatalf("after %d bytes: %+v", sent, n)
				}
				told++
			}
		}
		if most := int(time.Since(began)/time.Second) + 1; told == 0 || told > most {
			w.Errorf("told %d times in %v, want 1 to %d", told, time.Since(began), most)
		}
		_ = c.CloseWrite()
		if _, err := io.Copy(io.Discard, c); err != nil {
			w.Fatal(err)
		}
		w.observe("the end of the flow", func(proxy.Observations) bool {
			n := w.counter(zoneI)
			return n.Active == 0 && n.In == sent && n.Out == sent
		})
	})
}
