package reconcile

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/proxy"
)

// TestEndpointOfSnapshot turns endpoints that carry and that drain into what the
// engine is told.
func TestEndpointOfSnapshot(t *testing.T) {
	soon := time.Date(2026, 11, 1, 12, 0, 30, 0, time.UTC)
	late := soon.Add(time.Minute)
	address := netip.MustParseAddr("10.0.1.2")
	zone := domain.EndpointZone{ZoneID: "h", Address: address.String(), LoadBalancerID: "nlb-2", ReplacedID: "nlb-1", Era: 3, Status: domain.ZoneMigrated}
	told := proxy.EndpointZone{Zone: "h", Address: address, Carry: true, LoadBalancer: "nlb-2", Replaced: "nlb-1", Era: 3}
	leaving, other := zone, zone
	leaving.Status, leaving.DrainUntil = domain.ZoneDisconnecting, &soon
	other.ZoneID, other.Status, other.DrainUntil = "i", domain.ZoneDisconnecting, &late
	toldLeaving, toldOther := told, told
	toldLeaving.Carry, toldLeaving.DrainUntil = false, soon
	toldOther.Zone, toldOther.Carry, toldOther.DrainUntil = "i", false, late
	tests := []struct {
		name string
		in   domain.EngineEndpoint
		want proxy.Endpoint
	}{
		{
			"carries",
			domain.EngineEndpoint{Carry: true, Bandwidth: 200, MaxConnections: 9, Version: 4, Zones: []domain.EndpointZone{zone}},
			proxy.Endpoint{Carry: true, Bandwidth: 200, MaxConnections: 9, Version: 4, Zones: []proxy.EndpointZone{told}},
		},
		{
			"a zone drains",
			domain.EngineEndpoint{Carry: true, Zones: []domain.EndpointZone{leaving}},
			proxy.Endpoint{Carry: true, Zones: []proxy.EndpointZone{toldLeaving}},
		},
		{
			"all of it drains",
			domain.EngineEndpoint{Zones: []domain.EndpointZone{leaving, other}},
			proxy.Endpoint{DrainUntil: late, Zones: []proxy.EndpointZone{toldLeaving, toldOther}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, got, err := endpoint(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("the engine is told:\n%s", diff)
			}
		})
	}
}
