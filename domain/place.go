package domain

// Site is a cloud of its own accounts, e.g. "china" and "international".
type Site struct {
	ID   string `gorm:"primaryKey"`
	Name string
}

// Region is a place with zones.
type Region struct {
	ID       string `gorm:"primaryKey"` // e.g. cn-hangzhou
	Name     string
	Mainland bool // in the Chinese mainland: cross-site rules depend on it
}

// Zone is a failure domain of a region.
type Zone struct {
	ID       string `gorm:"primaryKey"` // e.g. cn-hangzhou-h
	RegionID string
	Name     string
}
