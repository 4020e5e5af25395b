package domain_test

import (
	"strings"
	"testing"

	"github.com/openprivatelink/openprivatelink/domain"
)

// TestBytesThatAreNoText sends what PostgreSQL would not take as text: it names
// nothing, on either database.
func TestBytesThatAreNoText(t *testing.T) {
	c := newCampus(t)
	ctx, p := t.Context(), c.Provider
	a := c.managed(t, c.h, "web", "")
	for _, s := range []string{"\x00", "a\xff", "sg-\x00"} {
		for name, call := range map[string]func() error{
			"id": func() error {
				_, err := p.VPC(ctx, s)
				return err
			},
			"zone": func() error {
				_, err := p.CreateVSwitch(ctx, c.vpc.ID, domain.VSwitchInput{ZoneID: s, CIDR: "10.0.9.0/24"})
				return err
			},
			"groups": func() error { return p.SetAttachmentGroups(ctx, a.ID, []string{s}, 0) },
			"next hop": func() error {
				_, err := p.PlanRoutes(ctx, must(p.VPC(ctx, c.vpc.ID))(t).RouteTableID, []domain.RouteInput{{Destination: "0.0.0.0/0", NextHopID: s}})
				return err
			},
		} {
			if err := call(); domain.KindOf(err) != domain.NotFound {
				t.Errorf("%s %q: got %v, want NotFound", name, s, err)
			}
		}
		for _, q := range []domain.Query{{Text: s}, {Filter: map[string][]string{"vpc": {s}}}} {
			if page, err := p.Attachments(ctx, q); err != nil || len(page.Items) != 0 {
				t.Errorf("%+v: got %d rows and %v, want none", q, len(page.Items), err)
			}
		}
	}
	if page, err := p.VPCs(ctx, domain.Query{Text: strings.Repeat("x", 1<<20)}); err != nil || len(page.Items) != 0 {
		t.Errorf("a very long text: got %d rows and %v, want none", len(page.Items), err)
	}
}
