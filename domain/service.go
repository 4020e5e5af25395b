package domain

import "time"

// ServiceStatus is a state of an endpoint service.
type ServiceStatus string

// The states of an endpoint service.
const (
	ServiceCreating ServiceStatus = "Creating"
	ServiceActive   ServiceStatus = "Active"
	ServicePending  ServiceStatus = "Pending"
	ServiceDeleting ServiceStatus = "Deleting"
)

// Service is an endpoint service: a load balancer that accounts on its whitelist
// may ask to reach.
type Service struct {
	ID            string `gorm:"primaryKey"`
	AccountID     string
	RegionID      string
	Name          string // for people; consumers use ServiceName
	Description   string
	Status        ServiceStatus
	ResourceType  string // nlb
	AutoAccept    bool   // accept every whitelisted account without asking
	Bandwidth     int    // Mbit/s a connection gets by default; 0: no limit
	ZoneAffinity  bool
	Payer         string // Endpoint, EndpointService
	PendingExpiry int    // hours after which a waiting request is rejected; 0: never
	Protected     bool   // cannot be deleted
	Demo          bool
	Version       int64
	CreatedAt     time.Time
	UpdatedAt     time.Time
}

// ServiceName is what consumers paste: unique, and it tells the region.
func (s Service) ServiceName() string { return "com.aliyuncs.privatelink." + s.RegionID + "." + s.ID }

// ServiceResource attaches a load balancer to a service for one zone.
type ServiceResource struct {
	ServiceID      string `gorm:"primaryKey"`
	LoadBalancerID string `gorm:"primaryKey"`
	ZoneID         string `gorm:"primaryKey"`
	AccountID      string
	AutoAllocate   bool // given to new endpoint zones
}

// ServiceUser is an entry of a whitelist.
type ServiceUser struct {
	ServiceID     string `gorm:"primaryKey"`
	UserAccountID string `gorm:"primaryKey"` // 16 digits, or "*" for every account
	AccountID     string // the provider
	AutoAccept    bool   // accept this account without asking: our addition
	Note          string
	AddedBy       string // name of the user
	CreatedAt     time.Time
}
