package console

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/PuerkitoBio/goquery"

	"github.com/openprivatelink/openprivatelink/domain"
)

// offer makes an offer for every account.
func (n *netWorld) offer(t *testing.T, in domain.OfferInput) *domain.Offer {
	t.Helper()
	o, err := n.Operator.CreateOffer(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestAttachmentKinds(t *testing.T) {
	n := newNetwork(t)
	at := account(n.Provider) + "/attachments/new?vpc=" + n.provide.vpc.ID
	cards := func(d *goquery.Document) map[string]string {
		out := map[string]string{}
		d.Find("label.choice:has([name=source])").Each(func(_ int, c *goquery.Selection) {
			in := c.Find("input")
			text := words(c)
			if _, off := in.Attr("disabled"); off {
				text = "off: " + text
			}
			out[in.AttrOr("value", "")] = text
		})
		return out
	}
	bare := cards(n.page(t, n.provider, at))
	for _, kind := range []string{domain.AttachAdopted, domain.AttachInterface, domain.AttachHost, domain.AttachPort} {
		if !strings.HasPrefix(bare[kind], "off: ") || !strings.Contains(bare[kind], "No operator has offered you one.") {
			t.Errorf("%s without an offer: %q", kind, bare[kind])
		}
	}
	host := n.offer(t, domain.OfferInput{Label: "billing database", Kind: domain.AttachHost, HostIP: "127.0.0.1", PortFrom: 5432, PortTo: 5432})
	port := n.offer(t, domain.OfferInput{Label: "front door", Kind: domain.AttachPort, HostIP: "127.0.0.1", PortFrom: 8000, PortTo: 8009})
	ns := n.offer(t, domain.OfferInput{Label: "container web", Kind: domain.AttachAdopted, Path: "/run/netns/web", Inode: 1})
	offered := cards(n.page(t, n.provider, at))
	if got := offered["host_service:"+host.ID]; got != "billing database Host service at 127.0.0.1, port 5432" {
		t.Errorf("host service: %q", got)
	}

	made := func(change url.Values) *goquery.Document {
		t.Helper()
		return n.moved(t, n.provider, n.press(t, n.provider, at, "form#attachment", change))
	}
	d := made(url.Values{"source": {"host_service:" + host.ID}, "name": {"pg"}}) // the vSwitch that the browser sends along is not wanted
	for _, want := range []string{"Host service", "billing database", "5,432"} {
		if !strings.Contains(words(d.Find("main")), want) {
			t.Errorf("host service: no %q in %q", want, words(d.Find("main")))
		}
	}
	if strings.Contains(d.Text(), "openprivatelink exec") {
		t.Error("nothing can be run in a host service")
	}
	d = made(url.Values{"source": {"published_port:" + port.ID}, "host_port": {"8001"}, "target_ip": {"172.20.1.77"}, "target_port": {"80"}})
	if !strings.Contains(words(d.Find("main")), "172.20.1.77:80") {
		t.Errorf("published port: %q", words(d.Find("main")))
	}
	made(url.Values{"source": {"adopted:" + ns.ID}})
	if got := cards(n.page(t, n.provider, at))["adopted:"+ns.ID]; !strings.HasPrefix(got, "off: ") || !strings.Contains(got, "in use") {
		t.Errorf("an adopted namespace: %q", got)
	}
}

func TestAttachmentFormKeepsWhatWasTyped(t *testing.T) {
	n := newNetwork(t)
	at := account(n.Provider) + "/attachments/new?vpc=" + n.provide.vpc.ID
	res := n.press(t, n.provider, at, "form#attachment", url.Values{
		"name": {"web"}, "address": {"172.20.9.9"}, "vswitch_id": {n.provide.switches[0].ID}, "group_ids": {n.group.ID},
	})
	d := res.doc(t)
	if res.StatusCode != http.StatusUnprocessableEntity || d.Find("#attachment-address-err").Length() != 1 {
		t.Fatalf("outside the vSwitch: %d", res.StatusCode)
	}
	_, v := filled(t, d, "form#attachment")
	for name, want := range map[string]string{"name": "web", "address": "172.20.9.9", "vswitch_id": n.provide.switches[0].ID, "group_ids": n.group.ID, "source": "managed"} {
		if v.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, v.Get(name), want)
		}
	}
	if res := n.press(t, n.provider, at, "form#attachment", url.Values{"source": {"host_service:off-nothing"}}); res.doc(t).Find("#attachment-source-err").Length() != 1 {
		t.Errorf("an offer that is none: %d", res.StatusCode)
	}
	d = n.moved(t, n.provider, n.press(t, n.provider, at, "form#attachment", url.Values{"name": {"web"}, "group_ids": {n.group.ID}}))
	if got := words(d.Find("pre")); got != "openprivatelink exec web -- sh" {
		t.Errorf("command: %q", got)
	}
	if !strings.Contains(words(d.Find(".aside")), "sg-web") {
		t.Error("the group is not there")
	}
}

func TestChooseVPCFirst(t *testing.T) {
	n := newNetwork(t)
	at := account(n.Provider) + "/attachments/new"
	if d := n.page(t, n.provider, at); d.Find("form#attachment").Length() != 1 {
		t.Error("with one VPC there is nothing to choose")
	}
	if _, err := n.Provider.CreateVPC(t.Context(), domain.VPCInput{Name: "second", RegionID: n.provide.vpc.RegionID, CIDR: "10.0.0.0/16"}); err != nil {
		t.Fatal(err)
	}
	d := n.page(t, n.provider, at)
	if d.Find("select[name=vpc] option").Length() != 2 {
		t.Errorf("the VPCs are not offered: %q", words(d.Find("main")))
	}
	stranger := n.as(t, n.Stranger, domain.RoleOwner)
	if d := n.page(t, stranger, account(n.Stranger)+"/attachments/new"); d.Find("main a[href$='/vpcs/new']").Length() != 1 {
		t.Errorf("without a VPC: %q", words(d.Find("main")))
	}
}

func TestAttachmentPage(t *testing.T) {
	n := newNetwork(t)
	id := n.provide.attachment.ID
	at := account(n.Provider) + "/attachments/" + id
	d := n.page(t, n.provider, at)
	for _, want := range []string{"Attaching", "172.20.1.", "openprivatelink exec backend-one -- sh", "8080", "10.9.0.0/16", "In no security group."} {
		if !strings.Contains(words(d.Find("main")), want) {
			t.Errorf("no %q in %q", want, words(d.Find("main")))
		}
	}
	res := n.press(t, n.provider, at+"?edit=groups", "form#groups", url.Values{"group_ids": {n.group.ID}})
	if d := n.moved(t, n.provider, res); d.Find(".aside a[href$='/"+n.group.ID+"']").Length() != 1 {
		t.Errorf("groups: %q", words(d.Find(".aside")))
	}
	res = n.post(t, n.provider, at+"/groups", url.Values{"account": {n.Provider.Account().ID}, "version": {"1"}})
	if res.StatusCode != http.StatusConflict {
		t.Errorf("an old form: got %d, want 409", res.StatusCode)
	}
	d = n.page(t, n.provider, at+"/delete")
	if uses := words(d.Find("main ul")); d.Find("main form").Length() != 0 || !strings.Contains(uses, "port 8080") || !strings.Contains(uses, "10.9.0.0/16") {
		t.Errorf("in use: %q", uses)
	}
	if res := n.post(t, n.provider, at+"/delete", url.Values{"account": {n.Provider.Account().ID}}); res.StatusCode != http.StatusConflict {
		t.Errorf("deleting it all the same: got %d", res.StatusCode)
	}

	// What the engine says arrives in the open page.
	err := n.Store.System().Report(t.Context(), domain.Report{Attachments: []domain.ObjectReport{{ID: id, Up: true}}})
	if err != nil {
		t.Fatal(err)
	}
	patch, err := n.console.attachmentChanged(t.Context(), n.Provider, id)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := patch.Render(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); !strings.Contains(got, `id="`+liveID(domain.KindAttachment, id)+`"`) || !strings.Contains(got, `id="state-`+id+`"`) || strings.Count(got, "Attached") != 2 {
		t.Errorf("patch: %s", got)
	}
}

func TestAttachmentLists(t *testing.T) {
	n := newNetwork(t)
	n.offer(t, domain.OfferInput{Label: "db", Kind: domain.AttachHost, HostIP: "127.0.0.1", PortFrom: 5432, PortTo: 5432})
	for _, at := range []string{account(n.Provider) + "/attachments", account(n.Provider) + "/vpcs/" + n.provide.vpc.ID + "/attachments"} {
		if got := n.page(t, n.provider, at).Find("[data-testid=attachment]").Length(); got != 1 {
			t.Errorf("%s: %d rows", at, got)
		}
		if got := n.page(t, n.provider, at+"?kind=adopted").Find("[data-testid=attachment]").Length(); got != 0 {
			t.Errorf("%s, adopted: %d rows", at, got)
		}
		d := n.page(t, n.provider, at+"?kind=managed&q=backend")
		if got := d.Find("[data-testid=attachment]").AttrOr("id", ""); got != liveID(domain.KindAttachment, n.provide.attachment.ID) {
			t.Errorf("%s, filtered: %q", at, got)
		}
		if got := d.Find("select[name=kind] [selected]").AttrOr("value", ""); got != "managed" {
			t.Errorf("%s: the filter shows %q", at, got)
		}
	}
}

func TestShellWord(t *testing.T) {
	for name, want := range map[string]string{"web-1": "web-1", "a b": "att-1", "x;reboot": "att-1", "$(id)": "att-1", "-x": "att-1", "Ünicode": "att-1"} {
		if got := shellWord(domain.Attachment{ID: "att-1", Name: name}); got != want {
			t.Errorf("shellWord(%q) = %q, want %q", name, got, want)
		}
	}
}
