package console

import (
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/a-h/templ"
	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/audit"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

func (k *Console) auditArea(r router) {
	r.get("/audit", k.audit)
	r.get("/audit/:seq", k.auditEntry)
	r.get("/audit.csv", k.auditCSV)
}

// auditKeys are the filters of a trail.
var auditKeys = []string{"actor", "action", "resource"}

func auditQuery(l listing) domain.AuditQuery {
	return domain.AuditQuery{Query: l.domain(), ResourceID: l.get("resource"), Actor: l.get("actor"), Action: l.get("action")}
}

// auditSource is where a trail is read: an account's, or the installation's.
type auditSource struct {
	url     string // of the list
	entries func(context.Context, domain.AuditQuery) (domain.Page[domain.AuditEvent], error)
	verify  func(context.Context) (domain.AuditCheck, error)
	peer    func(ctx context.Context, account string) string // its name
}

func trailOf(s *domain.Scope) auditSource {
	return auditSource{in(s, "/audit"), s.Audit, s.VerifyAudit, s.AccountName}
}

// verifyAtOnce is how many entries a trail has at most to be checked on each view.
const verifyAtOnce = 1000

// auditTrail is the page of a trail that the list's state selects.
func auditTrail(c echo.Context, src auditSource, l listing) (audit.Trail, domain.Page[domain.AuditEvent], error) {
	ctx := c.Request().Context()
	var v audit.Trail
	got, err := src.entries(ctx, auditQuery(l))
	if err != nil {
		return v, got, err
	}
	for _, e := range got.Items {
		v.Rows = append(v.Rows, entryRow(ctx, src, e))
	}
	v.Export = l.url + ".csv" + encoded(l.query)
	v.Chain.URL = l.url + "?verify=1"
	newest := int64(0)
	if len(got.Items) > 0 && l.after == "" && l.before == "" && !l.filtered() {
		newest = got.Items[0].Seq
	}
	if c.QueryParams().Has("verify") || (newest > 0 && newest <= verifyAtOnce) {
		check, err := src.verify(ctx)
		if err != nil {
			return v, got, err
		}
		v.Chain.Checked, v.Chain.Entries, v.Chain.Broken = true, check.Entries, check.BrokenAt
	}
	actions := ui.FilterSelect{Name: "action", Label: "Action", Value: l.get("action"), Options: []ui.Option{{Label: "All actions"}}}
	for _, a := range auditActions {
		actions.Options = append(actions.Options, ui.Option{Value: a, Label: actionWords(a)})
	}
	v.Selects = append(v.Selects, actions)
	if id := l.get("resource"); id != "" {
		v.Selects = append(v.Selects, ui.FilterSelect{Name: "resource", Label: "Resource", Value: id, Options: []ui.Option{{Label: "All resources"}, {Value: id, Label: "Only " + id}}})
	}
	return v, got, nil
}

func (k *Console) audit(c echo.Context, s *domain.Scope) error {
	ctx := c.Request().Context()
	p := k.page(c, s, "Audit trail", "/audit")
	l := readList(c, s, "/audit", auditKeys...)
	v, got, err := auditTrail(c, trailOf(s), l)
	if err != nil {
		return err
	}
	members, err := s.Members(ctx)
	if err != nil {
		return err
	}
	v.Title, v.Lead = "Audit trail", "Every change in this account: who made it, when, from where, and what it was before."
	v.Selects = append([]ui.FilterSelect{actors(l, members)}, v.Selects...)
	v.List = l.fill(v.Frame(), ids(v.Rows, rowOfEntry), got.Prev, got.Next)
	return list(c, v.List, audit.Page(p, v), audit.Results(v))
}

// auditActions are all actions that a trail knows; a test compares them with the
// store's.
var auditActions = []string{
	"AcceptConnection", "AcceptZone", "AddEndpointZone", "AddListener", "AddLoadBalancerZone", "AddMember", "AddResource",
	"AddSecurityGroupRule", "AddServer", "AddToWhitelist", "AllocateResource", "AttachmentDown", "AttachmentUp", "AutoAcceptConnection",
	"ChangePassword", "CloseReplaced", "ConnectionDeleted", "CreateAccessKey", "CreateAccount", "CreateAttachment", "CreateEndpoint",
	"CreateLoadBalancer", "CreateOffer", "CreateRegion", "CreateSecurityGroup", "CreateServerGroup", "CreateService", "CreateSignInLink",
	"CreateSite", "CreateUser", "CreateVPC", "CreateVSwitch", "CreateZone", "CutConnection", "DeleteAttachment", "DeleteEndpoint",
	"DeleteListener", "DeleteLoadBalancer", "DeleteOffer", "DeleteSecurityGroup", "DeleteSecurityGroupRule", "DeleteServerGroup",
	"DeleteService", "DeleteVPC", "DeleteVSwitch", "DisableAccessKey", "DisableUser", "EnableUser", "EndpointDeleted", "EndpointReady",
	"ExpireConnection", "ModifyConnection", "MoveResource", "RejectConnection", "RejectZone", "RemoveDemo", "RemoveEndpointZone",
	"RemoveFromWhitelist", "RemoveLoadBalancerZone", "RemoveMember", "RemoveResource", "RemoveServer", "RenameVPC", "ReplaceResource",
	"ReplaceRoutes", "RequestConnection", "ResumeAccount", "ServiceDeleted", "ServiceZoneDown", "ServiceZoneUp", "SetAttachmentGroups",
	"SetPassword", "SetQuota", "SetRole", "SetWhitelistEntry", "SignIn", "SignInByLink", "SignOut", "SignOutEverywhere", "SuspendAccount",
	"TestEndpoint", "UndoDecision", "UpdateEndpoint", "UpdateListener", "UpdateLoadBalancer", "UpdateLoadBalancerZone", "UpdateResource",
	"UpdateSecurityGroup", "UpdateSecurityGroupRule", "UpdateServer", "UpdateServerGroup", "UpdateService", "VPCDown", "VPCUp",
}

func rowOfEntry(e audit.Entry) string { return strconv.FormatInt(e.Seq, 10) }

// actors is the filter by who did it: the account's people, the product itself,
// and who is chosen now, who may be neither.
func actors(l listing, members []domain.Member) ui.FilterSelect {
	f := ui.FilterSelect{Name: "actor", Label: "Actor", Value: l.get("actor"), Options: []ui.Option{{Label: "All actors"}}}
	for _, m := range members {
		f.Options = append(f.Options, ui.Option{Value: m.User.ID, Label: cmp.Or(m.User.DisplayName, m.User.Name)})
	}
	f.Options = append(f.Options, ui.Option{Value: domain.ActorEngine, Label: "Data plane"}, ui.Option{Value: domain.ActorSystem, Label: "OpenPrivateLink"})
	if !slices.ContainsFunc(f.Options, func(o ui.Option) bool { return o.Value == f.Value }) {
		f.Options = append(f.Options, ui.Option{Value: f.Value, Label: f.Value})
	}
	return f
}

// entryRow is an entry as it is shown.
func entryRow(ctx context.Context, src auditSource, e domain.AuditEvent) audit.Entry {
	only := func(key, value string) string { return src.url + "?" + key + "=" + url.QueryEscape(value) }
	v := audit.Entry{
		URL: src.url + "/" + strconv.FormatInt(e.Seq, 10), Seq: e.Seq, Time: e.Time,
		Actor:  ui.Crumb{Label: actorName(e)},
		Action: ui.Crumb{Label: actionWords(e.Action), Href: only("action", e.Action)},
		Kind:   kindWords(e.ResourceKind), Resource: ui.Crumb{Label: cmp.Or(e.ResourceName, e.ResourceID)},
		ID: e.ResourceID, Channel: e.Channel, Source: e.SourceIP, Request: e.RequestID, Changes: changesOf(e.Before, e.After), Hash: e.Hash,
	}
	if e.ResourceID != "" {
		v.Resource.Href = only("resource", e.ResourceID)
	}
	switch e.ActorKind {
	case domain.ActorEngine, domain.ActorSystem:
		v.Actor.Href = only("actor", e.ActorKind)
	case domain.ActorPeer:
		v.Actor = ui.Crumb{Label: cmp.Or(src.peer(ctx, e.ActorID), e.ActorID), Href: only("actor", e.ActorID)}
		v.Who = "the other side"
	case domain.ActorOperator:
		v.Who = "operator"
		fallthrough
	default:
		if e.ActorID != "" {
			v.Actor.Href = only("actor", e.ActorID)
		}
	}
	return v
}

// kindWords is a kind of object in words: "route table".
func kindWords(kind string) string {
	switch kind {
	case domain.KindVPC:
		return "VPC"
	case domain.KindVSwitch:
		return "vSwitch"
	}
	return strings.ReplaceAll(kind, "_", " ")
}

// spaced puts a space between the words of CreateVPC, VPCUp or HostIP.
func spaced(camel string) string {
	var b strings.Builder
	r := []rune(strings.ReplaceAll(camel, "VSwitch", "Vswitch"))
	for i, c := range r {
		if i > 0 && unicode.IsUpper(c) && (unicode.IsLower(r[i-1]) || (i+1 < len(r) && unicode.IsLower(r[i+1]))) {
			b.WriteByte(' ')
		}
		b.WriteRune(c)
	}
	return b.String()
}

// actionWords writes AcceptConnection as "Accept connection" and CreateVSwitch as
// "Create vSwitch".
func actionWords(action string) string {
	words := strings.Fields(spaced(action))
	for i, w := range words {
		switch {
		case w == "Vswitch":
			words[i] = "vSwitch"
		case i > 0 && w != strings.ToUpper(w):
			words[i] = strings.ToLower(w)
		}
	}
	return strings.Join(words, " ")
}

// zeroes are what need not be told of an object that is new, or gone.
var zeroes = []string{"", "0", "false", "[]", "{}"}

// changesOf compares what was written down of an object before and after, field by
// field.
func changesOf(before, after string) []ui.Change {
	b, a := auditFields(before), auditFields(after)
	var out []ui.Change
	for _, name := range slices.Sorted(maps.Keys(merge(b, a))) {
		c := ui.Change{Name: fieldWords(name), Before: fieldText(b[name]), After: fieldText(a[name])}
		made, gone := b == nil && slices.Contains(zeroes, c.After), a == nil && slices.Contains(zeroes, c.Before)
		if c.Before != c.After && !made && !gone {
			out = append(out, c)
		}
	}
	return out
}

func auditFields(text string) map[string]any {
	var fields map[string]any
	if err := json.Unmarshal([]byte(text), &fields); err != nil && text != "" {
		return map[string]any{"value": text}
	}
	return fields
}

func merge(a, b map[string]any) map[string]any {
	out := maps.Clone(a)
	if out == nil {
		out = map[string]any{}
	}
	maps.Copy(out, b)
	return out
}

// fieldWords writes HostIP and host_port in the same way: "host ip", "host port".
func fieldWords(name string) string {
	return strings.ToLower(strings.ReplaceAll(spaced(name), "_", " "))
}

// fieldText is a value of an entry in one line; nothing is "".
func fieldText(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case []any:
		parts := make([]string, len(v))
		for i, x := range v {
			parts[i] = fieldText(x)
		}
		return strings.Join(parts, ", ")
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

// ---- one entry

func (k *Console) auditEntry(c echo.Context, s *domain.Scope) error {
	ctx := c.Request().Context()
	p := k.page(c, s, "Audit entry", "/audit")
	seq, err := strconv.ParseInt(c.Param("seq"), 10, 64)
	if err != nil {
		return echo.ErrNotFound
	}
	e, err := s.AuditEvent(ctx, seq)
	if err != nil {
		return err
	}
	v := entryRow(ctx, trailOf(s), *e)
	v.Open = k.whereabouts(ctx, s, e.ResourceKind, e.ResourceID)
	page := audit.EntryPage(p, ui.Crumb{Label: "Audit trail", Href: p.URL("/audit")}, v)
	return show(c, page, page)
}

// nouns are the paths of the kinds of objects that have a page.
var nouns = map[string]string{
	domain.KindVPC: "vpcs", domain.KindAttachment: "attachments", domain.KindRouteTable: "route-tables", domain.KindGroup: "security-groups",
	domain.KindLoadBalancer: "load-balancers", domain.KindServerGroup: "server-groups", domain.KindService: "services", domain.KindEndpoint: "endpoints", domain.KindConnection: "connections",
}

// whereabouts is the page of an object, "" if it has none or is gone.
func (k *Console) whereabouts(ctx context.Context, s *domain.Scope, kind, id string) string {
	noun := nouns[kind]
	has := k.resources[noun]
	if noun == "" || has == nil || has(ctx, s, id) != nil {
		return ""
	}
	return in(s, "/", noun, "/", id)
}

// history is the trail of one object, for a tab of its page.
func (k *Console) history(c echo.Context, s *domain.Scope, id string) (templ.Component, error) {
	ctx := c.Request().Context()
	src := trailOf(s)
	got, err := src.entries(ctx, domain.AuditQuery{ResourceID: id})
	if err != nil {
		return nil, err
	}
	rows := make([]audit.Entry, len(got.Items))
	for i, e := range got.Items {
		rows[i] = entryRow(ctx, src, e)
	}
	return audit.Entries("Latest entries", rows, trail(s, id)), nil
}

// ---- export

var csvHeader = []string{
	"entry", "time", "actor_kind", "actor_id", "actor", "action", "resource_kind", "resource_id", "resource", "channel", "source_ip",
	"request_id", "before", "after", "hash",
}

func (k *Console) auditCSV(c echo.Context, s *domain.Scope) error {
	return exportTrail(c, trailOf(s), readList(c, s, "/audit", auditKeys...), s.Account().ID)
}

// exportTrail sends the entries that the list's filters select, page by page, so
// that a long trail takes no memory.
func exportTrail(c echo.Context, src auditSource, l listing, name string) error {
	ctx := c.Request().Context()
	q := auditQuery(l)
	q.After, q.Before, q.Limit = "", "", 200
	got, err := src.entries(ctx, q) // before the header: it may still fail as a page
	if err != nil {
		return err
	}
	w := c.Response()
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="audit-`+name+`.csv"`)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	out := csv.NewWriter(w)
	_ = out.Write(csvHeader) // errors come out of Flush
	for {
		for _, e := range got.Items {
			_ = out.Write(csvRecord(e))
		}
		out.Flush()
		if out.Error() != nil {
			return nil //nolint:nilerr // the browser is gone
		}
		_ = rc.SetWriteDeadline(time.Now().Add(csvPatience)) // a long trail may take longer than a page
		_ = rc.Flush()
		if got.Next == "" {
			return nil
		}
		q.After = got.Next
		if got, err = src.entries(ctx, q); err != nil {
			_ = out.Write([]string{"INCOMPLETE: the trail could not be read to its end"})
			out.Flush()
			return err
		}
	}
}

// csvPatience is how long a browser may take for one page of an export.
const csvPatience = 30 * time.Second

func csvRecord(e domain.AuditEvent) []string {
	record := []string{
		strconv.FormatInt(e.Seq, 10), e.Time.UTC().Format(time.RFC3339Nano), e.ActorKind, e.ActorID, e.ActorName, e.Action, e.ResourceKind,
		e.ResourceID, e.ResourceName, e.Channel, e.SourceIP, e.RequestID, e.Before, e.After, e.Hash,
	}
	for i, cell := range record {
		record[i] = csvCell(cell)
	}
	return record
}

// csvCell keeps a spreadsheet from taking text for a formula.
func csvCell(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r\n", rune(s[0])) {
		return "'" + s
	}
	return s
}
