package proxy_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openprivatelink/openprivatelink/proxy"
	"github.com/openprivatelink/openprivatelink/proxy/proxytest"
	"github.com/openprivatelink/openprivatelink/proxy/vpc"
)

// What cannot be made is an observation, does not stop the rest, and is made once
// it can be.
func TestFaultsAreObservedAndRepaired(t *testing.T) {
	t.Parallel()
	broken := errors.New("out of order")
	tests := []struct {
		name, op, id string
		fault        func(o proxy.Observations) bool
	}{
		{"a network", "ensure", consumer, func(o proxy.Observations) bool {
			return slices.ContainsFunc(o.Networks, func(n proxy.NetworkObserved) bool {
				return n.ID == consumer && !n.Up && strings.Contains(n.Error, "out of order")
			})
		}},
		{"an attachment", "attach", client, func(o proxy.Observations) bool {
			return slices.ContainsFunc(o.Attachment, func(a proxy.AttachmentObserved) bool {
				return a.ID == client && !a.Up && strings.Contains(a.Error, "out of order")
			})
		}},
		{"a listener", "listen", epI.String(), func(o proxy.Observations) bool {
			return slices.ContainsFunc(o.Endpoints, func(ep proxy.EndpointObserved) bool {
				return len(ep.Zones) == 2 && ep.Zones[0].Carrying && !ep.Zones[1].Carrying && strings.Contains(ep.Zones[1].Error, "out of order")
			})
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := newFake()
			w := newWorld(t, d, start(t, d, ""))
			d.failing(func(op, id string) error {
				if op == tt.op && strings.HasPrefix(id, tt.id) {
					return broken
				}
				return nil
			})
			ep := w.shall.Endpoints[endpoint]
			ep.Carry = true
			w.shall.Endpoints[endpoint] = ep
			w.apply()
			w.observe("the fault", tt.fault)
			w.observe("the other network", func(o proxy.Observations) bool {
				return slices.Contains(o.Networks, proxy.NetworkObserved{ID: provider, Up: true})
			})
			d.failing(nil)
			w.carrying(endpoint, true)
			w.observe("everything up", func(o proxy.Observations) bool {
				return slices.Contains(o.Networks, proxy.NetworkObserved{ID: consumer, Up: true}) &&
					slices.Contains(o.Attachment, proxy.AttachmentObserved{ID: client, Up: true})
			})
			w.serve(1, proxytest.Echo)
			w.echoes(w.mustDial(epI), "repaired")
		})
	}
}

func TestNetworkThatCannotBeRemoved(t *testing.T) {
	t.Parallel()
	d := newFake()
	e := start(t, d, "")
	w := newWorld(t, d, e)
	w.apply()
	d.failing(func(op, id string) error {
		if op == "remove" {
			return errors.New("busy")
		}
		return nil
	})
	if err := e.Clear(t.Context()); err == nil || !strings.Contains(err.Error(), consumer) {
		t.Errorf("Clear: %v, want what is left", err)
	}
	d.failing(nil)
	for end := time.Now().Add(soon); len(d.made()) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still there: %v", d.made())
		}
	}
}

// What the snapshot lacks is said, not tried.
func TestDanglingReferences(t *testing.T) {
	t.Parallel()
	d := newFake()
	w := newWorld(t, d, start(t, d, ""))
	lb := w.shall.LoadBalancers[balancer]
	delete(w.shall.LoadBalancers, balancer)
	ep := w.shall.Endpoints[endpoint]
	ep.Carry = true
	w.shall.Endpoints[endpoint] = ep
	w.apply()
	says := func(text string) func(proxy.Observations) bool {
		return func(o proxy.Observations) bool {
			return slices.ContainsFunc(o.Endpoints, func(ep proxy.EndpointObserved) bool {
				return slices.ContainsFunc(ep.Zones, func(z proxy.ZoneObserved) bool { return !z.Carrying && strings.Contains(z.Error, text) })
			})
		}
	}
	w.observe("no load balancer", says(`no load balancer "nlb-1"`))
	half := lb
	half.Zones = lb.Zones[:1]
	w.shall.LoadBalancers[balancer] = half
	w.apply()
	w.observe("not in the zone", says(`"nlb-1" is not in zone "cn-hangzhou-i"`))
	w.shall.LoadBalancers[balancer] = lb
	w.apply()
	w.carrying(endpoint, true)
	n := w.shall.Networks[consumer]
	delete(w.shall.Networks, consumer)
	w.apply()
	w.observe("no network", says(`no network "vpc-consumer"`))
	w.shall.Networks[consumer] = n
	w.apply()
	w.carrying(endpoint, true)
	w.serve(1, proxytest.Echo)
	w.echoes(w.mustDial(epH), "back again")
}

// An address may move from one endpoint to another in one change.
func TestAddressMoves(t *testing.T) {
	each(t, func(w *world) {
		w.connected(proxytest.Echo)
		old := w.mustDial(epH)
		w.echoes(old, "by the first")
		first := w.shall.Endpoints[endpoint]
		second := first
		second.ID = "ep-2"
		first.Zones = nil
		first.Version++
		w.shall.Endpoints[endpoint] = first
		w.shall.Endpoints["ep-2"] = second
		w.apply()
		w.isReset(old)
		w.carrying("ep-2", true)
		w.echoes(w.mustDial(epH), "by the second")

		// Two that want the same: the second is told so, and gets it when it is free.
		third := second
		third.ID = "ep-3"
		w.shall.Endpoints["ep-3"] = third
		w.apply()
		w.observe("the conflict", func(o proxy.Observations) bool {
			return slices.ContainsFunc(o.Endpoints, func(ep proxy.EndpointObserved) bool {
				return ep.ID == "ep-3" && !ep.Zones[0].Carrying && strings.Contains(ep.Zones[0].Error, "in use by ep-2")
			})
		})
		delete(w.shall.Endpoints, "ep-2")
		w.apply()
		w.carrying("ep-3", true)
		w.echoes(w.mustDial(epH), "by the third")
	})
}

func TestNetworksAreLookedAfterInTurn(t *testing.T) {
	t.Parallel()
	d := newFake()
	e := start(t, d, "")
	if id := e.LookAfterNext(""); id != "" {
		t.Errorf("without networks: %q", id)
	}
	w := newWorld(t, d, e)
	w.apply()
	last := ""
	for range 5 {
		last = e.LookAfterNext(last)
	}
	want := []string{consumer, provider, consumer, provider, consumer}
	if !slices.Equal(d.repaired, want) {
		t.Errorf("got %v, want %v", d.repaired, want)
	}
	d.failing(func(op, id string) error {
		if op == "ensure" && id == provider {
			return errors.New("gone")
		}
		return nil
	})
	e.LookAfterNext(last)
	w.observe("that it is down", func(o proxy.Observations) bool {
		return slices.ContainsFunc(o.Networks, func(n proxy.NetworkObserved) bool { return n.ID == provider && !n.Up })
	})
	d.failing(nil)
	w.observe("that it is up again", func(o proxy.Observations) bool {
		return slices.Contains(o.Networks, proxy.NetworkObserved{ID: provider, Up: true})
	})
}

// A command is started once its attachment is there, again when it ends, and not
// after its attachment has gone.
func TestCommandIsKeptRunning(t *testing.T) {
	t.Parallel()
	d := newFake()
	started := make(chan vpc.Command, 10)
	d.start = func(network, attachment string, c vpc.Command) error {
		if network != consumer || attachment != "att-daemon" {
			t.Errorf("a command was started in %s, %s", network, attachment)
		}
		started <- c
		return nil
	}
	w := newWorld(t, d, start(t, d, ""))
	n := w.shall.Networks[consumer]
	with := maps.Clone(n.Attachments)
	with["att-daemon"] = vpc.Attachment{ID: "att-daemon", Kind: vpc.Managed, VSwitch: "vsw-c", Address: clientAt.Next(), Command: []string{"daemon", "-f"}}
	d.failing(func(op, id string) error {
		if op == "attach" && id == "att-daemon" {
			return errors.New("not yet")
		}
		return nil
	})
	n.Attachments = with
	w.shall.Networks[consumer] = n
	w.apply()
	if len(started) > 0 {
		t.Fatal("started before its attachment was there")
	}
	d.failing(nil)
	next := func() vpc.Command {
		t.Helper()
		select {
		case c := <-started:
			return c
		case <-time.After(soon):
			t.Fatal("not started")
			return vpc.Command{}
		}
	}
	c := next()
	if !slices.Equal(c.Args, []string{"daemon", "-f"}) || c.Control != nil || len(c.Env) == 0 {
		t.Errorf("command %+v", c)
	}
	c.Exited(1)
	c = next()
	w.apply() // nothing new
	n.Attachments = map[string]vpc.Attachment{client: with[client]}
	w.shall.Networks[consumer] = n
	w.apply()
	c.Exited(143)
	n.Addresses = slices.Clone(n.Addresses[:1])
	w.shall.Networks[consumer] = n
	w.apply()
	if len(started) > 0 {
		t.Error("started once more than it ended")
	}
}
