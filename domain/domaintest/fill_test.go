package domaintest

import (
	"testing"

	"github.com/openprivatelink/openprivatelink/domain"
)

func TestFill(t *testing.T) {
	w := New(t)
	f := Fill(t, w, 60, 300)
	s, err := w.Provider.Service(t.Context(), f.ServiceID)
	if err != nil || len(s.Zones) != 2 || s.Zones[0].Healthy != 1 || s.Connected == 0 {
		t.Errorf("service %+v, %v", s, err)
	}
	c, err := w.Provider.Connection(t.Context(), f.WaitingID)
	if err != nil || c.Decision != domain.Waiting || len(c.Zones) != 2 {
		t.Errorf("connection %+v, %v", c, err)
	}
	e, err := w.Consumer.Endpoint(t.Context(), f.EndpointID)
	if err != nil || e.Connection.Status != domain.Connected || len(e.Groups) != 1 || e.Offering == nil {
		t.Errorf("endpoint %+v, %v", e, err)
	}
	all, err := w.Store.System().EngineEndpoints(t.Context(), nil)
	if err != nil || len(all) != 300 {
		t.Errorf("the engine sees %d endpoints, %v", len(all), err)
	}
	w.Follow() // nothing of it is news but that the VPCs are there
	if _, err := w.Provider.AcceptConnection(t.Context(), f.WaitingID, domain.AcceptInput{}); err != nil {
		t.Error(err)
	}
}
