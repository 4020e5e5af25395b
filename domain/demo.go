package domain

import (
	"context"
	"fmt"
	"strings"
)

// demoAccounts is a condition's set of the accounts that the demo made.
const demoAccounts = "(SELECT id FROM accounts WHERE demo)"

// demoUsers are the users that the demo made. Those who run the installation stay.
const demoUsers = "(SELECT id FROM users WHERE demo AND NOT operator)"

// demoRows is what is deleted with the demo, children before parents.
var demoRows = []struct{ table, where string }{
	{"connections", "consumer_id IN " + demoAccounts},
	{"endpoint_zones", "account_id IN " + demoAccounts},
	{"endpoint_groups", "account_id IN " + demoAccounts},
	{"endpoints", "account_id IN " + demoAccounts},
	{"service_users", "account_id IN " + demoAccounts + " OR user_account_id IN " + demoAccounts},
	{"service_resources", "account_id IN " + demoAccounts},
	{"services", "account_id IN " + demoAccounts},
	{"servers", "account_id IN " + demoAccounts},
	{"listeners", "account_id IN " + demoAccounts},
	{"server_groups", "account_id IN " + demoAccounts},
	{"load_balancer_zones", "account_id IN " + demoAccounts},
	{"load_balancers", "account_id IN " + demoAccounts},
	{"routes", "account_id IN " + demoAccounts},
	{"route_tables", "account_id IN " + demoAccounts},
	{"attachment_groups", "account_id IN " + demoAccounts},
	{"attachments", "account_id IN " + demoAccounts},
	{"security_rules", "account_id IN " + demoAccounts},
	{"security_groups", "account_id IN " + demoAccounts},
	{"addresses", "vpc_id IN (SELECT id FROM vpcs WHERE account_id IN " + demoAccounts + ")"},
	{"vswitches", "account_id IN " + demoAccounts},
	{"vpcs", "account_id IN " + demoAccounts},
	{"offers", "(demo OR account_id IN " + demoAccounts + ") AND NOT EXISTS (SELECT 1 FROM attachments WHERE offer_id = offers.id)"},
	{"quota", "account_id IN " + demoAccounts},
	{"form_tokens", "account_id IN " + demoAccounts},
	{"access_keys", "account_id IN " + demoAccounts + " OR user_id IN " + demoUsers},
	{"memberships", "account_id IN " + demoAccounts + " OR user_id IN " + demoUsers},
	{"sessions", "user_id IN " + demoUsers},
	{"sign_in_links", "user_id IN " + demoUsers},
	{"users", "id IN " + demoUsers},
	{"audit_events", "account_id IN " + demoAccounts},
	{"audit_heads", "account_id IN " + demoAccounts},
	{"accounts", "demo"},
}

// demoStale is what the engine has to forget with the demo.
var demoStale = []struct{ kind, table string }{
	{KindEndpoint, "endpoints"}, {KindLoadBalancer, "load_balancers"}, {KindServerGroup, "server_groups"}, {KindGroup, "security_groups"}, {KindVPC, "vpcs"},
}

// RemoveDemo deletes the accounts and users that the demo made and everything of
// theirs, trails included, in one transaction. A user of the demo who is an
// operator stays, and so does an offer that others use. It does nothing where there
// is no demo.
//
// Errors: Conflict, reason "demo_in_use", if endpoints of other accounts are
// connected to services of the demo; the message names them.
func (o *Operator) RemoveDemo(ctx context.Context) error {
	return o.write(ctx, func(t *tx) error {
		var accounts []Account
		if err := t.Where("demo").Order("id").Find(&accounts).Error; err != nil {
			return fmt.Errorf("read accounts of the demo: %w", err)
		}
		for _, a := range accounts {
			if _, err := t.lock(a.ID); err != nil {
				return err
			}
			t.touched(a.ID, KindAccount, a.ID)
		}
		if err := t.leaveDemo(); err != nil {
			return err
		}
		for _, s := range demoStale {
			var ids []string
			if err := t.Table(s.table).Where("account_id IN "+demoAccounts).Order("id").Pluck("id", &ids).Error; err != nil {
				return fmt.Errorf("read %s of the demo: %w", s.table, err)
			}
			t.stale(s.kind, ids...)
		}
		var deleted int64
		for _, d := range demoRows {
			res := t.Exec("DELETE FROM " + d.table + " WHERE " + d.where)
			if res.Error != nil {
				return fmt.Errorf("delete %s of the demo: %w", d.table, res.Error)
			}
			deleted += res.RowsAffected
		}
		for _, table := range []string{"users", "offers"} {
			if err := t.Exec("UPDATE " + table + " SET demo = false WHERE demo").Error; err != nil {
				return fmt.Errorf("keep %s: %w", table, err)
			}
		}
		if deleted == 0 {
			return nil
		}
		ids := make([]string, len(accounts))
		for i, a := range accounts {
			ids[i] = a.ID
		}
		return t.audit("RemoveDemo", KindAccount, "", "", map[string]any{"accounts": ids, "rows": deleted}, nil)
	})
}

// leaveDemo takes the demo's services away from the endpoints of other accounts,
// and its endpoints from the services of others.
func (t *tx) leaveDemo() error {
	var in, out []Connection
	err := t.Where("provider_id IN " + demoAccounts + " AND consumer_id NOT IN " + demoAccounts).Order("endpoint_id").Find(&in).Error
	if err != nil {
		return fmt.Errorf("read connections to the demo: %w", err)
	}
	var live []string
	for _, c := range in {
		switch c.Status {
		case ServiceDeleted, Deleting:
		case Disconnected:
			l, err := t.lockLink(KindConnection, "endpoint_id = ?", c.EndpointID)
			if err != nil {
				return err
			}
			if err := t.move(l, ServiceGone, nil, nil); err != nil {
				return err
			}
			if err := t.auditIn(l.AccountID, "ServiceDeleted", KindEndpoint, l.ID, l.Name, map[string]any{"status": c.Status}, map[string]any{"status": l.Connection.Status}); err != nil {
				return err
			}
		default:
			live = append(live, c.EndpointID+" of account "+c.ConsumerID)
		}
	}
	if n := len(live); n > 0 {
		if n > maxNamedUses {
			live = append(live[:maxNamedUses], fmt.Sprintf("%d more", n-maxNamedUses))
		}
		return fail(Conflict, "demo_in_use", "Endpoints of other accounts are connected to services of the demo: %s. Delete them or reject their connections first.", strings.Join(live, ", "))
	}
	err = t.Where("consumer_id IN " + demoAccounts + " AND provider_id NOT IN " + demoAccounts).Order("endpoint_id").Find(&out).Error
	if err != nil {
		return fmt.Errorf("read connections of the demo: %w", err)
	}
	for _, c := range out {
		t.touched(c.ProviderID, KindConnection, c.EndpointID)
		t.touched(c.ProviderID, KindService, c.ServiceID)
		if err := t.auditIn(c.ProviderID, "ConnectionDeleted", KindConnection, c.EndpointID, "", nil, nil); err != nil {
			return err
		}
	}
	return nil
}
