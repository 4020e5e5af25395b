// Package vpc is where sockets are made: each VPC as a network namespace with
// bridges, addresses, routes and attachments, or, where that is not allowed, as
// a part of 127/8. It knows no load balancer and no connection.
package vpc

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
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

// device reports whether the attachment puts a device into its vSwitch.
func (a Attachment) device() bool {
	return a.Kind == Managed || a.Kind == Adopted || a.Kind == Interface
}

// samePlace reports whether a device made for a serves b.
func (a Attachment) samePlace(b Attachment) bool {
	return a.Kind == b.Kind && a.VSwitch == b.VSwitch && a.Address == b.Address &&
		a.Path == b.Path && a.Inode == b.Inode && a.Name == b.Name && a.Index == b.Index
}

// vswitch returns the vSwitch called id.
func (n Network) vswitch(id string) (VSwitch, bool) {
	for _, v := range n.VSwitches {
		if v.ID == id {
			return v, true
		}
	}
	return VSwitch{}, false
}

// check refuses what no driver could make. Whether vSwitches overlap and who owns
// what is not its business.
func (n Network) check() error {
	if !validName(n.ID, maxName, true) {
		return fmt.Errorf("network id %q: want at most %d letters, digits, - and _", n.ID, maxName)
	}
	for _, p := range n.CIDRs {
		if !p.IsValid() || !p.Addr().Is4() {
			return fmt.Errorf("network %s: %v is no IPv4 range", n.ID, p)
		}
	}
	for _, v := range n.VSwitches {
		if !v.CIDR.IsValid() || !v.CIDR.Addr().Is4() || v.CIDR.Bits() > 30 {
			return fmt.Errorf("vswitch %s: %v is no IPv4 range with room for a gateway", v.ID, v.CIDR)
		}
	}
	for _, a := range n.Addresses {
		if !a.Is4() {
			return fmt.Errorf("network %s: %v is no IPv4 address", n.ID, a)
		}
	}
	for _, r := range n.Routes {
		if !r.To.IsValid() || !r.To.Addr().Is4() {
			return fmt.Errorf("network %s: route to %v: no IPv4 range", n.ID, r.To)
		}
	}
	return nil
}

// checkPlace refuses an attachment that cannot be in its vSwitch.
func (n Network) checkPlace(a Attachment) error {
	v, ok := n.vswitch(a.VSwitch)
	switch {
	case !validName(a.ID, maxName, true):
		return fmt.Errorf("attachment id %q: want at most %d letters, digits, - and _", a.ID, maxName)
	case !ok:
		return fmt.Errorf("attachment %s: no vswitch %q", a.ID, a.VSwitch)
	case !a.Address.Is4() || !v.CIDR.Contains(a.Address):
		return fmt.Errorf("attachment %s: address %v is not in %v", a.ID, a.Address, v.CIDR)
	case a.Address == v.Gateway():
		return fmt.Errorf("attachment %s: %v is the gateway's address", a.ID, a.Address)
	}
	return nil
}

// same reports whether two networks ask the driver for the same things.
func same(a, b Network) bool {
	return slices.Equal(a.Addresses, b.Addresses) && sameShape(a, b)
}

// sameShape is same without the addresses, of which there are many.
func sameShape(a, b Network) bool {
	return slices.Equal(a.CIDRs, b.CIDRs) && slices.Equal(a.VSwitches, b.VSwitches) && slices.Equal(a.Routes, b.Routes) &&
		maps.EqualFunc(a.Attachments, b.Attachments, Attachment.samePlace)
}

// clone makes n independent of its caller's slices and maps.
func clone(n Network) Network {
	n.CIDRs, n.VSwitches, n.Routes = slices.Clone(n.CIDRs), slices.Clone(n.VSwitches), slices.Clone(n.Routes)
	n.Addresses, n.Attachments = slices.Clone(n.Addresses), maps.Clone(n.Attachments)
	return n
}

// maxName keeps two ids and a prefix within the 255 bytes of a file name.
const maxName = 64

// validName reports whether s is safe in the name of a file; wide admits more
// than a-z and 0-9, but never a dot or a slash.
func validName(s string, most int, wide bool) bool {
	const narrow = "abcdefghijklmnopqrstuvwxyz0123456789"
	set := narrow
	if wide {
		set += "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_"
	}
	return s != "" && len(s) <= most && strings.Trim(s, set) == ""
}
