package domain

import (
	"context"
	"fmt"
	"slices"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// Quota raises or lowers a limit for one account; see limits.
type Quota struct {
	AccountID string `gorm:"primaryKey"`
	Name      string `gorm:"primaryKey"`
	Value     int
}

// limit of an account.
type limit struct {
	name, label string
	value       int    // unless a row of Quota says otherwise
	used        string // SQL with one ? for the account
}

// limits of an account. One per something is used as much as the something that
// has most.
var limits = []limit{
	{"vpcs", "VPCs", 50, "SELECT count(*) FROM vpcs WHERE account_id = ?"},
	{"vswitches_per_vpc", "vSwitches in a VPC", 50, most("vpcs", "vswitches", "vpc_id")},
	{"security_groups", "security groups", 100, "SELECT count(*) FROM security_groups WHERE account_id = ?"},
	{"rules_per_group", "rules in a security group", 200, most("security_groups", "security_rules", "group_id")},
	{"groups_per_attachment", "security groups of an attachment", 5, most("attachments", "attachment_groups", "attachment_id")},
	{"attachments_per_vpc", "attachments in a VPC", 200, most("vpcs", "attachments", "vpc_id")},
	{"load_balancers", "load balancers", 50, "SELECT count(*) FROM load_balancers WHERE account_id = ?"},
	{"listeners_per_balancer", "listeners of a load balancer", 50, most("load_balancers", "listeners", "load_balancer_id")},
	{"server_groups", "server groups", 500, "SELECT count(*) FROM server_groups WHERE account_id = ?"},
	{"servers_per_group", "targets in a server group", 200, most("server_groups", "servers", "server_group_id")},
	{"services", "endpoint services", 200, "SELECT count(*) FROM services WHERE account_id = ?"},
	{"resources_per_service", "resources of an endpoint service", 500, most("services", "service_resources", "service_id")},
	{"whitelist_per_service", "accounts on a whitelist", 1000, most("services", "service_users", "service_id")},
	{"endpoints_per_vpc", "endpoints in a VPC", 1000, most("vpcs", "endpoints", "vpc_id")},
	{"routes_per_table", "routes in a route table", 200, most("route_tables", "routes", "table_id")},
}

// most counts the children of the account's parent that has most of them.
func most(parents, children, key string) string {
	return "SELECT COALESCE(MAX(n), 0) FROM (SELECT (SELECT count(*) FROM " + children + " c WHERE c." + key +
		" = p.id) AS n FROM " + parents + " p WHERE p.account_id = ?) counted"
}

// QuotaUse is a limit and how much of it is used.
type QuotaUse struct {
	Name        string
	Label       string
	Used, Limit int
}

// Quotas returns the limits of the account and how far they are used.
func (s *Scope) Quotas(ctx context.Context) ([]QuotaUse, error) {
	db, err := s.read(ctx, ReadAccount)
	if err != nil {
		return nil, err
	}
	return quotaUses(db, s.account.ID)
}

// Quotas returns the limits of an account and how far they are used.
func (o *Operator) Quotas(ctx context.Context, account string) ([]QuotaUse, error) {
	db := o.store.handle(ctx)
	if err := find(db, KindAccount, &Account{}, "id = ?", account); err != nil {
		return nil, err
	}
	return quotaUses(db, account)
}

func quotaUses(db *gorm.DB, account string) ([]QuotaUse, error) {
	var own []Quota
	if err := db.Where("account_id = ?", account).Find(&own).Error; err != nil {
		return nil, fmt.Errorf("read quotas: %w", err)
	}
	out := make([]QuotaUse, len(limits))
	for i, l := range limits {
		out[i] = QuotaUse{Name: l.name, Label: l.label, Limit: l.value}
		if err := db.Raw(l.used, account).Scan(&out[i].Used).Error; err != nil {
			return nil, fmt.Errorf("count %s: %w", l.name, err)
		}
		if j := slices.IndexFunc(own, func(q Quota) bool { return q.Name == l.name }); j >= 0 {
			out[i].Limit = own[j].Value
		}
	}
	return out, nil
}

// SetQuota gives an account a limit of its own; a negative value takes it back.
// What exceeds a lower limit stays.
func (o *Operator) SetQuota(ctx context.Context, account, name string, value int) error {
	if !slices.ContainsFunc(limits, func(l limit) bool { return l.name == name }) {
		return invalid("name", "invalid_quota", "There is no quota of this name.")
	}
	return o.write(ctx, func(t *tx) error {
		a, err := t.tenant(account)
		if err != nil {
			return err
		}
		row := Quota{AccountID: account, Name: name, Value: value}
		if value < 0 {
			err = t.Where("account_id = ? AND name = ?", account, name).Delete(&Quota{}).Error
		} else {
			err = t.Clauses(clause.OnConflict{UpdateAll: true}).Create(&row).Error
		}
		if err != nil {
			return fmt.Errorf("set quota: %w", err)
		}
		return t.concerns(account, "SetQuota", KindAccount, account, a.Name, nil, map[string]any{name: value})
	})
}

// quota refuses one more of what the account has used of already.
func (t *tx) quota(account, name string, used int64) error {
	var own []Quota
	if err := t.Where("account_id = ? AND name = ?", account, name).Find(&own).Error; err != nil {
		return fmt.Errorf("read quota: %w", err)
	}
	i := slices.IndexFunc(limits, func(l limit) bool { return l.name == name })
	if i < 0 {
		return fmt.Errorf("check quota: there is none of the name %q", name)
	}
	value := limits[i].value
	if len(own) > 0 {
		value = own[0].Value
	}
	if used < int64(value) {
		return nil
	}
	return fail(Limit, "quota_"+name, "The limit of %s is %d, and this would make %d. An operator can raise it.", limits[i].label, value, used+1)
}
