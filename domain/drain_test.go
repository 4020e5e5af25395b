package domain_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

// fate is what becomes of live flows, zone by zone: "carries", "cut", or how long
// they may go on.
func (m *market) fate(t *testing.T, endpoint string) string {
	t.Helper()
	e := m.wants(t, endpoint)
	var out []string
	for _, z := range e.Zones {
		switch {
		case e.Carry && z.Carries():
			out = append(out, "carries")
		case z.DrainUntil == nil:
			out = append(out, "cut")
		default:
			if !e.Carry && e.DrainUntil().Before(*z.DrainUntil) {
				t.Errorf("zone %s drains until %v, the endpoint until %v", z.ZoneID, z.DrainUntil, e.DrainUntil())
			}
			out = append(out, z.DrainUntil.Sub(m.Clock.Now()).String())
		}
	}
	return strings.Join(out, " ")
}

func rejectIn(drain int) func(*testing.T, *market, string) error {
	return func(t *testing.T, m *market, ep string) error {
		t.Helper()
		_, err := m.Provider.RejectConnection(t.Context(), ep, domain.RejectInput{Drain: drain})
		return err
	}
}

func rejectZone(drain int) func(*testing.T, *market, string) error {
	return func(t *testing.T, m *market, ep string) error {
		t.Helper()
		_, err := m.Provider.RejectZone(t.Context(), ep, domaintest.ZoneH, domain.RejectZoneInput{Drain: drain})
		return err
	}
}

func deleteIn(drain int) func(*testing.T, *market, string) error {
	return func(t *testing.T, m *market, ep string) error {
		t.Helper()
		return m.Consumer.DeleteEndpoint(t.Context(), ep, domain.RemoveInput{Drain: drain})
	}
}

func cut(t *testing.T, m *market, ep string) error {
	t.Helper()
	_, err := m.Provider.CutConnection(t.Context(), ep, 0)
	return err
}

// flowing reports zones that have flows left, "h i", of the version that is wanted.
func flowing(zones string) func(*testing.T, *market, string) error {
	return func(t *testing.T, m *market, ep string) error {
		t.Helper()
		m.report(t, ep, m.wants(t, ep).Version, zones)
		return nil
	}
}

func wait(d time.Duration) func(*testing.T, *market, string) error {
	return func(t *testing.T, m *market, _ string) error {
		t.Helper()
		m.Clock.Step(d)
		return m.Store.System().Expire(t.Context())
	}
}

// TestDrains revokes what stands in every way, and looks at what becomes of live
// flows and when it is over.
func TestDrains(t *testing.T) {
	const (
		leaving = "Disconnecting rejected, Active: Disconnecting Disconnecting"
		gone    = "Disconnected rejected, Active: Disconnected Disconnected"
		stands  = "Connected accepted, Active: Connected Connected"
	)
	type step struct {
		do     func(*testing.T, *market, string) error
		states string
		fate   string
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"rejected now", []step{{reject, leaving, "cut cut"}, {flowing(""), gone, "cut cut"}}},
		{"rejected with time", []step{
			{rejectIn(60), leaving, "1m0s 1m0s"},
			{flowing("h i"), leaving, "1m0s 1m0s"},
			{wait(20 * time.Second), leaving, "40s 40s"},
			{flowing("i"), "Disconnecting rejected, Active: Disconnected Disconnecting", "cut 40s"},
			{flowing(""), gone, "cut cut"},
		}},
		{"cut after all", []step{{rejectIn(60), leaving, "1m0s 1m0s"}, {cut, leaving, "cut cut"}, {flowing(""), gone, "cut cut"}}},
		{"undone while it drains", []step{
			{rejectIn(60), leaving, "1m0s 1m0s"},
			{undo, "Connecting accepted, Active: Connecting Connecting", "carries carries"},
			{flowing("h i"), stands, "carries carries"},
		}},
		{"an undone acceptance cuts", []step{{undo, "Disconnecting waiting, Active: Disconnecting Disconnecting", "cut cut"}}},
		{"deleted with time", []step{
			{deleteIn(30), "Deleting accepted, Deleting: Deleting Deleting", "30s 30s"},
			{flowing("h"), "Deleting accepted, Deleting: Deleting", "30s"},
			{flowing(""), "", ""},
		}},
		{"deleted with time, and cut by its provider", []step{
			{deleteIn(30), "Deleting accepted, Deleting: Deleting Deleting", "30s 30s"},
			{cut, "Deleting accepted, Deleting: Deleting Deleting", "cut cut"},
		}},
		{"rejected, and deleted with more", []step{
			{rejectIn(10), leaving, "10s 10s"},
			{deleteIn(900), "Deleting rejected, Deleting: Deleting Deleting", "10s 10s"},
		}},
		{"rejected, and deleted with less", []step{
			{rejectIn(900), leaving, "15m0s 15m0s"},
			{deleteIn(10), "Deleting rejected, Deleting: Deleting Deleting", "10s 10s"},
		}},
		{"rejected now, and deleted with time", []step{
			{reject, leaving, "cut cut"},
			{deleteIn(900), "Deleting rejected, Deleting: Deleting Deleting", "cut cut"},
		}},
		{"one zone", []step{
			{rejectZone(60), "Connected accepted, Active: Disconnecting Connected", "1m0s carries"},
			{flowing("h i"), "Connected accepted, Active: Disconnecting Connected", "1m0s carries"},
			{flowing("i"), "Connected accepted, Active: Disconnected Connected", "cut carries"},
			{modify, "Pending accepted, Active: Disconnected Connected", "cut carries"},
			{flowing("i"), "Connected accepted, Active: Disconnected Connected", "cut carries"},
		}},
		{"one zone, then all with less", []step{
			{rejectZone(60), "Connected accepted, Active: Disconnecting Connected", "1m0s carries"}, {rejectIn(30), leaving, "30s 30s"},
		}},
		{"one zone, then all with more", []step{
			{rejectZone(60), "Connected accepted, Active: Disconnecting Connected", "1m0s carries"}, {rejectIn(90), leaving, "1m0s 1m30s"},
		}},
		{"one zone, then all now", []step{
			{rejectZone(60), "Connected accepted, Active: Disconnecting Connected", "1m0s carries"}, {reject, leaving, "cut cut"},
		}},
		{"a zone that was rejected stays so when all is given back", []step{
			{rejectZone(0), "Connected accepted, Active: Disconnecting Connected", "cut carries"},
			{flowing("i"), "Connected accepted, Active: Disconnected Connected", "cut carries"},
			{reject, "Disconnecting rejected, Active: Disconnected Disconnecting", "cut cut"},
			{undo, "Connecting accepted, Active: Disconnected Connecting", "cut carries"},
			{flowing("i"), "Connected accepted, Active: Disconnected Connected", "cut carries"},
			{reject, "Disconnecting rejected, Active: Disconnected Disconnecting", "cut cut"},
			{flowing(""), gone, "cut cut"},
			{accept, "Connecting accepted, Active: Connecting Connecting", "carries carries"},
		}},
		{"an approval that ends", []step{
			{func(t *testing.T, m *market, ep string) error {
				t.Helper()
				_, err := m.Provider.ModifyConnection(t.Context(), ep, domain.ModifyInput{ExpiresAt: new(new(m.Clock.Now().Add(time.Minute))), ExpiryDrain: new(20)})
				return err
			}, "Pending accepted, Active: Connected Connected", "carries carries"},
			{flowing("h i"), stands, "carries carries"},
			{wait(time.Minute), "Disconnecting expired, Active: Disconnecting Disconnecting", "20s 20s"},
			{wait(20 * time.Second), "Disconnecting expired, Active: Disconnecting Disconnecting", "0s 0s"},
			{flowing(""), "Disconnected expired, Active: Disconnected Disconnected", "cut cut"},
		}},
		{"a zone that its owner removes", []step{
			{func(t *testing.T, m *market, ep string) error {
				t.Helper()
				return m.Consumer.RemoveEndpointZone(t.Context(), ep, domaintest.ZoneI, domain.RemoveInput{Drain: 5})
			}, "Connected accepted, Pending: Connected Deleting", "carries 5s"},
			{flowing("h i"), "Connected accepted, Active: Connected Deleting", "carries 5s"},
			{func(t *testing.T, m *market, ep string) error {
				t.Helper()
				return m.Consumer.CutEndpoint(t.Context(), ep, 0)
			}, "Connected accepted, Active: Connected Deleting", "carries cut"},
			{flowing("h"), "Connected accepted, Active: Connected", "carries"},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMarket(t)
			ep := m.ask(t, "to-orders", m.sh, m.si).ID
			check(t, accept(t, m, ep))
			m.Follow()
			for i, st := range tt.steps {
				check(t, st.do(t, m, ep))
				if st.states == "" {
					_, err := m.Consumer.Endpoint(t.Context(), ep)
					fails(t, err, domain.NotFound, "endpoint_not_found")
					continue
				}
				if got := m.states(t, ep); got != st.states {
					t.Fatalf("step %d: %s, want %s", i+1, got, st.states)
				}
				if got := m.fate(t, ep); got != st.fate {
					t.Fatalf("step %d: live flows: %s, want %s", i+1, got, st.fate)
				}
			}
		})
	}
}

// TestDrainIsKept opens the store again while a revocation drains, and restores it
// from a backup.
func TestDrainIsKept(t *testing.T) {
	m := newMarket(t)
	ep := m.ask(t, "to-orders", m.sh).ID
	must(m.Provider.AcceptConnection(t.Context(), ep, domain.AcceptInput{Bandwidth: 200, MaxConnections: 9}))(t)
	second := m.second(t, true)
	m.handOver(t, second)
	m.Follow()
	must(m.Provider.ReplaceResource(t.Context(), ep, domaintest.ZoneH, domain.ReplaceInput{LoadBalancerID: second}))(t)
	m.Follow()
	check(t, rejectIn(300)(t, m, ep))
	m.Clock.Step(100 * time.Second)
	again := must(domaintest.Open(t, m.Config).System().EngineEndpoints(t.Context(), []string{ep}))(t)[0]
	if got, want := again.DrainUntil().Sub(m.Clock.Now()), 200*time.Second; got != want || !again.Zones[0].DrainUntil.Equal(again.DrainUntil()) {
		t.Errorf("after opening it again live flows may go on for %s, %v; want %s", got, again.Zones[0].DrainUntil, want)
	}
	var backup bytes.Buffer
	check(t, m.Store.Backup(t.Context(), &backup))
	restored := domaintest.Open(t, domaintest.Config(t, m.Clock))
	must(restored.Restore(t.Context(), bytes.NewReader(backup.Bytes()), int64(backup.Len())))(t)
	if diff := cmp.Diff(again, must(restored.System().EngineEndpoints(t.Context(), []string{ep}))(t)[0]); diff != "" || again.Bandwidth != 200 || again.MaxConnections != 9 || again.Zones[0].ReplacedID != m.balancer.ID {
		t.Errorf("the engine shall hold %+v; from a backup:\n%s", again, diff)
	}
	for _, seen := range []*time.Time{must(m.Provider.Connection(t.Context(), ep))(t).DrainUntil, must(m.Consumer.Endpoint(t.Context(), ep))(t).Connection.DrainUntil} {
		if seen == nil || !seen.Equal(again.DrainUntil()) {
			t.Errorf("it is shown to drain until %v, want %v", seen, again.DrainUntil())
		}
	}
}

func TestDrainRefusals(t *testing.T) {
	m := newMarket(t)
	ctx := t.Context()
	ep := m.ask(t, "to-orders", m.sh).ID
	check(t, accept(t, m, ep))
	m.Follow()
	fails(t, cut(t, m, ep), domain.Conflict, "not_draining")
	fails(t, m.Consumer.CutEndpoint(ctx, ep, 0), domain.Conflict, "not_draining")
	for _, seconds := range []int{-1, 901} {
		for name, err := range map[string]error{
			"reject": rejectIn(seconds)(t, m, ep), "reject zone": rejectZone(seconds)(t, m, ep), "delete": deleteIn(seconds)(t, m, ep),
			"remove zone": m.Consumer.RemoveEndpointZone(ctx, ep, domaintest.ZoneH, domain.RemoveInput{Drain: seconds}),
		} {
			if got := faults(err); got != "drain: out_of_range" {
				t.Errorf("%s in %d s: %q", name, seconds, got)
			}
		}
		_, err := m.Provider.ModifyConnection(ctx, ep, domain.ModifyInput{ExpiryDrain: &seconds})
		if got := faults(err); got != "expiry_drain: out_of_range" {
			t.Errorf("an approval that ends %d s late: %q", seconds, got)
		}
	}
	check(t, rejectIn(900)(t, m, ep))
	v := must(m.Provider.Connection(ctx, ep))(t).Version
	_, err := m.Provider.CutConnection(ctx, ep, v-1)
	fails(t, err, domain.Conflict, "connection_changed")
	if got, want := fmt.Sprint(trail(t, m.Consumer, ep)), "RejectConnection by peer]"; !strings.HasSuffix(got, want) {
		t.Errorf("the consumer's trail ends %s, want %s", got, want)
	}
	_, err = m.Provider.CutConnection(ctx, ep, v)
	check(t, err)
	if got, want := fmt.Sprint(trail(t, m.Consumer, ep)), "CutConnection by peer]"; !strings.HasSuffix(got, want) {
		t.Errorf("the consumer's trail ends %s, want %s", got, want)
	}
}
