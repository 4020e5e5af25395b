// Package layout is the frame around every page: top bar, navigation, foot, and
// the bare frame of sign-in and error pages.
package layout

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/openprivatelink/openprivatelink/web/ui"
)

// htmxConfig is for every page: our style sheet has the indicator's rules, a
// request waits at most 15 s, and Back loads the page.
const htmxConfig = `{"includeIndicatorCSS":false,"defaultTimeout":15000,"history":"reload"}`

// Account is one account as the switcher shows it.
type Account struct{ ID, Name string }

// User is somebody signed in to this browser.
type User struct {
	Name     string // as shown
	Login    string
	Handle   string // names the session in /sign-out/{handle}; not a secret
	Accounts []Account
}

// Page is what the frame shows around a page's content. The zero Account is a
// page outside of accounts.
type Page struct {
	Title    string
	Nav      string // path of the current entry of the navigation: "/services"
	Account  Account
	Region   string
	User     User   // who acts on this page
	Users    []User // everybody signed in to this browser, User among them
	Operator bool   // User may administer the installation
	ReadOnly bool   // User may change nothing in this account
	Side     ui.Side
	Pending  int    // connections that wait for a decision
	Last     string // id of the newest event that the page shows
	Theme    string // "light", "dark" or "": as the system
	Notice   string // what every page must say, such as the loopback mode
	Flash    *ui.Note
	Version  string // of the program
	Charts   bool   // the page has charts to draw
}

// URL returns the address of path ("/services") in the page's account.
func (p Page) URL(path string) string { return "/a/" + p.Account.ID + path }

// otherTheme is what the switch leads to.
func (p Page) otherTheme() string {
	switch p.Theme {
	case "":
		return "light"
	case "light":
		return "dark"
	}
	return "system"
}

func (p Page) themeIcon() string {
	switch p.Theme {
	case "light":
		return "sun"
	case "dark":
		return "moon"
	}
	return "monitor"
}

func (p Page) sideClass() string {
	switch p.Side {
	case ui.Consumer:
		return "consumer"
	case ui.Provider:
		return "provider"
	}
	return ""
}

// initials are the first letters of the first two words of name.
func initials(name string) string {
	var b strings.Builder
	for i, w := range strings.FieldsFunc(name, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		if i == 2 {
			break
		}
		r, _ := utf8.DecodeRuneInString(w)
		b.WriteRune(unicode.ToUpper(r))
	}
	return b.String()
}

// entry is one line of the navigation.
type entry struct{ path, icon, word string }

// group is a titled part of the navigation.
type group struct {
	title   string
	entries []entry
}

// navigation is the order of the account's pages, and it is fixed.
var navigation = []group{
	{"", []entry{{"", "layout-dashboard", "Overview"}}},
	{"Provide", []entry{
		{"/services", "server", "Endpoint services"},
		{"/connections", "git-pull-request", "Connections"},
		{"/load-balancers", "split", "Load balancers"},
	}},
	{"Consume", []entry{
		{"/endpoints", "plug", "Endpoints"},
		{"/catalogue", "store", "Service catalogue"},
	}},
	{"Network", []entry{
		{"/vpcs", "network", "VPCs"},
		{"/route-tables", "route", "Route tables"},
		{"/security-groups", "shield", "Security groups"},
	}},
	{"Observe", []entry{
		{"/audit", "scroll-text", "Audit trail"},
	}},
}

// administration is for operators and has no account in its addresses.
var administration = []entry{
	{"/admin", "settings-2", "Installation"},
	{"/admin/accounts", "building-2", "Accounts"},
	{"/admin/users", "users", "Users"},
	{"/admin/offers", "gift", "Offers"},
	{"/admin/places", "map-pin", "Regions and zones"},
	{"/admin/audit", "scroll-text", "Operators' trail"},
}
