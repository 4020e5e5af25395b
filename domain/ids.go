package domain

import (
	"crypto/rand"
	"strings"
)

// Kinds of objects, as the change feed, the audit trail and reasons name them.
const (
	KindSite         = "site"
	KindRegion       = "region"
	KindZone         = "zone"
	KindAccount      = "account"
	KindUser         = "user"
	KindSession      = "session"
	KindAccessKey    = "access_key"
	KindVPC          = "vpc"
	KindVSwitch      = "vswitch"
	KindGroup        = "security_group"
	KindRule         = "security_group_rule"
	KindAttachment   = "attachment"
	KindOffer        = "offer"
	KindRouteTable   = "route_table"
	KindLoadBalancer = "load_balancer"
	KindListener     = "listener"
	KindServerGroup  = "server_group"
	KindServer       = "server"
	KindService      = "service"
	KindEndpoint     = "endpoint"
	KindConnection   = "connection"
	KindAudit        = "audit"
)

// prefixes of identifiers; what follows is a dash and 20 lower-case characters.
var prefixes = map[string]string{
	KindUser: "usr", KindSession: "ses", KindVPC: "vpc", KindVSwitch: "vsw", KindGroup: "sg", KindRule: "sgr",
	KindAttachment: "att", KindOffer: "off", KindRouteTable: "vtb", KindLoadBalancer: "nlb", KindListener: "lsn",
	KindServerGroup: "sgp", KindServer: "srv", KindService: "epsrv", KindEndpoint: "ep",
}

// newID returns a fresh identifier for an object of the kind.
func newID(kind string) string { return prefixes[kind] + "-" + token(20) }

// newENI returns a fresh identifier of a network interface of an endpoint.
func newENI() string { return "eni-" + token(20) }

// token returns n random characters of a-z and 2-7: 5 bits each.
func token(n int) string {
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(rand.Text())
	}
	return strings.ToLower(b.String()[:n])
}
