package console

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/observe"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

// tabFlows is the tab of flow records.
const tabFlows = "flows"

func (k *Console) flowArea(r router) {
	r.get("/endpoints/:id/flows.jsonl", func(c echo.Context, s *domain.Scope) error {
		return k.exportFlows(c, s, endpointPath, s.ExportEndpointFlows)
	})
	r.get("/services/:id/flows.jsonl", func(c echo.Context, s *domain.Scope) error {
		return k.exportFlows(c, s, servicePath, s.ExportServiceFlows)
	})
}

// flowKeys are the filters of a list of flow records.
var flowKeys = []string{"tab", "action", "reason", "within", "endpoint"}

// flowQuery is what the list's state selects.
func (k *Console) flowQuery(l listing) domain.FlowQuery {
	q := domain.FlowQuery{
		After: l.after, Before: l.before, Limit: pageSize, Endpoint: l.get("endpoint"), Action: l.get("action"), Reason: l.get("reason"),
		Source: wholeRange(l.get("q")),
	}
	if d, err := time.ParseDuration(l.get("within")); err == nil && d > 0 {
		q.From = time.Now().Add(-d)
	}
	return q
}

// wholeRange completes the beginning of an IPv4 address, as it is while one types,
// to the range that begins so: 10.0. to 10.0.0.0/16.
func wholeRange(text string) string {
	text = strings.TrimSuffix(text, "/")
	parts := strings.Split(strings.TrimSuffix(text, "."), ".")
	if len(parts) > 3 || strings.Trim(text, "0123456789.") != "" || text == "" {
		return text
	}
	whole := strings.Join(append(slices.Clone(parts), "0", "0", "0")[:4], ".") + "/" + strconv.Itoa(8*len(parts))
	if _, err := netip.ParsePrefix(whole); err != nil {
		return text
	}
	return whole
}

// spans are the times that a list can be narrowed to.
var spans = []ui.Option{{Label: "Any time"}, {Value: "15m", Label: "Last 15 minutes"}, {Value: "1h", Label: "Last hour"}, {Value: "24h", Label: "Last 24 hours"}}

func flowFilters(l listing) []ui.FilterSelect {
	reasons := []ui.Option{{Label: "Any reason"}}
	for _, r := range domain.FlowReasons {
		reasons = append(reasons, ui.Option{Value: r.Reason, Label: strings.ToUpper(r.Words[:1]) + r.Words[1:]})
	}
	out := []ui.FilterSelect{
		{Name: "action", Label: "Verdict", Value: l.get("action"), Options: []ui.Option{{Label: "Any verdict"}, {Value: "accept", Label: "Passed"}, {Value: "reject", Label: "Refused"}}},
		{Name: "reason", Label: "Reason", Value: l.get("reason"), Options: reasons},
		{Name: "within", Label: "Time", Value: l.get("within"), Options: spans},
	}
	if id := l.get("endpoint"); id != "" {
		out = append(out, ui.FilterSelect{Name: "endpoint", Label: "Connection", Value: id, Options: []ui.Option{{Label: "All connections"}, {Value: id, Label: "Only " + id}}})
	}
	return out
}

// flowList fills in what the endpoint's and the service's list have in common.
func (k *Console) flowList(l listing, got domain.Page[domain.Flow], v observe.FlowList) observe.FlowList {
	for _, f := range got.Items {
		v.Rows = append(v.Rows, flowRow(f))
	}
	frame := v.Frame()
	frame.Filter.Selects, frame.Filter.Keep = flowFilters(l), pairs("tab", tabFlows)
	v.List = l.fill(frame, ids(v.Rows, func(r observe.Flow) string { return "flow-" + r.ID }), got.Prev, got.Next)
	v.List.Filtered = l.filtered("tab")
	q := maps.Clone(l.query)
	q.Del("tab")
	v.Export = l.url + "/flows.jsonl" + encoded(q)
	return v
}

func flowRow(f domain.Flow) observe.Flow {
	text := func(a netip.AddrPort) string {
		switch {
		case !a.IsValid():
			return "–"
		case a.Port() == 0: // that is not known
			return a.Addr().String()
		}
		return a.String()
	}
	r := observe.Flow{
		ID: strconv.FormatUint(f.Seq, 10), End: f.End, Source: text(f.Source), Address: text(f.Address), Zone: f.Zone, In: f.In, Out: f.Out,
		State: ui.State{Kind: ui.OK, Word: "Passed", Title: f.Reason}, Why: f.Why(), Lasted: duration(f.End.Sub(f.Start)),
	}
	switch {
	case !f.Accepted:
		r.State.Kind, r.State.Word = ui.Bad, "Refused"
	case f.Window:
		r.State.Kind, r.State.Word = ui.Info, "Goes on"
	}
	if f.Client.IsValid() {
		r.Client = f.Client.String()
	}
	return r
}

// endpointFlows is the tab of an endpoint's flows, and the state of its list.
func (k *Console) endpointFlows(c echo.Context, s *domain.Scope, d *domain.EndpointDetail) (observe.FlowList, error) {
	l := readList(c, s, endpointPath+"/"+d.ID, flowKeys...)
	l.query.Del("endpoint")
	l.query.Set("tab", tabFlows)
	got, err := s.EndpointFlows(c.Request().Context(), d.ID, k.flowQuery(l))
	if err != nil {
		return observe.FlowList{}, err
	}
	v := k.flowList(l, got, observe.FlowList{})
	for i, f := range got.Items {
		rule := ruleLink(s, f, d.Groups)
		v.Rows[i].Rule = ui.Crumb{Label: rule.Label, Href: rule.Href}
	}
	return v, nil
}

// serviceFlows is the tab of a service's flows, and the state of its list.
func (k *Console) serviceFlows(c echo.Context, s *domain.Scope, id string) (observe.FlowList, error) {
	ctx := c.Request().Context()
	l := readList(c, s, servicePath+"/"+id, flowKeys...)
	l.query.Set("tab", tabFlows)
	got, err := s.ServiceFlows(ctx, id, k.flowQuery(l))
	if err != nil {
		return observe.FlowList{}, err
	}
	v := k.flowList(l, got, observe.FlowList{Provider: true})
	names := map[string]string{}
	for i, f := range got.Items {
		v.Rows[i].Endpoint = ui.Crumb{Label: f.EndpointID}
		if f.ConsumerID == "" {
			continue // the connection is deleted
		}
		v.Rows[i].Endpoint.Href = in(s, connectionPath, "/", f.EndpointID)
		if _, ok := names[f.ConsumerID]; !ok {
			names[f.ConsumerID] = s.AccountName(ctx, f.ConsumerID)
		}
		v.Rows[i].Who = names[f.ConsumerID]
	}
	return v, nil
}

// exportPatience is how long a browser may take for exportLines lines of an export.
const (
	exportPatience = 30 * time.Second
	exportLines    = 1000
)

// exportFlows sends the records that the list's filters select, as they are read.
func (k *Console) exportFlows(c echo.Context, s *domain.Scope, path string, export func(context.Context, string, domain.FlowQuery, func(domain.FlowLine) error) error) error {
	id := c.Param("id")
	q := k.flowQuery(readList(c, s, path+"/"+id, flowKeys...))
	w := c.Response()
	rc := http.NewResponseController(w)
	begin := func() {
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.Header().Set("Content-Disposition", `attachment; filename="flows-`+id+`.jsonl"`)
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusOK)
	}
	lines := 0
	out := json.NewEncoder(w)
	err := export(c.Request().Context(), id, q, func(l domain.FlowLine) error {
		if lines == 0 {
			begin() // until here it may still fail as a page
		}
		if lines++; lines%exportLines == 1 {
			_ = rc.SetWriteDeadline(time.Now().Add(exportPatience)) // a long export takes longer than a page
			_ = rc.Flush()
		}
		return out.Encode(l)
	})
	switch {
	case err != nil && lines > 0 && c.Request().Context().Err() == nil:
		_ = out.Encode(map[string]string{"error": "INCOMPLETE: the records could not be read to their end"})
	case err == nil && lines == 0:
		begin()
	}
	return err
}
