package domain_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
)

func TestWhatAnInstallationHas(t *testing.T) {
	w := domaintest.New(t)
	ctx := t.Context()
	if _, err := w.Provider.CreateVPC(ctx, domain.VPCInput{RegionID: domaintest.Region, CIDR: "10.0.0.0/16"}); err != nil {
		t.Fatal(err)
	}
	got, err := w.Operator.Census(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(domain.Census{Accounts: 3, Users: 3, Regions: 1, Zones: 2, VPCs: 1}, got); diff != "" {
		t.Errorf("census: -want +got\n%s", diff)
	}
	if _, err := w.Operator.Engine(ctx); domain.KindOf(err) != domain.Conflict {
		t.Errorf("without an engine: %v", err)
	}

	id, owner := w.Provider.Account().ID, w.Provider.User()
	a, members, err := w.Operator.Account(ctx, id)
	if err != nil || a.Name != "provider" || len(members) != 1 || members[0].User.ID != owner.ID || members[0].Role != domain.RoleOwner {
		t.Errorf("account: %+v, %+v, %v", a, members, err)
	}
	for _, ref := range []string{owner.Name, owner.ID} {
		u, accounts, err := w.Operator.User(ctx, ref)
		if err != nil || u.ID != owner.ID || u.PasswordHash != "" || len(accounts) != 1 || accounts[0].Account.ID != id {
			t.Errorf("user %s: %+v, %+v, %v", ref, u, accounts, err)
		}
	}
	if e, err := w.Operator.AuditEvent(ctx, 1); err != nil || e.Seq != 1 {
		t.Errorf("first entry: %+v, %v", e, err)
	}
	for what, err := range map[string]error{
		"account": errorOf(w.Operator.Account(ctx, "1999999999999999")),
		"user":    errorOf(w.Operator.User(ctx, "nobody")),
	} {
		if domain.KindOf(err) != domain.NotFound {
			t.Errorf("unknown %s: %v", what, err)
		}
	}
	if _, err := w.Operator.AuditEvent(ctx, 1<<40); domain.KindOf(err) != domain.NotFound {
		t.Errorf("unknown entry: %v", err)
	}
}

func errorOf[A, B any](_ A, _ B, err error) error { return err }
