package domain

import "time"

// LoadBalancer is an NLB of an account.
type LoadBalancer struct {
	ID        string `gorm:"primaryKey"`
	AccountID string
	RegionID  string
	VPCID     string
	Type      string // nlb
	Name      string
	CrossZone bool // send to servers of every zone, not only of the one that a flow came in by
	Demo      bool
	Version   int64
	CreatedAt time.Time
}

// LoadBalancerZone is its presence in a zone: one address of a vSwitch there,
// which clients of the VPC dial and which servers see as the source.
type LoadBalancerZone struct {
	LoadBalancerID string `gorm:"primaryKey"`
	ZoneID         string `gorm:"primaryKey"`
	AccountID      string
	VSwitchID      string
	Address        string
}

// Listener of a load balancer.
type Listener struct {
	ID             string `gorm:"primaryKey"`
	AccountID      string
	LoadBalancerID string
	Protocol       string // tcp
	Port           int    // 1 to 65535, unique per load balancer and protocol
	ServerGroupID  string
	IdleTimeout    int // seconds, 10 to 900
}

// ServerGroup is a set of targets in one VPC, and how they are checked.
type ServerGroup struct {
	ID                 string `gorm:"primaryKey"`
	AccountID          string
	VPCID              string
	Name               string
	Scheduler          string // wrr
	HealthEnabled      bool
	HealthPort         int // 0: the server's own
	HealthInterval     int // seconds
	HealthTimeout      int // seconds
	HealthyThreshold   int
	UnhealthyThreshold int
	Demo               bool
	Version            int64
	CreatedAt          time.Time
}

// Server is a target of a group.
type Server struct {
	ID            string `gorm:"primaryKey"`
	AccountID     string
	ServerGroupID string
	AttachmentID  string // a workload of the VPC or a host service; or
	Address       string // an address of the VPC
	Port          int
	Weight        int // 0 to 100; 0 gets no new flows
	ZoneID        string

	Health       string // unknown, healthy, unhealthy: as last observed
	HealthReason string
	HealthSince  time.Time
}
