// Package vpc is where sockets are made: each VPC as a network namespace with
// bridges, addresses, routes and attachments, or, where that is not allowed, as
// a part of 127/8. It knows no load balancer and no connection.
package vpc

import (
	"net/netip"
)

// Network is one VPC as it shall be.
type Network struct {
	ID          string                `json:"id"`
	Number      int                   `json:"number"` // 1 to 200, unique in the installation while low; the second byte of 127/8 in loopback mode, 0 if there is none left
	CIDRs       []netip.Prefix        `json:"cidrs"`
	VSwitches   []VSwitch             `json:"vswitches,omitempty"`
	Addresses   []netip.Addr          `json:"addresses,omitempty"` // of endpoints, load balancers and published ports: the router answers for them
	Routes      []Route               `json:"routes,omitempty"`    // custom routes; the system routes follow from the vSwitches
	Attachments map[string]Attachment `json:"attachments,omitempty"`
}

// VSwitch is a subnet in one zone. Its gateway is the first host address of CIDR.
type VSwitch struct {
	ID   string       `json:"id"`
	Zone string       `json:"zone"`
	CIDR netip.Prefix `json:"cidr"`
}

// Gateway returns the address of the VPC's router in the vSwitch.
func (v VSwitch) Gateway() netip.Addr { return v.CIDR.Masked().Addr().Next() }

// Route sends what is destined to To to an attachment of the same VPC.
type Route struct {
	To         netip.Prefix `json:"to"`
	Attachment string       `json:"attachment"` // id; if it is not up the route is a blackhole
}

// Kind of an attachment.
type Kind string

// The kinds. Managed, Adopted and Interface put a device into the vSwitch and can
// hold workloads; HostService and PublishedPort are sockets only.
const (
	Managed       Kind = "managed"        // a namespace that the engine makes
	Adopted       Kind = "adopted"        // a namespace of the host, pinned by inode
	Interface     Kind = "interface"      // a device of the host, pinned by index, moved into the VPC
	HostService   Kind = "host_service"   // an address and port of the host, as a target
	PublishedPort Kind = "published_port" // an address and port of the host that enters the VPC as a client
)

// Attachment is a workload of a vSwitch.
type Attachment struct {
	ID      string     `json:"id"`
	Kind    Kind       `json:"kind"`
	VSwitch string     `json:"vswitch"`
	Address netip.Addr `json:"address,omitzero"` // in the vSwitch; none for a HostService

	// From an operator's offer, never from a tenant.
	Path  string         `json:"path,omitempty"`  // Adopted: file of the namespace
	Inode uint64         `json:"inode,omitempty"` // Adopted: what Path must be
	Name  string         `json:"name,omitempty"`  // Interface: name of the device
	Index int            `json:"index,omitempty"` // Interface: what Name must be
	Host  netip.AddrPort `json:"host,omitzero"`   // HostService: target; PublishedPort: where to listen

	To netip.AddrPort `json:"to,omitzero"` // PublishedPort: what it leads to inside the VPC

	// Command is run inside a Managed attachment and started again when it ends.
	// Only the product's own demo sets it.
	Command []string `json:"command,omitempty"`
}
