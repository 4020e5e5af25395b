package console

import (
	"fmt"
	"strings"
	"time"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

// connectionState is a connection in our words; the API's is the title. The API
// does not tell waiting from rejected: to it both are Disconnected.
func connectionState(status domain.ConnectionStatus, decision domain.Decision) ui.State {
	st := ui.State{Title: "ConnectionStatus: " + string(status)}
	switch status {
	case domain.Connecting:
		st.Kind, st.Word = ui.Busy, "Connecting"
	case domain.Connected:
		st.Kind, st.Word = ui.OK, "Connected"
	case domain.Pending:
		st.Kind, st.Word = ui.Busy, "Updating"
	case domain.Disconnecting:
		st.Kind, st.Word = ui.Leaving, "Disconnecting"
	case domain.Deleting:
		st.Kind, st.Word = ui.Leaving, "Deleting"
	case domain.ServiceDeleted:
		st.Kind, st.Word = ui.Bad, "Service deleted"
	default:
		switch decision {
		case domain.Waiting:
			st.Kind, st.Word = ui.Waiting, "Waiting for approval"
		case domain.Rejected:
			st.Kind, st.Word = ui.Bad, "Rejected"
		case domain.Expired:
			st.Kind, st.Word = ui.Off, "Expired"
		default:
			st.Kind, st.Word = ui.Off, "Disconnected"
		}
	}
	return st
}

// zoneStatus is the state of an endpoint's zone in our words.
func zoneStatus(z domain.EndpointZone) ui.State {
	st := ui.State{Title: "ZoneStatus: " + string(z.Status)}
	switch z.Status {
	case domain.ZoneCreating:
		st.Kind, st.Word = ui.Busy, "Creating"
	case domain.ZoneWait:
		st.Kind, st.Word = ui.Waiting, "Waiting for approval"
	case domain.ZoneConnecting:
		st.Kind, st.Word = ui.Busy, "Connecting"
	case domain.ZoneConnected:
		st.Kind, st.Word = ui.OK, "Connected"
	case domain.ZoneMigrating:
		st.Kind, st.Word = ui.Busy, "Updating"
	case domain.ZoneMigrated: // it carries, by two load balancers
		st.Kind, st.Word = ui.OK, "Connected"
	case domain.ZoneDisconnecting:
		st.Kind, st.Word = ui.Leaving, "Disconnecting"
	case domain.ZoneDeleting:
		st.Kind, st.Word = ui.Leaving, "Deleting"
	default:
		st.Kind, st.Word = ui.Off, "Disconnected"
	}
	if z.EngineError != "" && z.Status != domain.ZoneConnected {
		st.Kind, st.Title = ui.Warn, z.EngineError
	}
	return drainingState(st, z.DrainUntil)
}

// drainingState is the state of what is revoked while open flows may go on.
func drainingState(st ui.State, until *time.Time) ui.State {
	if until != nil && st.Word == "Disconnecting" {
		st.Word = "Draining"
	}
	return st
}

// serviceStatus is the state of a service itself.
func serviceStatus(status domain.ServiceStatus) ui.State {
	st := ui.State{Title: "ServiceStatus: " + string(status)}
	switch status {
	case domain.ServiceActive:
		st.Kind, st.Word = ui.OK, "Active"
	case domain.ServiceCreating:
		st.Kind, st.Word = ui.Busy, "Creating"
	case domain.ServicePending:
		st.Kind, st.Word = ui.Busy, "Updating"
	default:
		st.Kind, st.Word = ui.Leaving, "Deleting"
	}
	return st
}

// serviceState is the state of a service with what is behind it: an active one
// whose zones are not all well is degraded.
func serviceState(status domain.ServiceStatus, zones []domain.ZoneHealth) ui.State {
	st := serviceStatus(status)
	if st.Kind != ui.OK {
		return st
	}
	down, bad := 0, 0
	for _, z := range zones {
		switch z.State() {
		case domain.ZoneFailed:
			down++
		case domain.ZoneDegraded:
			bad++
		}
	}
	switch {
	case len(zones) == 0:
		st.Kind, st.Word = ui.Warn, "No resource"
	case down == len(zones):
		st.Kind, st.Word = ui.Bad, "Down"
	case down+bad > 0:
		st.Kind, st.Word = ui.Warn, "Degraded"
	}
	return st
}

// zoneKinds are the kinds of what a zone is to those who use it.
var zoneKinds = map[string]ui.Kind{domain.ZoneHealthy: ui.OK, domain.ZoneDegraded: ui.Warn, domain.ZoneFailed: ui.Bad, domain.ZoneUnknown: ui.Off}

// zoneState says how the targets behind a zone are, to their owner.
func zoneState(h domain.ZoneHealth) ui.State {
	st := ui.State{Kind: zoneKinds[h.State()], Word: fmt.Sprintf("%d of %d healthy", h.Healthy, h.Total)}
	if h.Total == 0 {
		st.Word = "no target"
	}
	return st
}

// healthZones are chips for zones with the targets behind them, for their owner.
func healthZones(zones []domain.ZoneHealth) []ui.Zone {
	out := make([]ui.Zone, len(zones))
	for i, z := range zones {
		st := zoneState(z)
		out[i] = ui.Zone{Name: zoneName(z.ZoneID), Kind: st.Kind, Word: st.Word}
	}
	return out
}

// plainZones are chips for zones of which nothing is said.
func plainZones(ids []string) []ui.Zone {
	out := make([]ui.Zone, len(ids))
	for i, id := range ids {
		out[i] = ui.Zone{Name: zoneName(id), Kind: ui.OK}
	}
	return out
}

// endpointZones are chips for the zones of an endpoint.
func endpointZones(zones []domain.EndpointZone) []ui.Zone {
	out := make([]ui.Zone, len(zones))
	for i, z := range zones {
		st := zoneStatus(z)
		out[i] = ui.Zone{Name: zoneName(z.ZoneID), Kind: st.Kind, Word: st.Word}
	}
	return out
}

// zoneName tells a zone apart in its region: "h" of cn-hangzhou-h.
func zoneName(id string) string { return id[strings.LastIndexByte(id, '-')+1:] }

// targetsState counts targets.
func targetsState(healthy, total int) ui.State {
	st := ui.State{Kind: ui.Warn, Word: fmt.Sprintf("%d of %d healthy", healthy, total)}
	switch {
	case total == 0:
		st.Kind, st.Word = ui.Off, "No target"
	case healthy == total:
		st.Kind = ui.OK
	case healthy == 0:
		st.Kind = ui.Bad
	}
	return st
}

// healthState is one target as last observed.
func healthState(srv domain.Server, checked bool) ui.State {
	switch {
	case !checked:
		return ui.State{Kind: ui.Off, Word: "Not checked"}
	case srv.Health == domain.HealthHealthy:
		return ui.State{Kind: ui.OK, Word: "Healthy"}
	case srv.Health == domain.HealthUnhealthy:
		return ui.State{Kind: ui.Bad, Word: "Unhealthy"}
	}
	return ui.State{Kind: ui.Busy, Word: "Checking"}
}
