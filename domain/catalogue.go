package domain

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"gorm.io/gorm"
)

// Offering is a service as those who may use it see it.
type Offering struct {
	ServiceID    string
	ServiceName  string // com.aliyuncs.privatelink.<region>.<id>
	Name         string
	Description  string
	ProviderID   string
	ProviderName string
	Type         string // TypeNLB
	RegionID     string
	Zones        []string // that it has a load balancer in
	Openings     []Opening
	AutoAccept   bool // a request of this account is accepted at once
	MyEndpoints  int  // that this account has to it
}

// offers are the entries of whitelists for an account and those for everyone, each
// service once. Both halves can be read in the order of one index and merged.
const offers = `
	SELECT u.service_id, u.service_label, u.auto_accept FROM service_users u WHERE u.user_account_id = @account
	UNION ALL
	SELECT u.service_id, u.service_label, u.auto_accept FROM service_users u WHERE u.user_account_id = '*'
		AND NOT EXISTS (SELECT 1 FROM service_users own WHERE own.service_id = u.service_id AND own.user_account_id = @account)`

// offer is one of them.
type offer struct {
	ServiceID    string
	ServiceLabel string
	AutoAccept   bool
}

// Catalogue lists the services that the account may use, by name. Text is a part
// of the name, an id or a service name.
func (s *Scope) Catalogue(ctx context.Context, q Query) (Page[Offering], error) {
	db, err := s.read(ctx, ReadConsume)
	if err != nil {
		return Page[Offering]{}, err
	}
	list := db.Table("(?) AS offers", db.Raw(offers, map[string]any{"account": s.account.ID}))
	if text := strings.TrimSpace(q.Text); text != "" {
		list = list.Where(`(LOWER(service_label) LIKE LOWER(?) ESCAPE '\' OR service_id = ?)`, "%"+like(text), serviceID.FindString(text))
	}
	page, err := paginate(list, q, order{columns: []string{"service_label", "service_id"}}, func(o offer) []any { return []any{o.ServiceLabel, o.ServiceID} })
	if err != nil || len(page.Items) == 0 {
		return Page[Offering]{}, err
	}
	all, err := s.offerings(db, page.Items)
	if err != nil {
		return Page[Offering]{}, err
	}
	return mapPage(page, func(o offer) Offering { return all[o.ServiceID] }), nil
}

// offerings returns what the account may know of services that it may use, by id.
func (s *Scope) offerings(db *gorm.DB, of []offer) (map[string]Offering, error) {
	ids := each(of, func(o offer) string { return o.ServiceID })
	var services []Service
	if err := db.Where("id IN ?", ids).Find(&services).Error; err != nil {
		return nil, fmt.Errorf("read services: %w", err)
	}
	providers, err := accountNames(db, each(services, func(svc Service) string { return svc.AccountID }))
	if err != nil {
		return nil, err
	}
	f, err := readFronts(db, ids)
	if err != nil {
		return nil, err
	}
	mine, err := countBy(db.Model(&Endpoint{}).Where("account_id = ?", s.account.ID), "service_id", ids)
	if err != nil {
		return nil, err
	}
	out := map[string]Offering{}
	for _, svc := range services {
		out[svc.ID] = Offering{
			ServiceID: svc.ID, ServiceName: svc.ServiceName(), Name: svc.Name, Description: svc.Description, ProviderID: svc.AccountID,
			ProviderName: providers[svc.AccountID], Type: svc.ResourceType, RegionID: svc.RegionID,
			Zones: each(f.zones(svc.ID), func(h ZoneHealth) string { return h.ZoneID }), Openings: f.openings(svc.ID),
			AutoAccept: svc.AutoAccept, MyEndpoints: mine[svc.ID],
		}
	}
	for _, o := range of {
		if known, ok := out[o.ServiceID]; ok && o.AutoAccept {
			known.AutoAccept = true
			out[o.ServiceID] = known
		}
	}
	return out, nil
}

// serviceID finds the id of a service in whatever was pasted: the id, the service
// name or the address of a page.
var serviceID = regexp.MustCompile(`epsrv-[a-z2-7]{20}\b`)

// FindService returns the service of a service name or id, if the account may use
// it.
//
// Errors: NotFound, with one text for a service that does not exist and one that
// the account is not whitelisted for.
func (s *Scope) FindService(ctx context.Context, nameOrID string) (*Offering, error) {
	db, err := s.read(ctx, ReadConsume)
	if err != nil {
		return nil, err
	}
	svc, auto, err := usable(db, s.account.ID, nameOrID)
	if err != nil {
		return nil, err
	}
	all, err := s.offerings(db, []offer{{ServiceID: svc.ID, AutoAccept: auto}})
	if err != nil {
		return nil, err
	}
	found := all[svc.ID]
	return &found, nil
}

// usable returns the service that an account means, and whether its requests to it
// are accepted without asking.
func usable(db *gorm.DB, account, nameOrID string) (svc Service, automatic bool, err error) {
	pasted := strings.TrimSpace(nameOrID)
	var entries []ServiceUser
	err = db.Where("id = ? AND status = ? AND EXISTS (SELECT 1 FROM service_users WHERE service_id = services.id AND user_account_id IN ?)",
		serviceID.FindString(pasted), ServiceActive, []string{account, Everyone}).Take(&svc).Error
	if errors.Is(err, gorm.ErrRecordNotFound) || err == nil && strings.HasPrefix(pasted, serviceNamePrefix) && pasted != svc.ServiceName() {
		return svc, false, &Error{
			Kind: NotFound, Reason: "service_not_found", Field: "service_name",
			Message: "There is no such service that this account may use. Its owner has to put the account on the service's whitelist.",
		}
	}
	if err == nil {
		err = db.Session(&gorm.Session{NewDB: true}).Where("service_id = ? AND user_account_id IN ?", svc.ID, []string{account, Everyone}).Find(&entries).Error
	}
	if err != nil {
		return svc, false, fmt.Errorf("find service: %w", err)
	}
	automatic = svc.AutoAccept
	for _, e := range entries {
		own := e.UserAccountID == account
		if own || len(entries) == 1 { // an entry of its own stands above the one for everyone
			automatic = automatic || e.AutoAccept
		}
	}
	return svc, automatic, nil
}
