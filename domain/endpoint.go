package domain

import "time"

// EndpointStatus is a state of an endpoint.
type EndpointStatus string

// The states of an endpoint.
const (
	EndpointCreating EndpointStatus = "Creating"
	EndpointActive   EndpointStatus = "Active"
	EndpointPending  EndpointStatus = "Pending"
	EndpointDeleting EndpointStatus = "Deleting"
)

// ZoneStatus is a state of one zone of an endpoint.
type ZoneStatus string

// The states of an endpoint's zone.
const (
	ZoneCreating      ZoneStatus = "Creating"
	ZoneWait          ZoneStatus = "Wait"
	ZoneConnecting    ZoneStatus = "Connecting"
	ZoneConnected     ZoneStatus = "Connected"
	ZoneDisconnecting ZoneStatus = "Disconnecting"
	ZoneDisconnected  ZoneStatus = "Disconnected"
	ZoneMigrating     ZoneStatus = "Migrating"
	ZoneMigrated      ZoneStatus = "Migrated"
	ZoneDeleting      ZoneStatus = "Deleting"
)

// Endpoint is a consumer's way to one service, for life.
type Endpoint struct {
	ID          string `gorm:"primaryKey"`
	AccountID   string
	RegionID    string
	VPCID       string
	ServiceID   string
	ProviderID  string // account of the service
	ServiceName string
	Name        string
	Description string
	Type        string // Interface
	Status      EndpointStatus
	Protected   bool
	Demo        bool
	Version     int64
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// EndpointGroup puts an endpoint's network interfaces into a security group.
type EndpointGroup struct {
	EndpointID string `gorm:"primaryKey"`
	GroupID    string `gorm:"primaryKey"`
	AccountID  string
}

// EndpointZone is one network interface of an endpoint.
type EndpointZone struct {
	EndpointID     string `gorm:"primaryKey"`
	ZoneID         string `gorm:"primaryKey"`
	AccountID      string
	VSwitchID      string
	ENIID          string
	Address        string
	LoadBalancerID string // the resource of the same zone it leads to
	Status         ZoneStatus
	EngineError    string // why it does not come up, as last observed
}
