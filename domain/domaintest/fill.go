package domaintest

import (
	"crypto/rand"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3" // the driver that the store uses, too

	"github.com/openprivatelink/openprivatelink/domain"
)

const (
	fillAccounts     = 20   // beside the provider and the consumer
	perBalancer      = 10   // services
	endpointsPerVPC  = 1000 //
	maxInsertedParts = 30_000
	rowsAtOnce       = 50
)

// Filled names some of what [Fill] made.
type Filled struct {
	ServiceID  string // of the provider, with many connections
	BalancerID string // of the provider
	EndpointID string // of the consumer, connected to that service
	WaitingID  string // an endpoint that waits for the provider
	VPCID      string // of the consumer
}

// Fill puts services and endpoints into a world as they would be after years: half
// of the services are the provider's and half of the endpoints the consumer's, the
// rest is spread over other accounts. Of ten connections eight stand, one waits and
// one is rejected. It writes to the database directly; an engine has to read
// everything again.
func Fill(tb testing.TB, w *World, services, endpoints int) *Filled {
	tb.Helper()
	driver, dsn := "sqlite3", "file:"+w.Config.Database+"?_journal_mode=WAL&_busy_timeout=10000&_foreign_keys=on&_txlock=immediate&_synchronous=OFF&_cache_size=-200000"
	if Postgres() != "" {
		driver, dsn = "pgx", w.Config.Database
	}
	db, err := sql.Open(driver, dsn)
	w.must(err)
	defer db.Close()
	tx, err := db.BeginTx(tb.Context(), nil)
	w.must(err)
	f := &filler{w: w, tx: tx, tables: map[string]*inserts{}}
	providers, consumers := []string{w.Provider.Account().ID}, []string{w.Consumer.Account().ID}
	for i := range fillAccounts {
		id := fmt.Sprintf("1999%012d", i)
		f.insert("accounts", "id, name, site_id, state, created_at", id, fmt.Sprintf("account-%02d", i), domain.DefaultSite, domain.AccountActive, w.Clock.Now())
		providers, consumers = append(providers, id), append(consumers, id)
	}
	made := &Filled{}
	offers := f.services(services, providers, consumers, made)
	f.endpoints(endpoints, consumers, offers, made)
	f.flush()
	w.must(tx.Commit())
	return made
}

type filler struct {
	w      *World
	tx     *sql.Tx
	tables map[string]*inserts
	order  []*inserts // parents before children
	n      int
}

// inserts are rows of one table that are written together.
type inserts struct {
	table, columns string
	width          int
	values         []any
	statements     map[int]*sql.Stmt // by how many rows they insert
}

// insert adds a row; tables are written in the order they are first met.
func (f *filler) insert(table, columns string, values ...any) {
	f.w.tb.Helper()
	in := f.tables[table]
	if in == nil {
		in = &inserts{table: table, columns: columns, width: len(values), statements: map[int]*sql.Stmt{}}
		f.tables[table], f.order = in, append(f.order, in)
	}
	in.values = append(in.values, values...)
	if len(in.values)+in.width > maxInsertedParts {
		f.flush()
	}
}

func (f *filler) flush() {
	f.w.tb.Helper()
	for _, in := range f.order {
		for rows := range slices.Chunk(in.values, in.width*rowsAtOnce) {
			_, err := f.prepared(in, len(rows)/in.width).ExecContext(f.w.tb.Context(), rows...) //nolint:sqlclosecheck // statements end with the transaction
			f.w.must(err)
		}
		in.values = in.values[:0]
	}
}

// prepared returns the statement that inserts n rows of a table.
func (f *filler) prepared(in *inserts, n int) *sql.Stmt {
	if st := in.statements[n]; st != nil {
		return st
	}
	var b strings.Builder
	fmt.Fprintf(&b, "INSERT INTO %s (%s) VALUES ", in.table, in.columns)
	for i := range n * in.width {
		switch {
		case i == 0:
			b.WriteString("(")
		case i%in.width == 0:
			b.WriteString("),(")
		default:
			b.WriteString(",")
		}
		fmt.Fprintf(&b, "$%d", i+1)
	}
	b.WriteString(")")
	st, err := f.tx.PrepareContext(f.w.tb.Context(), b.String())
	f.w.must(err)
	in.statements[n] = st
	return st
}

// id returns a fresh identifier.
func id(prefix string) string { return prefix + "-" + strings.ToLower(rand.Text()[:20]) }

// network is a VPC with a vSwitch in each zone.
type network struct {
	id       string
	vswitch  map[string]string
	next     int
	groupID  string
	accounts string
}

var fillZones = []string{ZoneH, ZoneI}

// address returns the next address of a network in a zone.
func (n *network) address(zone string) string {
	return fmt.Sprintf("10.%d.%d.%d", slices.Index(fillZones, zone)*128, n.next/250, 2+n.next%250)
}

func (f *filler) network(account string) *network {
	now := f.w.Clock.Now()
	f.n++
	n := &network{id: id("vpc"), vswitch: map[string]string{}, accounts: account}
	f.insert("vpcs", "id, account_id, region_id, name, cidr, version, engine_up, created_at", n.id, account, Region, fmt.Sprintf("filled-%05d", f.n), "10.0.0.0/8", 1, true, now)
	for i, zone := range fillZones {
		n.vswitch[zone] = id("vsw")
		f.insert("vswitches", "id, account_id, vpc_id, zone_id, name, cidr, created_at", n.vswitch[zone], account, n.id, zone, fmt.Sprintf("filled-%05d-%d", f.n, i), fmt.Sprintf("10.%d.0.0/16", i*128), now)
	}
	f.insert("route_tables", "id, account_id, vpc_id, name, type, version, created_at", id("vtb"), account, n.id, fmt.Sprintf("filled-%05d", f.n), "system", 1, now)
	return n
}

// take gives the next address of a network in a zone to an owner.
func (f *filler) take(n *network, zone, kind, owner string) string {
	a := n.address(zone)
	f.insert("addresses", "vpc_id, address, vswitch_id, owner_kind, owner_id", n.id, a, n.vswitch[zone], kind, owner)
	return a
}

// offered is a service that endpoints can lead to.
type offered struct{ id, name, label, account, balancer string }

func (f *filler) services(n int, providers, consumers []string, made *Filled) []offered {
	now := f.w.Clock.Now()
	networks := map[string]*network{}
	balancers, served := map[string]string{}, map[string]int{}
	out := make([]offered, n)
	for i := range out {
		account := providers[0]
		if i%2 == 1 {
			account = providers[1+i/2%(len(providers)-1)]
		}
		if networks[account] == nil {
			networks[account] = f.network(account)
		}
		if served[account]%perBalancer == 0 {
			balancers[account] = f.balancer(networks[account], account, i)
		}
		served[account]++
		svc := offered{id: id("epsrv"), label: fmt.Sprintf("service-%05d", i), account: account, balancer: balancers[account]}
		svc.name = domain.Service{ID: svc.id, RegionID: Region}.ServiceName()
		f.insert("services", "id, account_id, region_id, name, status, resource_type, payer, version, created_at, updated_at",
			svc.id, account, Region, svc.label, domain.ServiceActive, domain.TypeNLB, domain.PayerConsumer, 1, now, now)
		for _, zone := range fillZones {
			f.insert("service_resources", "service_id, load_balancer_id, zone_id, account_id, auto_allocate", svc.id, svc.balancer, zone, account, true)
		}
		users := map[string]bool{account: true, consumers[0]: i%2 == 0, consumers[1+i%(len(consumers)-1)]: true, domain.Everyone: i%50 == 0}
		for user, on := range users {
			if on {
				f.insert("service_users", "service_id, user_account_id, account_id, service_label, added_by, created_at", svc.id, user, account, svc.label, "fill", now)
			}
		}
		out[i] = svc
	}
	made.ServiceID, made.BalancerID = out[0].id, out[0].balancer
	return out
}

// balancer makes a load balancer in both zones, with a listener and a target in each.
func (f *filler) balancer(n *network, account string, i int) string {
	now := f.w.Clock.Now()
	lb, group := id("nlb"), id("sgp")
	f.insert("load_balancers", "id, account_id, region_id, vpc_id, type, name, version, created_at", lb, account, Region, n.id, domain.TypeNLB, fmt.Sprintf("nlb-%05d", i), 1, now)
	f.insert("server_groups", "id, account_id, vpc_id, name, scheduler, health_enabled, version, created_at", group, account, n.id, fmt.Sprintf("nlb-%05d:443", i), domain.SchedulerWRR, true, 1, now)
	f.insert("listeners", "id, account_id, load_balancer_id, protocol, port, server_group_id, idle_timeout", id("lsn"), account, lb, domain.ProtocolTCP, 443, group, 900)
	for _, zone := range fillZones {
		f.insert("load_balancer_zones", "load_balancer_id, zone_id, account_id, vswitch_id, address", lb, zone, account, n.vswitch[zone], f.take(n, zone, domain.KindLoadBalancer, lb))
	}
	n.next++
	for _, zone := range fillZones {
		f.insert("servers", "id, account_id, server_group_id, address, port, weight, zone_id, health, health_since", id("srv"), account, group, f.take(n, zone, domain.KindServerGroup, group), 8443, 100, zone, domain.HealthHealthy, now)
	}
	n.next++
	return lb
}

func (f *filler) endpoints(n int, consumers []string, offers []offered, made *Filled) {
	now := f.w.Clock.Now()
	networks, placed := map[string]*network{}, map[string]int{}
	for i := range n {
		account := consumers[0]
		if i%2 == 1 {
			account = consumers[1+i/2%(len(consumers)-1)]
		}
		if placed[account]%endpointsPerVPC == 0 {
			v := f.network(account)
			v.groupID = id("sg")
			f.insert("security_groups", "id, account_id, vpc_id, name, type, intra_policy, version, created_at", v.groupID, account, v.id, fmt.Sprintf("group-%05d", i), domain.GroupNormal, domain.PolicyAccept, 1, now)
			f.insert("security_rules", "id, account_id, group_id, direction, priority, policy, protocol, port_from, port_to, peer_cidr, created_at", id("sgr"), account, v.groupID, domain.Ingress, 1, domain.PolicyAccept, domain.ProtocolTCP, 443, 443, "10.0.0.0/8", now)
			networks[account] = v
		}
		placed[account]++
		v, svc, ep := networks[account], offers[i%len(offers)], id("ep")
		if i < n/50 { // one service is everybody's
			svc = offers[0]
		}
		at := now.Add(-time.Duration(n-i) * time.Second)
		f.insert("endpoints", "id, account_id, region_id, vpc_id, service_id, provider_id, service_name, name, type, status, version, created_at, updated_at",
			ep, account, Region, v.id, svc.id, svc.account, svc.name, fmt.Sprintf("endpoint-%05d", i), "Interface", domain.EndpointActive, 1, at, at)
		status, decision, zoneStatus := domain.Connected, domain.Accepted, domain.ZoneConnected
		switch i / 2 % 10 {
		case 0:
			status, decision, zoneStatus = domain.Disconnected, domain.Waiting, domain.ZoneWait
		case 1:
			status, decision, zoneStatus = domain.Disconnected, domain.Rejected, domain.ZoneDisconnected
		}
		f.insert("connections", "endpoint_id, service_id, provider_id, consumer_id, status, decision, requested_by, waiting_since, rank, version, created_at, updated_at",
			ep, svc.id, svc.account, account, status, decision, "fill", at, at.UnixMicro(), 2, at, at)
		for _, zone := range fillZones {
			f.insert("endpoint_zones", "endpoint_id, zone_id, account_id, vswitch_id, eni_id, address, load_balancer_id, status",
				ep, zone, account, v.vswitch[zone], id("eni"), f.take(v, zone, domain.KindEndpoint, ep), svc.balancer, zoneStatus)
		}
		v.next++
		f.insert("endpoint_groups", "endpoint_id, group_id, account_id", ep, v.groupID, account)
		if account == consumers[0] && svc.account == f.w.Provider.Account().ID {
			made.VPCID = v.id
			switch decision {
			case domain.Accepted:
				made.EndpointID = ep
			case domain.Waiting:
				made.WaitingID = ep
			}
		}
	}
}
