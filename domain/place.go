package domain

import (
	"context"
	"fmt"
	"strings"

	"gorm.io/gorm"
)

// Site is a cloud of its own accounts, e.g. "china" and "international". A new
// store has one, [DefaultSite].
type Site struct {
	ID   string `gorm:"primaryKey"`
	Name string
}

// DefaultSite is the site of accounts that name none.
const DefaultSite = "default"

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

// RegionZones is a region and its zones.
type RegionZones struct {
	Region Region
	Zones  []Zone
}

// Regions returns every region and its zones, by id.
func (s *Scope) Regions(ctx context.Context) ([]RegionZones, error) {
	db, err := s.read(ctx, ReadNetwork)
	if err != nil {
		return nil, err
	}
	return regions(db)
}

// Regions returns every region and its zones, by id.
func (o *Operator) Regions(ctx context.Context) ([]RegionZones, error) {
	return regions(o.store.handle(ctx))
}

func regions(db *gorm.DB) ([]RegionZones, error) {
	var rs []Region
	if err := db.Order("id").Find(&rs).Error; err != nil {
		return nil, fmt.Errorf("list regions: %w", err)
	}
	var zs []Zone
	if err := db.Order("region_id, id").Find(&zs).Error; err != nil {
		return nil, fmt.Errorf("list zones: %w", err)
	}
	out := make([]RegionZones, len(rs))
	for i, r := range rs {
		out[i].Region = r
		for _, z := range zs {
			if z.RegionID == r.ID {
				out[i].Zones = append(out[i].Zones, z)
			}
		}
	}
	return out, nil
}

// Sites returns every site, by id.
func (o *Operator) Sites(ctx context.Context) ([]Site, error) {
	var out []Site
	if err := o.store.handle(ctx).Order("id").Find(&out).Error; err != nil {
		return nil, fmt.Errorf("list sites: %w", err)
	}
	return out, nil
}

// SiteInput describes a new site.
type SiteInput struct {
	ID, Name string // a Name of "" is the ID
}

// CreateSite adds a site, for accounts of another cloud.
func (o *Operator) CreateSite(ctx context.Context, in SiteInput) (*Site, error) {
	id, err := validSlug("id", in.ID)
	if err != nil {
		return nil, err
	}
	name, err := validLabel(in.Name, id)
	if err != nil {
		return nil, err
	}
	site := &Site{ID: id, Name: name}
	err = o.write(ctx, func(t *tx) error {
		if err := t.vacant(KindSite, &Site{}, "id = ?", id); err != nil {
			return err
		}
		if err := t.Create(site).Error; err != nil {
			return fmt.Errorf("create site: %w", err)
		}
		return t.audit("CreateSite", KindSite, site.ID, site.Name, nil, site)
	})
	if err != nil {
		return nil, err
	}
	return site, nil
}

// RegionInput describes a new region.
type RegionInput struct {
	ID, Name string // a Name of "" is the ID
	Mainland bool
}

// CreateRegion adds a region without zones.
func (o *Operator) CreateRegion(ctx context.Context, in RegionInput) (*Region, error) {
	id, err := validSlug("id", in.ID)
	if err != nil {
		return nil, err
	}
	name, err := validLabel(in.Name, id)
	if err != nil {
		return nil, err
	}
	r := &Region{ID: id, Name: name, Mainland: in.Mainland}
	err = o.write(ctx, func(t *tx) error {
		if err := t.vacant(KindRegion, &Region{}, "id = ?", id); err != nil {
			return err
		}
		if err := t.Create(r).Error; err != nil {
			return fmt.Errorf("create region: %w", err)
		}
		return t.audit("CreateRegion", KindRegion, r.ID, r.Name, nil, r)
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// ZoneInput describes a new zone.
type ZoneInput struct {
	ID, RegionID, Name string // the ID begins with the region's; a Name of "" is the ID
}

// CreateZone adds a zone to a region.
func (o *Operator) CreateZone(ctx context.Context, in ZoneInput) (*Zone, error) {
	id, err := validSlug("id", in.ID)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(id, in.RegionID) {
		return nil, invalid("id", "invalid_id", "The id of a zone begins with its region's, %s.", in.RegionID)
	}
	name, err := validLabel(in.Name, id)
	if err != nil {
		return nil, err
	}
	z := &Zone{ID: id, RegionID: in.RegionID, Name: name}
	err = o.write(ctx, func(t *tx) error {
		if err := find(t.DB, KindRegion, &Region{}, "id = ?", z.RegionID); err != nil {
			return err
		}
		if err := t.vacant(KindZone, &Zone{}, "id = ?", id); err != nil {
			return err
		}
		if err := t.Create(z).Error; err != nil {
			return fmt.Errorf("create zone: %w", err)
		}
		return t.audit("CreateZone", KindZone, z.ID, z.Name, nil, z)
	})
	if err != nil {
		return nil, err
	}
	return z, nil
}

func validLabel(name, id string) (string, error) {
	if strings.TrimSpace(name) == "" {
		return id, nil
	}
	return validName("name", name)
}
