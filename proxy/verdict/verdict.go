// Package verdict decides whether a flow may pass and says why. It is pure: the
// functions here read plain data, know no socket and no clock, and are the
// reference that the forwarder's own checks are compiled from and tested against.
package verdict

import (
	"net/netip"
	"slices"
)

// Policy is what a security-group rule does to a flow that it matches.
type Policy string

// The two policies of a rule.
const (
	Accept Policy = "accept"
	Drop   Policy = "drop"
)

// Protocol of a flow or a rule.
type Protocol string

// Protocols that rules can name; All matches each of them.
const (
	All  Protocol = "all"
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	ICMP Protocol = "icmp"
)

// Rule is one inbound line of a security group.
type Rule struct {
	ID       string       `json:"id"`
	Priority int          `json:"priority"` // 1 to 100, smaller first; at equal priority drop wins
	Policy   Policy       `json:"policy"`
	Protocol Protocol     `json:"protocol"`
	From     uint16       `json:"from"` // first port, both ends included; 0 and 0 means every port
	To       uint16       `json:"to"`
	Peer     netip.Prefix `json:"peer,omitzero"`   // source addresses, or
	Group    string       `json:"group,omitempty"` // source attachments that are members of this group
}

// Group is a security group as the engine sees it: inbound rules only, because
// replies are stateful and an endpoint never opens a flow.
type Group struct {
	ID         string       `json:"id"`
	Rules      []Rule       `json:"rules,omitempty"`
	Members    []netip.Addr `json:"members,omitempty"`    // addresses of attachments that carry the group
	IntraAllow bool         `json:"intraAllow,omitempty"` // members reach each other before any rule is asked
}

// Flow is one connection attempt, as it arrives at an endpoint's address.
type Flow struct {
	Source   netip.Addr
	Protocol Protocol
	Port     uint16 // destination port
}

// Reason names what decided. Its values are stable: they appear in flow records.
type Reason string

// The reasons a flow is accepted or refused for.
const (
	ByRule       Reason = "rule"        // Trace.Rule of Trace.Group
	ByIntraGroup Reason = "intra_group" // both are members of Trace.Group
	ByDefault    Reason = "default"     // no rule matched: inbound is refused
	ByNoGroup    Reason = "no_group"    // no security group is attached: everything is refused
)

// Trace is a decision and what made it.
type Trace struct {
	Accept bool   `json:"accept"`
	Reason Reason `json:"reason"`
	Group  string `json:"group,omitempty"`
	Rule   string `json:"rule,omitempty"`
}

// Explain evaluates flow against the groups of one network interface. Rules of
// all groups are taken together, ordered by (priority, drop before accept), and
// the first that matches decides; without a match inbound traffic is refused.
// Member lists of groups named by rules are looked up in all.
func Explain(groups []Group, all map[string]Group, flow Flow) Trace {
	if len(groups) == 0 {
		return Trace{Reason: ByNoGroup}
	}
	for _, g := range groups {
		if g.IntraAllow && slices.Contains(g.Members, flow.Source) {
			return Trace{Accept: true, Reason: ByIntraGroup, Group: g.ID}
		}
	}
	best, found := Trace{Reason: ByDefault}, false
	var bestRule Rule
	for _, g := range groups {
		for _, r := range g.Rules {
			if !r.matches(all, flow) {
				continue
			}
			if !found || r.Priority < bestRule.Priority || (r.Priority == bestRule.Priority && r.Policy == Drop && bestRule.Policy != Drop) {
				best, bestRule, found = Trace{Accept: r.Policy == Accept, Reason: ByRule, Group: g.ID, Rule: r.ID}, r, true
			}
		}
	}
	return best
}

func (r Rule) matches(all map[string]Group, f Flow) bool {
	if r.Protocol != All && r.Protocol != f.Protocol {
		return false
	}
	if (r.From != 0 || r.To != 0) && (f.Port < r.From || f.Port > r.To) {
		return false
	}
	if r.Group != "" {
		return slices.Contains(all[r.Group].Members, f.Source)
	}
	return r.Peer.Contains(f.Source)
}
