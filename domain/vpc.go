package domain

import "time"

// VPC is an address space of an account. Any private range is fine, also one that
// others use.
type VPC struct {
	ID        string `gorm:"primaryKey"`
	AccountID string
	RegionID  string
	Name      string
	CIDR      string
	Number    int // 1 to 200 while there are free ones, else 0; loopback mode needs it
	Demo      bool
	Version   int64 // counts changes; a form of an older version is refused
	CreatedAt time.Time

	EngineUp    bool // as last observed
	EngineError string
}

// VSwitch is a subnet of a VPC in one zone. Its first host address is the gateway.
type VSwitch struct {
	ID        string `gorm:"primaryKey"`
	AccountID string
	VPCID     string
	ZoneID    string
	Name      string
	CIDR      string
	CreatedAt time.Time
}

// Address is an address of a VPC that is in use, and by what: no two can have one.
type Address struct {
	VPCID     string `gorm:"primaryKey"`
	Address   string `gorm:"primaryKey"`
	VSwitchID string
	OwnerKind string // KindAttachment, KindEndpoint, KindLoadBalancer
	OwnerID   string
}

// SecurityGroup holds rules for what may reach the network interfaces of
// endpoints, and names a set of attachments as a peer of rules.
type SecurityGroup struct {
	ID          string `gorm:"primaryKey"`
	AccountID   string
	VPCID       string
	Name        string
	Description string
	Type        string // normal, enterprise
	IntraPolicy string // accept, drop: among members of a normal group
	Demo        bool
	Version     int64
	CreatedAt   time.Time
}

// SecurityRule is one line of a security group.
type SecurityRule struct {
	ID          string `gorm:"primaryKey"`
	AccountID   string
	GroupID     string
	Direction   string // ingress, egress
	Priority    int    // 1 to 100, smaller first; at equal priority drop wins
	Policy      string // accept, drop
	Protocol    string // all, tcp, udp, icmp
	PortFrom    int    // 1 to 65535, or 0 with PortTo 0 for every port
	PortTo      int
	PeerCIDR    string // source (ingress) or destination (egress); or
	PeerGroupID string // a group of the same VPC
	Description string
	CreatedAt   time.Time
}

// Attachment is a workload of a VPC.
type Attachment struct {
	ID        string `gorm:"primaryKey"`
	AccountID string
	VPCID     string
	VSwitchID string // "" for a host service
	Name      string
	Kind      string // AttachManaged and its like
	Address   string // in the vSwitch; "" for a host service
	OfferID   string // for all but managed ones
	HostPort  int    // port of the offer's host address: host service, published port
	TargetIP  string // published port: where it leads inside the VPC
	Target    int
	Command   string // JSON; only the demo's own servers have one
	Demo      bool
	Version   int64
	CreatedAt time.Time

	EngineUp    bool // as last observed
	EngineError string
}

// Kinds of attachments.
const (
	AttachManaged   = "managed"
	AttachAdopted   = "adopted"
	AttachInterface = "interface"
	AttachHost      = "host_service"
	AttachPort      = "published_port"
)

// AttachmentGroup puts an attachment into a security group; at most five each.
type AttachmentGroup struct {
	AttachmentID string `gorm:"primaryKey"`
	GroupID      string `gorm:"primaryKey"`
	AccountID    string
}

// Offer lets an account use an object of the host. Only operators make them, so
// that no tenant ever names a path, a device or an address of the host.
type Offer struct {
	ID        string `gorm:"primaryKey"`
	AccountID string // who may use it; "" for every account
	Label     string // what tenants see
	Kind      string // AttachAdopted, AttachInterface, AttachHost, AttachPort
	Path      string // adopted: file of the namespace
	Inode     uint64
	Device    string // interface
	DeviceNo  int
	HostIP    string // host service, published port
	PortFrom  int    // and which ports; both 0 for any
	PortTo    int
	Demo      bool
	CreatedAt time.Time
}

// RouteTable of a VPC. The system table holds a local route per vSwitch, which
// cannot be changed, and custom routes.
type RouteTable struct {
	ID        string `gorm:"primaryKey"`
	AccountID string
	VPCID     string
	Name      string
	Type      string // system
	Version   int64
	CreatedAt time.Time
}

// Route of a table. System routes are not stored: they follow from the vSwitches.
type Route struct {
	TableID     string `gorm:"primaryKey"`
	Destination string `gorm:"primaryKey"` // a CIDR in canonical form
	AccountID   string
	NextHopType string // attachment
	NextHopID   string
	Description string
}
