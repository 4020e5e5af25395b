package console

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/admin"
	"github.com/openprivatelink/openprivatelink/web/audit"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

func (k *Console) adminArea(r router) {
	r.adminGet("", k.installation)
	r.adminGet("/accounts", k.accounts)
	r.adminGet("/accounts/new", k.newAccount)
	r.adminPost("/accounts/new", k.createAccount)
	r.adminGet("/accounts/:id", k.account)
	r.adminGet("/accounts/:id/suspend", k.askSuspend)
	r.adminPost("/accounts/:id/suspend", k.suspend)
	r.adminPost("/accounts/:id/resume", k.resume)
	r.adminPost("/accounts/:id/members", k.addMember)
	r.adminPost("/accounts/:id/members/:user/remove", k.removeMember)
	r.adminPost("/accounts/:id/quotas", k.setQuota)
	r.adminGet("/users", k.users)
	r.adminGet("/users/new", k.newUser)
	r.adminPost("/users/new", k.createUser)
	r.adminGet("/users/:id", k.user)
	r.adminPost("/users/:id/accounts", k.joinAccount)
	r.adminPost("/users/:id/password", k.setPassword)
	r.adminPost("/users/:id/link", k.signInLink)
	r.adminGet("/users/:id/disable", k.askDisable)
	r.adminPost("/users/:id/disable", k.disable)
	r.adminPost("/users/:id/enable", k.enable)
	r.adminGet("/offers", k.offers)
	r.adminGet("/offers/new", k.newOffer)
	r.adminPost("/offers/new", k.createOffer)
	r.adminGet("/offers/:id/delete", k.askDeleteOffer)
	r.adminPost("/offers/:id/delete", k.deleteOffer)
	r.adminGet("/places", k.places)
	r.adminPost("/places/sites", k.createSite)
	r.adminPost("/places/regions", k.createRegion)
	r.adminPost("/places/zones", k.createZone)
	r.adminGet("/audit", k.adminAudit)
	r.adminGet("/audit/:seq", k.adminAuditEntry)
	r.adminGet("/audit.csv", k.adminAuditCSV)
}

// showAdmin is the form as a component sees it on a page for operators.
func (f *form) showAdmin(id, action string) ui.Form {
	return ui.Form{ID: id, Action: action, Values: f.values, Errors: f.errors}
}

func good(title string) ui.Note { return ui.Note{Kind: ui.OK, Title: title} }

// ---- the installation

func (k *Console) installation(c echo.Context, o *domain.Operator) error {
	ctx := c.Request().Context()
	p := k.adminPage(c, "Installation", "/admin")
	n, err := o.Census(ctx)
	if err != nil {
		return err
	}
	v := admin.Overview{Figures: []ui.Figure{
		{Label: "Accounts", Value: ui.Number(n.Accounts), Note: ui.Plural(n.Services, "service", "") + ", " + ui.Plural(n.Endpoints, "endpoint", ""), Href: "/admin/accounts"},
		{Label: "Users", Value: ui.Number(n.Users), Href: "/admin/users"},
		{Label: "Regions", Value: ui.Number(n.Regions), Note: ui.Plural(n.Zones, "zone", ""), Href: "/admin/places"},
		{Label: "Offers", Value: ui.Number(n.Offers), Note: ui.Plural(n.VPCs, "VPC", "") + ", " + ui.Plural(n.Attachments, "attachment", ""), Href: "/admin/offers"},
	}}
	if v.Steps, err = k.firstSteps(c, o, n); err != nil {
		return err
	}
	v.Engine = engineView(k.Network, n)
	st, err := o.Engine(ctx)
	if err != nil {
		v.Engine.State = ui.State{Kind: ui.Bad, Word: "Does not answer", Title: failureOf(err).Text}
	} else {
		v.Engine.State = ui.State{Kind: ui.OK, Word: "Running"}
		v.Engine.Version, v.Engine.PID, v.Engine.Flows, v.Engine.Started = st.Version, st.PID, st.Flows, st.Started
		v.Engine.Mode, v.Engine.Reason = cmp.Or(modes[st.Mode], st.Mode), st.Reason
	}
	page := admin.OverviewPage(p, v)
	return show(c, page, page)
}

// modes are the words for how the engine makes VPCs.
var modes = map[string]string{
	"netns": "Network namespaces, as root", "userns": "Network namespaces in a user namespace", "loopback": "Loopback addresses, no isolation",
}

func engineView(n Network, c domain.Census) admin.Engine {
	return admin.Engine{Mode: cmp.Or(modes[n.Mode], n.Mode), Reason: n.Reason, Failed: c.Failed}
}

// firstSteps lead from an empty installation to an account that somebody can use;
// there are none once there is one.
func (k *Console) firstSteps(c echo.Context, o *domain.Operator, n domain.Census) ([]ui.CheckLine, error) {
	mine, err := k.memberOf(c)
	if err != nil || (n.Zones > 0 && n.Accounts > 0) {
		return nil, err
	}
	step := func(done bool, title, text, do, href string) ui.CheckLine {
		if done {
			return ui.CheckLine{Kind: ui.OK, Title: title, Text: text, Value: "done"}
		}
		return ui.CheckLine{Kind: ui.Waiting, Title: title, Text: text, Value: do, Href: href}
	}
	open, do := "/admin/accounts", "See accounts"
	if len(mine) > 0 {
		open, do = "/a/"+mine[0].ID, "Open "+mine[0].Name
	}
	last := step(false, "Work in the account", "Make a VPC there, publish a service or connect to one.", do, open)
	if n.Accounts == 0 {
		last.Kind, last.Value, last.Href = ui.Off, "comes last", ""
	}
	return []ui.CheckLine{
		step(n.Zones > 0, "Add a region with zones", "VPCs are made in regions, and connect zone by zone.", "Add region", "/admin/places"),
		step(n.Accounts > 0, "Create an account with an owner", "Take yourself as the owner to begin at once.", "Create account", "/admin/accounts/new"),
		last,
	}, nil
}

// memberOf are the accounts of whoever is signed in to this browser.
func (k *Console) memberOf(c echo.Context) ([]domain.Account, error) {
	who, err := k.Sessions.Identities(c)
	if err != nil {
		return nil, err
	}
	var out []domain.Account
	for _, i := range who {
		for _, a := range i.Accounts() {
			out = append(out, a.Account)
		}
	}
	return out, nil
}

// operatorName is the name for sign-in of the operator who asks.
func (k *Console) operatorName(c echo.Context) string {
	who, err := k.Sessions.Identities(c)
	if err != nil {
		return ""
	}
	for _, i := range who {
		if i.Operator() {
			return i.User().Name
		}
	}
	return ""
}

// ---- accounts

func accountState(state string) ui.State {
	if state == domain.AccountActive {
		return ui.State{Kind: ui.OK, Word: "Active"}
	}
	return ui.State{Kind: ui.Warn, Word: "Suspended"}
}

func accountView(a domain.Account) admin.Account {
	return admin.Account{
		URL: "/admin/accounts/" + a.ID, ID: a.ID, Name: a.Name, State: accountState(a.State), Site: a.SiteID, Demo: a.Demo, Created: a.CreatedAt,
	}
}

func (k *Console) accounts(c echo.Context, o *domain.Operator) error {
	p := k.adminPage(c, "Accounts", "/admin/accounts")
	l := readListAt(c, "/admin/accounts")
	got, err := o.Accounts(c.Request().Context(), l.domain())
	if err != nil {
		return err
	}
	var v admin.Accounts
	for _, a := range got.Items {
		v.Rows = append(v.Rows, accountView(a))
	}
	v.List = l.fill(v.Frame(), ids(v.Rows, func(a admin.Account) string { return a.ID }), got.Prev, got.Next)
	return list(c, v.List, admin.AccountsPage(p, v), admin.AccountsResults(v))
}

func (k *Console) newAccount(c echo.Context, o *domain.Operator) error {
	f := newForm()
	f.set("owner", cmp.Or(c.QueryParam("owner"), k.operatorName(c)))
	f.set("site_id", domain.DefaultSite)
	return k.accountForm(c, o, f)
}

func (k *Console) accountForm(c echo.Context, o *domain.Operator, f *form) error {
	ctx := c.Request().Context()
	p := k.adminPage(c, "Create account", "/admin/accounts")
	v := admin.AccountForm{Form: f.showAdmin("account", "/admin/accounts/new")}
	sites, err := o.Sites(ctx)
	if err != nil {
		return err
	}
	for _, s := range sites {
		v.Sites = append(v.Sites, ui.Option{Value: s.ID, Label: s.Name})
	}
	if v.Users, err = userOptions(ctx, o); err != nil {
		return err
	}
	return showForm(c, f, admin.AccountFormPage(p, v), admin.NewAccount(v))
}

// userOptions are suggestions: the users who can sign in.
func userOptions(ctx context.Context, o *domain.Operator) ([]ui.Option, error) {
	users, err := every(ctx, o.Users, domain.Query{})
	if err != nil {
		return nil, err
	}
	var out []ui.Option
	for _, u := range users {
		if !u.Disabled {
			out = append(out, ui.Option{Value: u.Name, Label: u.DisplayName})
		}
	}
	return out, nil
}

func roleOptions() []ui.Option {
	texts := map[domain.Role]string{
		domain.RoleOwner: "owner: everything", domain.RoleProvider: "provider: services and connections", domain.RoleConsumer: "consumer: endpoints",
		domain.RoleNetwork: "network: VPCs, routes, security groups", domain.RoleAuditor: "auditor: read only",
	}
	out := make([]ui.Option, len(domain.Roles))
	for i, r := range domain.Roles {
		out[i] = ui.Option{Value: string(r), Label: texts[r]}
	}
	return out
}

// createAccount makes an account and its owner. The owner comes first: what went
// well is found again when the form is sent once more.
func (k *Console) createAccount(c echo.Context, o *domain.Operator) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	what := domain.AccountInput{Name: f.text("name"), ID: f.text("account_id"), SiteID: f.text("site_id")}
	owner := strings.ToLower(f.required("owner", "An account needs somebody who can work in it."))
	made := false
	if f.ok() {
		if _, _, err = o.User(ctx, owner); domain.KindOf(err) == domain.NotFound {
			_, err = o.CreateUser(ctx, domain.UserInput{Name: owner})
			made = err == nil
			faultsAt(err, func(string) string { return "owner" })
		}
	}
	var a *domain.Account
	if f.ok() && err == nil {
		if a, err = o.CreateAccount(ctx, what); err == nil {
			err = o.AddMember(ctx, a.ID, owner, domain.RoleOwner)
		}
		faultsAt(err, idIs("account_id"))
	}
	if f.refused(err) {
		return k.accountForm(c, o, f)
	}
	if err != nil {
		return err
	}
	n := good("Account " + a.Name + " created.")
	if made {
		n.Text = "Its owner, " + owner + ", is new: make a sign-in link for them."
		n.Link = ui.Crumb{Label: "Open " + owner, Href: "/admin/users/" + owner}
	}
	return k.adminSeeOther(c, "/admin/accounts/"+a.ID, n)
}

// idIs renames the field id: a control of that name would hide the form's own id
// from scripts.
func idIs(control string) func(string) string {
	return func(field string) string {
		if field == "id" {
			return control
		}
		return field
	}
}

func (k *Console) account(c echo.Context, o *domain.Operator) error {
	return k.showAccount(c, o, newForm(), "")
}

// showAccount is the page of an account; f is the form with the id, as it was
// typed.
func (k *Console) showAccount(c echo.Context, o *domain.Operator, f *form, id string) error {
	ctx := c.Request().Context()
	p := k.adminPage(c, "Account", "/admin/accounts")
	a, members, err := o.Account(ctx, c.Param("id"))
	if err != nil {
		return err
	}
	p.Title = a.Name
	v := admin.AccountView{Account: accountView(*a), Roles: roleOptions(), Suspend: "/admin/accounts/" + a.ID + "/suspend"}
	mine, err := k.memberOf(c)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(mine, func(x domain.Account) bool { return x.ID == a.ID }) {
		v.Open = "/a/" + a.ID
	}
	for _, m := range members {
		v.Members = append(v.Members, admin.Member{
			Link: ui.Crumb{Label: m.User.Name, Href: "/admin/users/" + m.User.ID}, ID: m.User.ID, Role: string(m.Role),
			Remove: ui.Post{
				Action: v.URL + "/members/" + m.User.ID + "/remove",
				Button: ui.Btn{Label: "Remove", Of: m.User.Name + " from the account", Icon: "x", Look: ui.Ghost, Small: true, IconOnly: true},
			},
		})
	}
	if v.Users, err = userOptions(ctx, o); err != nil {
		return err
	}
	uses, err := o.Quotas(ctx, a.ID)
	if err != nil {
		return err
	}
	for _, q := range uses {
		v.Quotas = append(v.Quotas, admin.Quota{Label: capital(q.Label), Used: q.Used, Limit: q.Limit})
		v.Names = append(v.Names, ui.Option{Value: q.Name, Label: capital(q.Label)})
	}
	if a.State != domain.AccountActive {
		v.Resume = &ui.Post{Action: v.URL + "/resume", Button: ui.Btn{Label: "Resume account", Icon: "play", Look: ui.Primary}}
	}
	typed := func(form, action string) ui.Form {
		if form == id {
			return f.showAdmin(form, action)
		}
		return newForm().showAdmin(form, action)
	}
	v.Add, v.Set = typed("member", v.URL+"/members"), typed("quota", v.URL+"/quotas")
	part := admin.AddMember(v.Add, v.Users, v.Roles)
	if id == "quota" {
		part = admin.SetQuota(v.Set, v.Names)
	}
	page := admin.AccountPage(p, v)
	if f.ok() {
		part = page
	}
	return showForm(c, f, page, part)
}

// capital begins a text with a large letter.
func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func (k *Console) addMember(c echo.Context, o *domain.Operator) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	id, user := c.Param("id"), f.required("user", "Who is to be added?")
	if f.ok() {
		err = o.AddMember(c.Request().Context(), id, user, domain.Role(f.text("role")))
		err = about(err, "user")
	}
	if f.refused(err) {
		return k.showAccount(c, o, f, "member")
	}
	if err != nil {
		return err
	}
	return k.adminSeeOther(c, "/admin/accounts/"+id, good(user+" is in the account now."))
}

// about makes a refusal without a field one of the field: it is the only one that
// can be at fault.
func about(err error, field string) error {
	if de, ok := errors.AsType[*domain.Error](err); ok && de.Field == "" && (de.Kind == domain.NotFound || de.Kind == domain.Conflict) {
		de.Field = field
	}
	return err
}

func (k *Console) removeMember(c echo.Context, o *domain.Operator) error {
	id := c.Param("id")
	if err := o.RemoveMember(c.Request().Context(), id, c.Param("user")); err != nil {
		return err
	}
	return k.adminSeeOther(c, "/admin/accounts/"+id, good("Member removed."))
}

func (k *Console) setQuota(c echo.Context, o *domain.Operator) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	id, value := c.Param("id"), f.number("value")
	switch {
	case f.text("value") == "":
		value = -1 // the usual one again
	case value < 0:
		f.wrong("value", "A limit is not negative.")
	}
	if f.ok() {
		err = o.SetQuota(c.Request().Context(), id, f.text("name"), value)
	}
	if f.refused(err) {
		return k.showAccount(c, o, f, "quota")
	}
	if err != nil {
		return err
	}
	return k.adminSeeOther(c, "/admin/accounts/"+id, good("Limit set."))
}

func (k *Console) askSuspend(c echo.Context, o *domain.Operator) error {
	return k.suspendForm(c, o, newForm())
}

const suspension = "Nothing in it can be changed until it is resumed. Traffic goes on as it is."

func (k *Console) suspendForm(c echo.Context, o *domain.Operator, f *form) error {
	a, _, err := o.Account(c.Request().Context(), c.Param("id"))
	if err != nil {
		return err
	}
	at := "/admin/accounts/" + a.ID
	q := ui.Question{
		Form: f.showAdmin("suspend", at+"/suspend"), Title: "Suspend account " + a.Name + "?", Verb: "Suspend account", Danger: true,
		Cancel: at, Type: a.Name,
	}
	return showForm(c, f, admin.QuestionPage(k.adminPage(c, q.Title, "/admin/accounts"), q, suspension), admin.Question(q, suspension))
}

func (k *Console) suspend(c echo.Context, o *domain.Operator) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	a, _, err := o.Account(ctx, c.Param("id"))
	if err != nil {
		return err
	}
	if f.text("confirm") != a.Name {
		f.wrong("confirm", "Type the account's name, %s.", a.Name)
		return k.suspendForm(c, o, f)
	}
	if err := o.SuspendAccount(ctx, a.ID); err != nil {
		return err
	}
	return k.adminSeeOther(c, "/admin/accounts/"+a.ID, good("Account suspended."))
}

func (k *Console) resume(c echo.Context, o *domain.Operator) error {
	id := c.Param("id")
	if err := o.ResumeAccount(c.Request().Context(), id); err != nil {
		return err
	}
	return k.adminSeeOther(c, "/admin/accounts/"+id, good("Account resumed."))
}

// ---- users

func userView(u domain.User) admin.User {
	v := admin.User{
		URL: "/admin/users/" + u.ID, ID: u.ID, Login: u.Name, Name: cmp.Or(u.DisplayName, u.Name), Operator: u.Operator, Demo: u.Demo, Created: u.CreatedAt,
		State: ui.State{Kind: ui.OK, Word: "Active"},
	}
	if u.Disabled {
		v.State = ui.State{Kind: ui.Off, Word: "Disabled"}
		return v
	}
	v.Link = ui.Post{Action: v.URL + "/link", Button: ui.Btn{Label: "Sign-in link", Of: "for " + u.Name, Icon: "log-in", Small: true}}
	return v
}

func (k *Console) users(c echo.Context, o *domain.Operator) error {
	p := k.adminPage(c, "Users", "/admin/users")
	l := readListAt(c, "/admin/users")
	got, err := o.Users(c.Request().Context(), l.domain())
	if err != nil {
		return err
	}
	var v admin.Users
	for _, u := range got.Items {
		v.Rows = append(v.Rows, userView(u))
	}
	v.List = l.fill(v.Frame(), ids(v.Rows, func(u admin.User) string { return u.ID }), got.Prev, got.Next)
	return list(c, v.List, admin.UsersPage(p, v), admin.UsersResults(v))
}

func (k *Console) newUser(c echo.Context, o *domain.Operator) error {
	return k.userForm(c, o, newForm())
}

// accountOptions are the accounts a user can be put into.
func accountOptions(ctx context.Context, o *domain.Operator) ([]ui.Option, error) {
	accounts, err := every(ctx, o.Accounts, domain.Query{})
	if err != nil {
		return nil, err
	}
	out := make([]ui.Option, len(accounts))
	for i, a := range accounts {
		out[i] = ui.Option{Value: a.ID, Label: a.Name + " · " + a.ID}
	}
	return out, nil
}

func (k *Console) userForm(c echo.Context, o *domain.Operator, f *form) error {
	p := k.adminPage(c, "Create user", "/admin/users")
	v := admin.UserForm{Form: f.showAdmin("user", "/admin/users/new"), Roles: roleOptions()}
	accounts, err := accountOptions(c.Request().Context(), o)
	if err != nil {
		return err
	}
	if len(accounts) > 0 {
		v.Accounts = append([]ui.Option{{Label: "none yet"}}, accounts...)
	}
	return showForm(c, f, admin.UserFormPage(p, v), admin.NewUser(v))
}

func (k *Console) createUser(c echo.Context, o *domain.Operator) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	what := domain.UserInput{
		Name: f.text("name"), DisplayName: f.text("display_name"), Password: f.values.Get("password"), Operator: f.ticked("operator"),
	}
	account, role := f.text("account"), domain.Role(f.text("role"))
	var u *domain.User
	if f.ok() {
		u, err = o.CreateUser(ctx, what)
	}
	if f.refused(err) {
		return k.userForm(c, o, f)
	}
	if err != nil {
		return err
	}
	n := good("User " + u.Name + " created.")
	if account != "" {
		if err := o.AddMember(ctx, account, u.ID, role); err != nil {
			n = ui.Note{Kind: ui.Warn, Title: n.Title, Text: "But not added to the account: " + failureOf(err).Text}
		}
	}
	if what.Password == "" && n.Text == "" {
		n.Text = "There is no password: make a sign-in link and hand it over."
	}
	return k.adminSeeOther(c, "/admin/users/"+u.ID, n)
}

func (k *Console) user(c echo.Context, o *domain.Operator) error {
	return k.showUser(c, o, newForm(), "")
}

// showUser is the page of a user; f is the form with the id, as it was typed.
func (k *Console) showUser(c echo.Context, o *domain.Operator, f *form, id string) error {
	ctx := c.Request().Context()
	p := k.adminPage(c, "User", "/admin/users")
	u, accounts, err := o.User(ctx, c.Param("id"))
	if err != nil {
		return err
	}
	p.Title = u.Name
	v := admin.UserView{User: userView(*u), Roles: roleOptions(), Disable: "/admin/users/" + u.ID + "/disable"}
	v.Link.Button.Small = false
	for _, a := range accounts {
		v.Accounts = append(v.Accounts, admin.Member{
			Link: ui.Crumb{Label: a.Account.Name, Href: "/admin/accounts/" + a.Account.ID}, ID: a.Account.ID, Role: string(a.Role),
			Remove: ui.Post{
				Action: "/admin/accounts/" + a.Account.ID + "/members/" + u.ID + "/remove",
				Button: ui.Btn{Label: "Remove", Of: "from " + a.Account.Name, Icon: "x", Look: ui.Ghost, Small: true, IconOnly: true},
			},
		})
	}
	if v.Choices, err = accountOptions(ctx, o); err != nil {
		return err
	}
	if u.Disabled {
		v.Enable = &ui.Post{Action: v.URL + "/enable", Button: ui.Btn{Label: "Enable user", Icon: "play", Look: ui.Primary}}
	}
	typed := func(form, action string) ui.Form {
		if form == id {
			return f.showAdmin(form, action)
		}
		return newForm().showAdmin(form, action)
	}
	v.Add, v.Password = typed("join", v.URL+"/accounts"), typed("password", v.URL+"/password")
	part := admin.Join(v.Add, v.Choices, v.Roles)
	if id == "password" {
		part = admin.SetPassword(v.Password)
	}
	page := admin.UserPage(p, v)
	if f.ok() {
		part = page
	}
	return showForm(c, f, page, part)
}

func (k *Console) joinAccount(c echo.Context, o *domain.Operator) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	id := c.Param("id")
	err = about(o.AddMember(c.Request().Context(), f.text("account"), id, domain.Role(f.text("role"))), "account")
	if f.refused(err) {
		return k.showUser(c, o, f, "join")
	}
	if err != nil {
		return err
	}
	return k.adminSeeOther(c, "/admin/users/"+id, good("Added to the account."))
}

func (k *Console) setPassword(c echo.Context, o *domain.Operator) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	id := c.Param("id")
	err = o.SetPassword(c.Request().Context(), id, f.values.Get("password"))
	if f.refused(err) {
		return k.showUser(c, o, f, "password")
	}
	if err != nil {
		return err
	}
	return k.adminSeeOther(c, "/admin/users/"+id, good("Password set. The user's sessions have ended."))
}

// signInLink shows a link that signs a user in: only in this one answer.
func (k *Console) signInLink(c echo.Context, o *domain.Operator) error {
	ctx := c.Request().Context()
	u, _, err := o.User(ctx, c.Param("id"))
	if err != nil {
		return err
	}
	token, err := o.SignInLink(ctx, u.ID)
	if err != nil {
		return err
	}
	v := admin.SignInLink{User: u.Name, Link: k.public(c).JoinPath("/welcome").String() + "?t=" + token, Back: "/admin/users/" + u.ID}
	return show(c, admin.SignInLinkPage(k.adminPage(c, "Sign-in link", "/admin/users"), v), admin.SignInLinkDialog(v))
}

func (k *Console) askDisable(c echo.Context, o *domain.Operator) error {
	u, _, err := o.User(c.Request().Context(), c.Param("id"))
	if err != nil {
		return err
	}
	at := "/admin/users/" + u.ID
	q := ui.Question{Form: newForm().showAdmin("disable", at+"/disable"), Title: "Disable user " + u.Name + "?", Verb: "Disable user", Danger: true, Cancel: at}
	effect := "They are signed out everywhere, cannot sign in, and their access keys are refused."
	return show(c, admin.QuestionPage(k.adminPage(c, q.Title, "/admin/users"), q, effect), admin.Question(q, effect))
}

func (k *Console) disable(c echo.Context, o *domain.Operator) error {
	id := c.Param("id")
	if err := o.DisableUser(c.Request().Context(), id); err != nil {
		return err
	}
	return k.adminSeeOther(c, "/admin/users/"+id, good("User disabled."))
}

func (k *Console) enable(c echo.Context, o *domain.Operator) error {
	id := c.Param("id")
	if err := o.EnableUser(c.Request().Context(), id); err != nil {
		return err
	}
	return k.adminSeeOther(c, "/admin/users/"+id, good("User enabled."))
}

// ---- offers

func (k *Console) offers(c echo.Context, o *domain.Operator) error {
	ctx := c.Request().Context()
	p := k.adminPage(c, "Offers", "/admin/offers")
	l := readListAt(c, "/admin/offers")
	all, err := o.Offers(ctx)
	if err != nil {
		return err
	}
	names, err := accountNames(ctx, o)
	if err != nil {
		return err
	}
	var v admin.Offers
	text := strings.ToLower(l.get("q"))
	for _, x := range all {
		row := offerView(x)
		if x.AccountID != "" {
			row.Account = ui.Crumb{Label: cmp.Or(names[x.AccountID], x.AccountID), Href: "/admin/accounts/" + x.AccountID}
		}
		if strings.Contains(strings.ToLower(row.Label+"\n"+row.ID+"\n"+row.What), text) {
			v.Rows = append(v.Rows, row)
		}
	}
	v.List = l.fill(v.Frame(), ids(v.Rows, func(x admin.Offer) string { return x.ID }), "", "")
	return list(c, v.List, admin.OffersPage(p, v), admin.OffersResults(v))
}

func accountNames(ctx context.Context, o *domain.Operator) (map[string]string, error) {
	accounts, err := every(ctx, o.Accounts, domain.Query{})
	names := map[string]string{}
	for _, a := range accounts {
		names[a.ID] = a.Name
	}
	return names, err
}

func offerView(x domain.Offer) admin.Offer {
	v := admin.Offer{ID: x.ID, Label: x.Label, Kind: kindLabel(x.Kind), Demo: x.Demo, Created: x.CreatedAt, Delete: "/admin/offers/" + x.ID + "/delete"}
	switch x.Kind {
	case domain.AttachAdopted:
		v.What = x.Path
	case domain.AttachInterface:
		v.What = x.Device
	default:
		v.What = x.HostIP + ", any port"
		if x.PortFrom != 0 {
			v.What = net.JoinHostPort(x.HostIP, strconv.Itoa(x.PortFrom))
		}
		if x.PortTo != x.PortFrom {
			v.What += "-" + strconv.Itoa(x.PortTo)
		}
	}
	return v
}

func (k *Console) newOffer(c echo.Context, o *domain.Operator) error {
	f := newForm()
	f.set("source", domain.AttachHost)
	f.set("host_ip", "127.0.0.1")
	return k.offerForm(c, o, f)
}

func (k *Console) offerForm(c echo.Context, o *domain.Operator, f *form) error {
	p := k.adminPage(c, "Create offer", "/admin/offers")
	v := admin.OfferForm{Form: f.showAdmin("offer", "/admin/offers/new"), Accounts: []ui.Option{{Label: "every account"}}}
	for _, x := range attachmentKinds {
		if x.kind != domain.AttachManaged {
			v.Kinds = append(v.Kinds, ui.Option{Value: x.kind, Label: x.label, Text: x.text})
		}
	}
	accounts, err := accountOptions(c.Request().Context(), o)
	if err != nil {
		return err
	}
	v.Accounts = append(v.Accounts, accounts...)
	return showForm(c, f, admin.OfferFormPage(p, v), admin.NewOffer(v))
}

func (k *Console) createOffer(c echo.Context, o *domain.Operator) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	what := domain.OfferInput{Kind: f.text("source"), Label: f.text("label"), AccountID: f.text("account_id")}
	switch what.Kind {
	case domain.AttachAdopted:
		what.Path = f.text("path")
		what.Inode = pinNamespace(f, what.Path)
	case domain.AttachInterface:
		what.Device = f.text("device")
		what.DeviceNo = pinInterface(f, what.Device)
	default:
		what.HostIP, what.PortFrom = f.text("host_ip"), f.number("port_from")
		if what.PortTo = f.number("port_to"); what.PortTo == 0 {
			what.PortTo = what.PortFrom
		}
	}
	var offer *domain.Offer
	if f.ok() {
		offer, err = o.CreateOffer(c.Request().Context(), what)
		faultsAt(err, func(field string) string {
			if field == "kind" {
				return "source"
			}
			return field
		})
	}
	if f.refused(err) {
		return k.offerForm(c, o, f)
	}
	if err != nil {
		return err
	}
	return k.adminSeeOther(c, "/admin/offers", good("Offer "+offer.Label+" created."))
}

// ownNamespace is the network that the program itself is in; offering it would
// give a tenant the host.
const ownNamespace = "/proc/self/ns/net"

// pinNamespace returns which namespace the file is now, so that another one that
// takes its name later is not taken for it.
func pinNamespace(f *form, path string) uint64 {
	if path == "" {
		return 0 // the store says what is wrong
	}
	inode := func(path string) (uint64, error) {
		st, err := os.Stat(path)
		if err != nil {
			return 0, err
		}
		sys, ok := st.Sys().(*syscall.Stat_t)
		if !ok {
			return 0, errors.ErrUnsupported
		}
		return sys.Ino, nil
	}
	n, err := inode(path)
	if err != nil {
		f.wrong("path", "This file cannot be read: %s.", reason(err))
		return 0
	}
	if own, err := inode(ownNamespace); err == nil && own == n {
		f.wrong("path", "This is the host's own network. Offer another namespace.")
	}
	return n
}

// pinInterface returns the number of the interface as it is now, and refuses one
// that the host itself uses.
func pinInterface(f *form, device string) int {
	if device == "" {
		return 0
	}
	i, err := net.InterfaceByName(device)
	if err != nil {
		f.wrong("device", "There is no interface of this name here.")
		return 0
	}
	addresses, err := i.Addrs()
	if err != nil {
		f.wrong("device", "This interface cannot be looked at: %s.", reason(err))
		return 0
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
			f.wrong("device", "The host itself uses this interface: it has the address %s.", n.IP)
		}
	}
	return i.Index
}

// reason is the last part of an error of the system: "permission denied".
func reason(err error) string {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return pe.Err.Error()
	}
	return err.Error()
}

func (k *Console) askDeleteOffer(c echo.Context, o *domain.Operator) error {
	all, err := o.Offers(c.Request().Context())
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(x domain.Offer) bool { return x.ID == c.Param("id") })
	if i < 0 {
		return echo.ErrNotFound
	}
	q := ui.Question{
		Form:  newForm().showAdmin("delete", "/admin/offers/"+all[i].ID+"/delete"),
		Title: "Delete offer " + all[i].Label + "?", Verb: "Delete offer", Danger: true, Cancel: "/admin/offers",
	}
	effect := "Nobody can attach it any more. An offer that is in use stays, and you are told by whom."
	return show(c, admin.QuestionPage(k.adminPage(c, q.Title, "/admin/offers"), q, effect), admin.Question(q, effect))
}

func (k *Console) deleteOffer(c echo.Context, o *domain.Operator) error {
	if err := o.DeleteOffer(c.Request().Context(), c.Param("id")); err != nil {
		return err
	}
	return k.adminSeeOther(c, "/admin/offers", good("Offer deleted."))
}

// ---- places

func (k *Console) places(c echo.Context, o *domain.Operator) error {
	return k.showPlaces(c, o, newForm(), "")
}

// showPlaces is the page of places; f is the form with the id, as it was typed.
func (k *Console) showPlaces(c echo.Context, o *domain.Operator, f *form, id string) error {
	ctx := c.Request().Context()
	p := k.adminPage(c, "Regions and zones", "/admin/places")
	var v admin.Places
	sites, err := o.Sites(ctx)
	if err != nil {
		return err
	}
	for _, s := range sites {
		v.Sites = append(v.Sites, admin.Site{ID: s.ID, Name: s.Name})
	}
	regions, err := o.Regions(ctx)
	if err != nil {
		return err
	}
	for _, r := range regions {
		row := admin.Region{ID: r.Region.ID, Name: r.Region.Name, Mainland: r.Region.Mainland}
		for _, z := range r.Zones {
			row.Zones = append(row.Zones, z.ID)
		}
		v.Regions = append(v.Regions, row)
		v.Choices = append(v.Choices, ui.Option{Value: r.Region.ID, Label: r.Region.ID})
	}
	typed := func(form, action string) ui.Form {
		if form == id {
			return f.showAdmin(form, action)
		}
		return newForm().showAdmin(form, action)
	}
	v.NewSite, v.NewRegion, v.NewZone = typed("site", "/admin/places/sites"), typed("region", "/admin/places/regions"), typed("zone", "/admin/places/zones")
	part := admin.NewRegion(v.NewRegion)
	switch id {
	case "site":
		part = admin.NewSite(v.NewSite)
	case "zone":
		part = admin.NewZone(v.NewZone, v.Choices)
	}
	page := admin.PlacesPage(p, v)
	if f.ok() {
		part = page
	}
	return showForm(c, f, page, part)
}

// zoneSuffix is what a zone's id has after the region's.
var zoneSuffix = regexp.MustCompile(`^[a-z0-9]{1,8}$`)

func (k *Console) createSite(c echo.Context, o *domain.Operator) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	site, err := o.CreateSite(c.Request().Context(), domain.SiteInput{ID: f.text("site"), Name: f.text("name")})
	faultsAt(err, idIs("site"))
	if f.refused(err) {
		return k.showPlaces(c, o, f, "site")
	}
	if err != nil {
		return err
	}
	return k.adminSeeOther(c, "/admin/places", good("Site "+site.ID+" added."))
}

func (k *Console) createRegion(c echo.Context, o *domain.Operator) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	what := domain.RegionInput{ID: f.text("region"), Name: f.text("name"), Mainland: f.ticked("mainland")}
	zones := f.words("zones")
	if len(zones) == 0 {
		f.wrong("zones", "A region needs a zone to be of use.")
	}
	for _, z := range zones {
		if !zoneSuffix.MatchString(z) {
			f.wrong("zones", "A zone is named by 1 to 8 small letters and digits, such as h.")
		}
	}
	if f.ok() {
		_, err = o.CreateRegion(ctx, what)
		faultsAt(err, idIs("region"))
		for _, z := range zones {
			if err == nil {
				_, err = o.CreateZone(ctx, domain.ZoneInput{ID: what.ID + "-" + z, RegionID: what.ID})
				faultsAt(err, func(string) string { return "zones" })
			}
		}
	}
	if f.refused(err) {
		return k.showPlaces(c, o, f, "region")
	}
	if err != nil {
		return err
	}
	return k.adminSeeOther(c, "/admin/places", good("Region "+what.ID+" added with "+ui.Plural(len(zones), "zone", "")+"."))
}

func (k *Console) createZone(c echo.Context, o *domain.Operator) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	region, zone := f.text("region_id"), f.text("zone")
	if !zoneSuffix.MatchString(zone) {
		f.wrong("zone", "A zone is named by 1 to 8 small letters and digits, such as h.")
	}
	if f.ok() {
		_, err = o.CreateZone(c.Request().Context(), domain.ZoneInput{ID: region + "-" + zone, RegionID: region})
		faultsAt(err, idIs("zone"))
	}
	if f.refused(err) {
		return k.showPlaces(c, o, f, "zone")
	}
	if err != nil {
		return err
	}
	return k.adminSeeOther(c, "/admin/places", good("Zone "+region+"-"+zone+" added."))
}

// ---- the operators' trail

func operatorsTrail(o *domain.Operator) auditSource {
	return auditSource{"/admin/audit", o.Audit, o.VerifyAudit, func(context.Context, string) string { return "" }}
}

func (k *Console) adminAudit(c echo.Context, o *domain.Operator) error {
	p := k.adminPage(c, "Operators' trail", "/admin/audit")
	l := readListAt(c, "/admin/audit", auditKeys...)
	v, got, err := auditTrail(c, operatorsTrail(o), l)
	if err != nil {
		return err
	}
	v.Title, v.Lead = "Operators' trail", "What operators changed in the installation, and who signed in. Each account has a trail of its own."
	v.List = l.fill(v.Frame(), ids(v.Rows, rowOfEntry), got.Prev, got.Next)
	return list(c, v.List, audit.Page(p, v), audit.Results(v))
}

func (k *Console) adminAuditEntry(c echo.Context, o *domain.Operator) error {
	ctx := c.Request().Context()
	p := k.adminPage(c, "Audit entry", "/admin/audit")
	seq, err := strconv.ParseInt(c.Param("seq"), 10, 64)
	if err != nil {
		return echo.ErrNotFound
	}
	e, err := o.AuditEvent(ctx, seq)
	if err != nil {
		return err
	}
	page := audit.EntryPage(p, ui.Crumb{Label: "Operators' trail", Href: "/admin/audit"}, entryRow(ctx, operatorsTrail(o), *e))
	return show(c, page, page)
}

func (k *Console) adminAuditCSV(c echo.Context, o *domain.Operator) error {
	return exportTrail(c, operatorsTrail(o), readListAt(c, "/admin/audit", auditKeys...), "installation")
}
