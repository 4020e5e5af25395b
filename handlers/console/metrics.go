package console

import (
	"context"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/observe"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

func (k *Console) metricsArea(r router) {
	r.get("/endpoints/:id/metrics", func(c echo.Context, s *domain.Scope) error {
		e, err := s.Endpoint(c.Request().Context(), c.Param("id"))
		if err != nil {
			return err
		}
		return k.metrics(c, s, endpointPath, "Endpoints", e.Name, s.EndpointSeries)
	})
	r.get("/services/:id/metrics", func(c echo.Context, s *domain.Scope) error {
		svc, err := s.Service(c.Request().Context(), c.Param("id"))
		if err != nil {
			return err
		}
		return k.metrics(c, s, servicePath, "Endpoint services", svc.Name, s.ServiceSeries)
	})
	r.get("/load-balancers/:id/metrics", func(c echo.Context, s *domain.Scope) error {
		b, err := s.LoadBalancer(c.Request().Context(), c.Param("id"))
		if err != nil {
			return err
		}
		return k.metrics(c, s, balancerPath, "Load balancers", b.Name, s.LoadBalancerSeries)
	})
}

// spansOfMetrics are what a page of metrics can show, the first without being asked;
// with about a hundred points each.
var spansOfMetrics = []struct {
	key, label string
	span       domain.SeriesSpan
}{
	{"", "Last hour", domain.SeriesSpan{For: time.Hour, Step: 30 * time.Second}},
	{"15m", "15 minutes", domain.SeriesSpan{For: 15 * time.Minute, Step: 10 * time.Second}},
	{"6h", "6 hours", domain.SeriesSpan{For: 6 * time.Hour, Step: 5 * time.Minute}},
	{"24h", "24 hours", domain.SeriesSpan{For: 24 * time.Hour, Step: 15 * time.Minute}},
}

// charts say which metrics stand together.
var charts = []struct {
	title, unit string
	names       []string
}{
	{"Throughput", "bit/s", []string{"InBps", "OutBps"}},
	{"Open flows", "", []string{"ActiveConnection"}},
	{"New and refused flows", "/s", []string{"NewConnection", "DropConnection", "SecurityGroupDenied"}},
	{"Share of the bandwidth limit", "%", []string{"BandwidthUtilization"}},
	{"Unhealthy targets", "", []string{"UnhealthyServerCount"}},
	{"Zones are healthy", "", []string{"ZoneHealthy"}},
}

func (k *Console) metrics(c echo.Context, s *domain.Scope, path, list, name string, read func(context.Context, string, domain.SeriesSpan) (domain.Series, error)) error {
	id := c.Param("id")
	p := k.page(c, s, "Metrics of "+name, path)
	p.Charts = true
	chosen := spansOfMetrics[0]
	m := observe.Metrics{
		Crumbs: []ui.Crumb{{Label: list, Href: p.URL(path)}, {Label: name, Href: p.URL(path + "/" + id)}, {Label: "Metrics"}},
		Title:  p.Title, Lead: "In is from consumer to service. Rates are means of a step, levels its highest.",
	}
	for _, x := range spansOfMetrics {
		if x.key == c.QueryParam("span") {
			chosen = x
		}
	}
	for _, x := range spansOfMetrics {
		href := p.URL(path + "/" + id + "/metrics")
		if x.key != "" {
			href += "?span=" + x.key
		}
		m.Spans = append(m.Spans, ui.Tab{Label: x.label, Href: href, Current: x.key == chosen.key})
	}
	got, err := read(c.Request().Context(), id, chosen.span)
	if err != nil {
		return err
	}
	m.Times = got.Times
	for _, x := range charts {
		chart := observe.Chart{Title: x.title, Unit: x.unit}
		for _, name := range x.names {
			for _, l := range got.Lines {
				if l.Name == name {
					chart.Lines = append(chart.Lines, observe.Line(l))
				}
			}
		}
		if len(chart.Lines) > 0 {
			m.Charts = append(m.Charts, chart)
		}
	}
	page := observe.MetricsPage(p, m)
	return show(c, page, page)
}
