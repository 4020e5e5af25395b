package domaintest

import (
	"testing"

	"github.com/openprivatelink/openprivatelink/domain"
)

func TestWorld(t *testing.T) {
	w := New(t)
	for name, s := range map[string]*domain.Scope{"provider": w.Provider, "consumer": w.Consumer, "stranger": w.Stranger} {
		if s.Account().Name != name || s.Role() != domain.RoleOwner {
			t.Errorf("%s: got %s of %s", name, s.Role(), s.Account().Name)
		}
	}
	if s := w.As(w.Provider.Account().ID, domain.RoleAuditor); s.Role() != domain.RoleAuditor || s.Account().ID != w.Provider.Account().ID {
		t.Errorf("got %s of %s, want auditor of provider", s.Role(), s.Account().Name)
	}
	rs, err := w.Stranger.Regions(t.Context())
	if err != nil || len(rs) != 1 || len(rs[0].Zones) != 2 {
		t.Errorf("regions: %v, %v", rs, err)
	}
}
