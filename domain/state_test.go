package domain

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite files that tests compare with")

var (
	connectionStates = []ConnectionStatus{Disconnected, Connecting, Connected, Pending, Disconnecting, Deleting, ServiceDeleted}
	zoneStates       = []ZoneStatus{ZoneCreating, ZoneWait, ZoneConnecting, ZoneConnected, ZoneDisconnecting, ZoneDisconnected, ZoneMigrating, ZoneMigrated, ZoneDeleting}
	endpointStates   = []EndpointStatus{EndpointCreating, EndpointActive, EndpointPending, EndpointDeleting}
	serviceStates    = []ServiceStatus{ServiceCreating, ServiceActive, ServicePending, ServiceDeleting}
)

// matrix compares a machine with what each event does in each state, "" for
// refused. Every event has a row, and every state a column.
func matrix[E, S ~string](t *testing.T, m machine[E, S], states []S, want map[E][]S) {
	t.Helper()
	for event := range m {
		if _, ok := want[event]; !ok {
			t.Errorf("event %s is not in the table", event)
		}
	}
	for event, row := range want {
		if len(row) != len(states) {
			t.Fatalf("event %s has %d states, want %d", event, len(row), len(states))
		}
		for i, from := range states {
			got, ok := m.after(from, event)
			if ok != (row[i] != "") || ok && got != row[i] {
				t.Errorf("%s in %s leads to %q, %v; want %q", event, from, got, ok, row[i])
			}
		}
	}
}

func TestConnectionMoves(t *testing.T) {
	matrix(t, connectionMoves, connectionStates, map[ConnectionEvent][]ConnectionStatus{
		//            Disconnected    Connecting     Connected      Pending        Disconnecting Deleting ServiceDeleted
		Accept:      {Connecting, "", "", "", "", "", ""},
		Reject:      {Disconnecting, Disconnecting, Disconnecting, Disconnecting, "", "", ""},
		Restore:     {Connecting, "", "", "", Connecting, "", ""},
		Modify:      {"", "", Pending, "", "", "", ""},
		Up:          {"", Connected, "", Connected, "", "", ""},
		Down:        {"", "", "", "", Disconnected, "", ""},
		Remove:      {Deleting, Deleting, Deleting, Deleting, Deleting, "", Deleting},
		ServiceGone: {ServiceDeleted, "", "", "", "", "", ""},
	})
}

func TestZoneMoves(t *testing.T) {
	const down, del = ZoneDisconnecting, ZoneDeleting
	matrix(t, zoneMoves, zoneStates, map[ZoneEvent][]ZoneStatus{
		//            Creating        Wait            Connecting     Connected       Disconnecting    Disconnected    Migrating      Migrated        Deleting
		ZoneReady:   {ZoneWait, "", "", "", "", "", "", "", ""},
		ZoneAllow:   {ZoneConnecting, ZoneConnecting, "", "", ZoneConnecting, ZoneConnecting, "", "", ""},
		ZoneUp:      {"", "", ZoneConnected, "", "", "", ZoneConnected, "", ""},
		ZoneLost:    {"", "", "", ZoneConnecting, "", "", "", ZoneConnecting, ""},
		ZoneMigrate: {"", "", "", ZoneMigrating, "", "", "", ZoneMigrating, ""},
		ZoneMoved:   {"", "", ZoneMigrated, "", "", "", ZoneMigrated, "", ""},
		ZoneRevoke:  {down, down, down, down, "", "", down, down, ""},
		ZoneDown:    {"", "", "", "", ZoneDisconnected, "", "", "", ""},
		ZoneRemove:  {del, del, del, del, del, del, del, del, ""},
	})
}

func TestEndpointMoves(t *testing.T) {
	matrix(t, endpointMoves, endpointStates, map[EndpointEvent][]EndpointStatus{
		//               Creating          Active            Pending           Deleting
		EndpointReady:  {EndpointActive, "", EndpointActive, ""},
		EndpointModify: {EndpointPending, EndpointPending, EndpointPending, ""},
		EndpointRemove: {EndpointDeleting, EndpointDeleting, EndpointDeleting, ""},
	})
}

func TestServiceMoves(t *testing.T) {
	matrix(t, serviceMoves, serviceStates, map[ServiceEvent][]ServiceStatus{
		//              Creating         Active           Pending          Deleting
		ServiceReady:  {ServiceActive, "", "", ""},
		ServiceRemove: {ServiceDeleting, ServiceDeleting, ServiceDeleting, ""},
	})
}

// TestCarries asks every pair of a status and a decision: only what was accepted
// carries, and only while it is connecting, connected or being modified.
func TestCarries(t *testing.T) {
	for _, status := range connectionStates {
		for _, d := range []Decision{Waiting, Accepted, Rejected, Expired, ""} {
			want := d == Accepted && (status == Connecting || status == Connected || status == Pending)
			if got := (Connection{Status: status, Decision: d}).carries(); got != want {
				t.Errorf("%s, %s: carries %v, want %v", status, d, got, want)
			}
		}
	}
	for _, s := range zoneStates {
		if got, want := s.carries(), slices.Contains([]ZoneStatus{ZoneConnecting, ZoneConnected, ZoneMigrating, ZoneMigrated}, s); got != want {
			t.Errorf("zone %s: carries %v, want %v", s, got, want)
		}
	}
}

const statesDocument = "../docs/connection-states.md"

// TestStatesDocument draws the machines into the documentation; -update writes it.
func TestStatesDocument(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("# States\n\nDrawn from the tables in `domain/state.go` by `go test ./domain -run StatesDocument -update`.\n" +
		"A pair of a state and an event that is not here is refused.\n")
	draw(&b, "Connection", "A connection carries traffic while its provider has accepted it and it is Connecting, Connected or Pending.\n"+
		"Waiting and rejected are both Disconnected: a separate decision tells them apart.", connectionMoves, connectionStates, Disconnected)
	draw(&b, "Zone of an endpoint", "A zone carries while its connection does and it is Connecting, Connected, Migrating or Migrated.", zoneMoves, zoneStates, ZoneCreating)
	draw(&b, "Endpoint", "An endpoint that is Deleting is gone once the engine has let go of it.", endpointMoves, endpointStates, EndpointCreating)
	draw(&b, "Endpoint service", "A change of a service is complete when it is stored, so none is ever seen in Pending.", serviceMoves, serviceStates, ServiceCreating)
	if *update {
		if err := os.WriteFile(statesDocument, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(statesDocument)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, b.Bytes()) {
		t.Errorf("%s is not what the tables say: run the test with -update and review it", statesDocument)
	}
}

// draw writes a machine as a diagram and as a table.
func draw[E, S ~string](b *bytes.Buffer, title, about string, m machine[E, S], states []S, start S) {
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n```mermaid\nstateDiagram-v2\n    [*] --> %s\n", title, about, start)
	events := slices.Sorted(maps.Keys(m))
	for _, from := range states {
		for _, ev := range events {
			if to, ok := m.after(from, ev); ok {
				fmt.Fprintf(b, "    %s --> %s: %s\n", from, to, ev)
			}
		}
	}
	b.WriteString("```\n\n| Event | Caused by | From | To |\n|---|---|---|---|\n")
	for _, ev := range events {
		var from []string
		for _, s := range states {
			if slices.Contains(m[ev].From, s) {
				from = append(from, string(s))
			}
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", ev, m[ev].By, strings.Join(from, ", "), m[ev].To)
	}
}
