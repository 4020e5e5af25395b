// Package network is the console's pages about address spaces: VPCs with their
// vSwitches and workloads, route tables and security groups.
package network

// Kinds of objects, as the ids of their elements begin: the event stream patches
// and removes them by these ids.
const (
	kindVPC        = "vpc"
	kindVSwitch    = "vswitch"
	kindAttachment = "attachment"
	kindGroup      = "security_group"
	kindTable      = "route_table"
)

// rowID is the element of an object's row in a list.
func rowID(kind, id string) string { return kind + "-" + id }

// stateID is the element of an object's state in the head of its page.
func stateID(id string) string { return "state-" + id }
