package console

import (
	"net/http"
	"strings"
	"testing"

	"github.com/openprivatelink/openprivatelink/domain"
)

// Each side reads what was counted of what is its own, as charts that are tables.
func TestMetricsPages(t *testing.T) {
	w := newLinkWorld(t)
	w.connect(t)
	stranger := w.as(t, w.Stranger, domain.RoleOwner)
	for _, x := range []struct {
		b      *http.Client
		s      *domain.Scope
		path   string
		charts int
		has    string
		hasNot string
	}{
		{w.consumer, w.Consumer, "/endpoints/" + w.endpoint.ID, 4, "SecurityGroupDenied", "UnhealthyServerCount"},
		{w.provider, w.Provider, "/services/" + w.service.ID, 3, "DropConnection", "SecurityGroupDenied"},
		{w.provider, w.Provider, "/load-balancers/" + w.balancer.ID, 5, "UnhealthyServerCount", "SecurityGroupDenied"},
	} {
		if w.page(t, x.b, account(x.s)+x.path).Find("a[href='"+account(x.s)+x.path+"/metrics']").Length() == 0 {
			t.Errorf("%s does not lead to its metrics", x.path)
		}
		for _, span := range []string{"", "?span=15m", "?span=24h", "?span=nonsense"} {
			d := w.page(t, x.b, account(x.s)+x.path+"/metrics"+span)
			figures := d.Find("figure[data-chart]")
			if figures.Length() != x.charts || d.Find("[data-testid=point]").Length() != 2*x.charts {
				t.Errorf("%s%s: %d charts with %d rows", x.path, span, figures.Length(), d.Find("[data-testid=point]").Length())
			}
			text := words(figures)
			if !strings.Contains(text, x.has) || strings.Contains(text, x.hasNot) {
				t.Errorf("%s%s reads %q", x.path, span, text)
			}
			if got := figures.First().Find("td[data-value]").Eq(2).Text(); got != "8 kbit/s" {
				t.Errorf("throughput %q", got)
			}
			if d.Find("script[src*='uplot']").Length() != 1 || d.Find("script[src*='charts']").Length() != 1 {
				t.Error("nothing draws the charts")
			}
		}
		if res := w.get(t, stranger, account(x.s)+x.path+"/metrics"); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s for a stranger: %d", x.path, res.StatusCode)
		}
		if res := w.get(t, stranger, account(w.Stranger)+x.path+"/metrics"); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s in a stranger's account: %d", x.path, res.StatusCode)
		}
	}
}
