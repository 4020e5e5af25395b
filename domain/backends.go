package domain

import (
	"fmt"

	"gorm.io/gorm"
)

// ZoneHealth counts the targets that flows of one zone can go to.
type ZoneHealth struct {
	ZoneID  string
	Healthy int // get new flows
	Down    int // are known to be unhealthy
	Total   int
}

// What a zone is to those who use it.
const (
	ZoneHealthy  = "healthy"
	ZoneDegraded = "degraded"
	ZoneFailed   = "down"
	ZoneUnknown  = "unknown"
)

// State is the zone in one word, which may be told to the other side.
func (h ZoneHealth) State() string {
	switch {
	case h.Total == h.Down:
		return ZoneFailed
	case h.Healthy == h.Total:
		return ZoneHealthy
	case h.Healthy > 0:
		return ZoneDegraded
	default:
		return ZoneUnknown
	}
}

// backends is what is behind some load balancers.
type backends struct {
	balancers map[string]LoadBalancer
	listeners map[string][]Listener // by load balancer, by port
	groups    map[string]ServerGroup
	servers   map[string][]Server // by group, by id
}

// readBackends reads what is behind load balancers: four queries, however many.
func readBackends(db *gorm.DB, balancers []string) (*backends, error) {
	b := &backends{balancers: map[string]LoadBalancer{}, listeners: map[string][]Listener{}, groups: map[string]ServerGroup{}, servers: map[string][]Server{}}
	var lbs []LoadBalancer
	if err := db.Where("id IN ?", balancers).Find(&lbs).Error; err != nil {
		return nil, fmt.Errorf("read load balancers: %w", err)
	}
	var listeners []Listener
	if err := db.Where("load_balancer_id IN ?", balancers).Order("port").Order("id").Find(&listeners).Error; err != nil {
		return nil, fmt.Errorf("read listeners: %w", err)
	}
	ids := each(listeners, func(l Listener) string { return l.ServerGroupID })
	var groups []ServerGroup
	if err := db.Where("id IN ?", ids).Find(&groups).Error; err != nil {
		return nil, fmt.Errorf("read server groups: %w", err)
	}
	var servers []Server
	if err := db.Where("server_group_id IN ?", ids).Order("id").Find(&servers).Error; err != nil {
		return nil, fmt.Errorf("read targets: %w", err)
	}
	for _, lb := range lbs {
		b.balancers[lb.ID] = lb
	}
	for _, l := range listeners {
		b.listeners[l.LoadBalancerID] = append(b.listeners[l.LoadBalancerID], l)
	}
	for _, g := range groups {
		b.groups[g.ID] = g
	}
	for _, srv := range servers {
		b.servers[srv.ServerGroupID] = append(b.servers[srv.ServerGroupID], srv)
	}
	return b, nil
}

// everyZone asks backends.health for the targets of all zones.
const everyZone = ""

// health counts the targets that flows which came in by a zone can go to.
func (b *backends) health(balancer, zone string) ZoneHealth {
	h := ZoneHealth{ZoneID: zone}
	for _, g := range b.groupsOf(balancer) {
		h.count(g, b.servers[g.ID], b.balancers[balancer].CrossZone)
	}
	return h
}

// count adds the servers of a group that flows of the zone can go to.
func (h *ZoneHealth) count(g ServerGroup, servers []Server, crossZone bool) {
	for _, srv := range servers {
		if !crossZone && !srv.serves(h.ZoneID) {
			continue
		}
		h.Total++
		switch {
		case g.HealthEnabled && srv.Health == HealthUnhealthy:
			h.Down++
		case srv.Weight > 0 && (!g.HealthEnabled || srv.Health == HealthHealthy):
			h.Healthy++
		}
	}
}

// serves reports whether flows that came in by a zone may go to the server while
// its load balancer keeps zones apart.
func (srv Server) serves(zone string) bool {
	return zone == everyZone || srv.ZoneID == "" || srv.ZoneID == zone
}

// groupsOf returns the server groups of a load balancer, each once.
func (b *backends) groupsOf(balancer string) []ServerGroup {
	var out []ServerGroup
	seen := map[string]bool{}
	for _, l := range b.listeners[balancer] {
		if !seen[l.ServerGroupID] {
			seen[l.ServerGroupID] = true
			out = append(out, b.groups[l.ServerGroupID])
		}
	}
	return out
}
