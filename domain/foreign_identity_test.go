package domain_test

import (
	"context"
	"testing"

	"github.com/openprivatelink/openprivatelink/domain"
)

func init() {
	register(func(t *testing.T, f *fixture) {
		t.Helper()
		f.id["account"] = f.Provider.Account().ID
		member := f.As(f.Provider.Account().ID, domain.RoleNetwork)
		f.id["owner"], f.id["member"] = f.Provider.User().ID, member.User().ID
		f.guest = f.World.User().Name
		key, _, err := f.Provider.CreateAccessKey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		f.id["access key"] = key.ID
	}, map[string]trial{
		"Account": creates("", func(_ context.Context, s *domain.Scope, _ *fixture) (any, error) { return s.Account(), nil }),
		"User":    creates("", func(_ context.Context, s *domain.Scope, _ *fixture) (any, error) { return s.User(), nil }),
		"Role":    creates("", func(_ context.Context, s *domain.Scope, _ *fixture) (any, error) { return s.Role(), nil }),
		"Can":     creates("", func(_ context.Context, s *domain.Scope, _ *fixture) (any, error) { return s.Can(domain.ReadAudit), nil }),
		"AccountName": creates("", func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.AccountName(ctx, f.id["account"]), nil
		}),
		"Regions": creates(domain.ReadNetwork, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) { return s.Regions(ctx) }),
		"Quotas":  creates(domain.ReadAccount, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) { return s.Quotas(ctx) }),
		"Members": lists(domain.ReadAccount, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) { return s.Members(ctx) }, "owner", "member"),
		"AddMember": creates(domain.WriteAccount, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return nil, s.AddMember(ctx, f.guest, domain.RoleAuditor)
		}),
		"SetRole": refuses(domain.WriteAccount, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.SetRole(ctx, f.id["member"], domain.RoleAuditor)
		}),
		"RemoveMember": refuses(domain.WriteAccount, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.RemoveMember(ctx, f.id["member"])
		}),
		"AccessKeys": lists(domain.ReadAccount, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) { return s.AccessKeys(ctx) }, "access key"),
		"CreateAccessKey": creates(domain.WriteAccount, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) {
			key, _, err := s.CreateAccessKey(ctx)
			return key, err
		}),
		"DisableAccessKey": refuses(domain.WriteAccount, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			return s.DisableAccessKey(ctx, f.id["access key"])
		}),
		"Audit": lists(domain.ReadAudit, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) {
			return s.Audit(ctx, domain.AuditQuery{})
		}, "account", "access key"),
		"Audit/page": lists(domain.ReadAudit, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) {
			p, err := s.Audit(ctx, domain.AuditQuery{Query: domain.Query{Limit: 1}})
			if err != nil {
				return nil, err
			}
			return s.Audit(ctx, domain.AuditQuery{Query: domain.Query{After: p.Next}})
		}, "account"),
		"Audit/resource": lists(domain.ReadAudit, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.Audit(ctx, domain.AuditQuery{ResourceID: f.id["access key"]})
		}, "access key"),
		"Audit/actor": lists(domain.ReadAudit, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.Audit(ctx, domain.AuditQuery{Actor: f.Provider.User().Name})
		}, "access key"),
		"Audit/action": lists(domain.ReadAudit, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) {
			return s.Audit(ctx, domain.AuditQuery{Action: "CreateAccessKey"})
		}, "access key"),
		"Audit/text": lists(domain.ReadAudit, func(ctx context.Context, s *domain.Scope, f *fixture) (any, error) {
			return s.Audit(ctx, domain.AuditQuery{Query: domain.Query{Text: f.id["access key"]}})
		}, "access key"),
		"AuditEvent": refuses(domain.ReadAudit, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			p, err := f.Provider.Audit(ctx, domain.AuditQuery{})
			if err != nil {
				return err
			}
			_, err = s.AuditEvent(ctx, p.Items[0].Seq)
			return err
		}),
		"VerifyAudit": creates(domain.ReadAudit, func(ctx context.Context, s *domain.Scope, _ *fixture) (any, error) { return s.VerifyAudit(ctx) }),
		"Once": refuses(domain.WriteAccount, func(ctx context.Context, s *domain.Scope, f *fixture) error {
			_, _, err := s.Once(ctx, "form-token-of-the-test", "DisableAccessKey", "", func(ctx context.Context) (string, error) {
				return "", s.DisableAccessKey(ctx, f.id["access key"])
			})
			return err
		}),
	})
}
