package domain

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
	"unicode"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// ServiceUser is an entry of a whitelist.
type ServiceUser struct {
	ServiceID     string `gorm:"primaryKey"`
	UserAccountID string `gorm:"primaryKey"` // 16 digits, or Everyone
	AccountID     string // the provider
	ServiceLabel  string // the service's name: what catalogues are sorted by
	AutoAccept    bool   // accept this account without asking: our addition
	Note          string
	AddedBy       string // name of the user
	CreatedAt     time.Time
}

// Everyone on a whitelist stands for all accounts.
const Everyone = "*"

// WhitelistEntry is an entry as its service's owner sees it.
type WhitelistEntry struct {
	ServiceUser
	AccountName string // "" if there is no such account yet
	Connections int
}

// WhitelistUpdate changes what is not nil.
type WhitelistUpdate struct {
	AutoAccept *bool
	Note       *string
}

// maxNamedTokens bounds how many faults of a pasted list are named one by one.
const maxNamedTokens = 20

// parseAccounts reads a pasted list of account ids with whatever between them. An
// ARN such as acs:ram:*:1000000000000042:* names its account, and "*" everyone.
func parseAccounts(pasted string) ([]string, error) {
	var ids []string
	var faults []error
	seen, more := map[string]bool{}, 0
	for _, token := range strings.FieldsFunc(pasted, separates) {
		id := token
		if parts := strings.Split(token, ":"); len(parts) == 5 && parts[0] == "acs" && parts[1] == "ram" {
			if id = parts[3]; id == "" && parts[4] == Everyone {
				id = Everyone
			}
		}
		switch {
		case seen[id]:
		case id == Everyone || accountID.MatchString(id):
			ids = append(ids, id)
		case len(faults) < maxNamedTokens:
			faults = append(faults, invalid("accounts", "invalid_account", "“%s” is not an account id: those have 16 digits and begin with 1.", cut(token, 40)))
		default:
			more++
		}
		seen[id] = true
	}
	if more > 0 {
		faults = append(faults, invalid("accounts", "invalid_account", "%d more are no account ids either.", more))
	}
	return ids, errors.Join(faults...)
}

// separates reports whether r stands between the ids of a pasted list.
func separates(r rune) bool {
	return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune(",;|/\\\"'`()[]{}<>，、；。", r)
}

// whitelist adds accounts to a service's whitelist and returns those that were not
// on it.
func (t *tx) whitelist(svc *Service, accounts []string, autoAccept bool) ([]string, error) {
	var have []string
	if err := t.Model(&ServiceUser{}).Where("service_id = ?", svc.ID).Pluck("user_account_id", &have).Error; err != nil {
		return nil, fmt.Errorf("read whitelist: %w", err)
	}
	on := map[string]bool{}
	for _, id := range have {
		on[id] = true
	}
	var rows []ServiceUser
	for _, id := range accounts {
		if on[id] {
			continue
		}
		on[id] = true
		rows = append(rows, ServiceUser{
			ServiceID: svc.ID, UserAccountID: id, AccountID: svc.AccountID, ServiceLabel: svc.Name,
			AutoAccept: autoAccept, AddedBy: t.by.Name, CreatedAt: t.now,
		})
	}
	if len(rows) == 0 {
		return nil, nil
	}
	if err := t.quota(t.account, "whitelist_per_service", int64(len(on)-1)); err != nil {
		return nil, at("accounts", err)
	}
	if err := t.CreateInBatches(&rows, 100).Error; err != nil {
		return nil, fmt.Errorf("add to whitelist: %w", err)
	}
	added := each(rows, func(u ServiceUser) string { return u.UserAccountID })
	for _, id := range added {
		t.touched(id, KindService, svc.ID) // their catalogue
	}
	return added, nil
}

// Whitelist lists the accounts that may use a service, by id. Text is an account's
// id, or a part of its note.
//
// Errors: NotFound.
func (s *Scope) Whitelist(ctx context.Context, serviceID string, q Query) (Page[WhitelistEntry], error) {
	db, err := s.read(ctx, ReadProvide)
	if err != nil {
		return Page[WhitelistEntry]{}, err
	}
	if err := first(db, KindService, &Service{}, "id = ? AND account_id = ?", serviceID, s.account.ID); err != nil {
		return Page[WhitelistEntry]{}, err
	}
	list := db.Where("service_id = ?", serviceID)
	if text := strings.TrimSpace(q.Text); text != "" {
		list = list.Where(`(user_account_id = ? OR LOWER(note) LIKE LOWER(?) ESCAPE '\')`, text, "%"+like(text))
	}
	page, err := paginate(list, q, order{columns: []string{"user_account_id"}}, func(u ServiceUser) []any { return []any{u.UserAccountID} })
	if err != nil || len(page.Items) == 0 {
		return Page[WhitelistEntry]{}, err
	}
	ids := each(page.Items, func(u ServiceUser) string { return u.UserAccountID })
	names, err := accountNames(db, ids)
	if err != nil {
		return Page[WhitelistEntry]{}, err
	}
	connections, err := countBy(db.Model(&Connection{}).Where("service_id = ?", serviceID), "consumer_id", ids)
	if err != nil {
		return Page[WhitelistEntry]{}, err
	}
	return mapPage(page, func(u ServiceUser) WhitelistEntry {
		return WhitelistEntry{ServiceUser: u, AccountName: names[u.UserAccountID], Connections: connections[u.UserAccountID]}
	}), nil
}

// accountNames returns the names of accounts by id. The caller has to be one that
// they have to do with.
func accountNames(db *gorm.DB, ids []string) (map[string]string, error) {
	var rows []Account
	if err := db.Select("id", "name").Where("id IN ?", ids).Find(&rows).Error; err != nil {
		return nil, fmt.Errorf("read names of accounts: %w", err)
	}
	names := make(map[string]string, len(rows))
	for _, a := range rows {
		names[a.ID] = a.Name
	}
	return names, nil
}

// AddToWhitelist lets accounts use a service. They are pasted with anything
// between them; those that are on the list already are left as they are. The
// warnings tell what may not be meant.
//
// Errors: NotFound; Invalid that names every token which is no account; Limit.
func (s *Scope) AddToWhitelist(ctx context.Context, serviceID, accounts string, autoAccept bool) (added, warnings []string, err error) {
	err = s.write(ctx, WriteProvide, func(t *tx) error {
		svc, err := t.service(serviceID)
		if err != nil {
			return err
		}
		ids, err := parseAccounts(accounts)
		if err != nil {
			return err
		}
		if len(ids) == 0 {
			return invalid("accounts", "missing_accounts", "Name at least one account.")
		}
		if added, err = t.whitelist(svc, ids, autoAccept); err != nil {
			return err
		}
		if warnings, err = t.whitelistWarnings(svc, added, autoAccept); err != nil {
			return err
		}
		if len(added) == 0 {
			return nil
		}
		t.touched(t.account, KindService, svc.ID)
		return t.audit("AddToWhitelist", KindService, svc.ID, svc.Name, nil, map[string]any{"accounts": added, "auto_accept": autoAccept})
	})
	return added, warnings, err
}

func (t *tx) whitelistWarnings(svc *Service, added []string, autoAccept bool) ([]string, error) {
	names, err := accountNames(t.DB, added)
	if err != nil {
		return nil, err
	}
	var warnings []string
	for _, id := range added {
		switch {
		case id == Everyone && (autoAccept || svc.AutoAccept):
			warnings = append(warnings, "Every account can now reach this service without being asked about.")
		case id == Everyone:
			warnings = append(warnings, "Every account can now see this service and ask to reach it.")
		case names[id] == "":
			warnings = append(warnings, fmt.Sprintf("There is no account %s yet. It can use the service once there is.", id))
		}
	}
	return warnings, nil
}

// SetWhitelistEntry changes how an account on a whitelist is treated. Auto-accept
// concerns its later requests only.
//
// Errors: NotFound; Invalid.
func (s *Scope) SetWhitelistEntry(ctx context.Context, serviceID, account string, in WhitelistUpdate) error {
	return s.write(ctx, WriteProvide, func(t *tx) error {
		svc, u, err := t.whitelisted(serviceID, account)
		if err != nil {
			return err
		}
		before, after := map[string]any{"account": account}, map[string]any{}
		if in.AutoAccept != nil {
			before["auto_accept"], after["auto_accept"] = u.AutoAccept, *in.AutoAccept
		}
		if in.Note != nil {
			note, err := validText("note", *in.Note, 256)
			if err != nil {
				return err
			}
			before["note"], after["note"] = u.Note, note
		}
		if len(after) == 0 {
			return nil
		}
		if err := t.Model(&ServiceUser{}).Where("service_id = ? AND user_account_id = ?", serviceID, account).Updates(maps.Clone(after)).Error; err != nil {
			return fmt.Errorf("update whitelist: %w", err)
		}
		t.touched(t.account, KindService, serviceID)
		after["account"] = account
		return t.audit("SetWhitelistEntry", KindService, serviceID, svc.Name, before, after)
	})
}

// whitelisted reads a service of the account and an entry of its whitelist.
func (t *tx) whitelisted(serviceID, account string) (*Service, *ServiceUser, error) {
	svc, err := t.service(serviceID)
	if err != nil {
		return nil, nil, err
	}
	var u ServiceUser
	err = first(t.DB, KindAccount, &u, "service_id = ? AND user_account_id = ?", serviceID, account)
	if KindOf(err) == NotFound {
		err = fail(NotFound, "not_whitelisted", "Account %s is not on the whitelist of %s.", cut(account, 40), svc.Name)
	}
	return svc, &u, err
}

// RemoveFromWhitelist takes an account off a whitelist: it no longer sees the
// service and can ask for no more connections. Those it has stay until they are
// rejected.
//
// Errors: NotFound.
func (s *Scope) RemoveFromWhitelist(ctx context.Context, serviceID, account string) error {
	return s.write(ctx, WriteProvide, func(t *tx) error {
		svc, u, err := t.whitelisted(serviceID, account)
		if err != nil {
			return err
		}
		if err := t.remove(&ServiceUser{}, "service_id = ? AND user_account_id = ?", serviceID, account); err != nil {
			return err
		}
		t.touched(t.account, KindService, serviceID)
		t.touched(account, KindService, serviceID)
		return t.audit("RemoveFromWhitelist", KindService, serviceID, svc.Name, map[string]any{"account": account, "auto_accept": u.AutoAccept, "note": u.Note}, nil)
	})
}

// autoAccepts puts an account of a whitelist on auto-accept, adding it if only
// everyone stands for it there. It reports whether that changed anything.
func (t *tx) autoAccepts(svc *Service, account string) (changed bool, err error) {
	row := ServiceUser{
		ServiceID: svc.ID, UserAccountID: account, AccountID: svc.AccountID, ServiceLabel: svc.Name,
		AutoAccept: true, AddedBy: t.by.Name, CreatedAt: t.now,
	}
	res := t.Clauses(clause.OnConflict{DoNothing: true}).Create(&row)
	if res.Error == nil && res.RowsAffected == 0 {
		res = t.Model(&ServiceUser{}).Where("service_id = ? AND user_account_id = ? AND NOT auto_accept", svc.ID, account).Update("auto_accept", true)
	}
	if res.Error != nil {
		return false, fmt.Errorf("set auto-accept: %w", res.Error)
	}
	return res.RowsAffected > 0, nil
}
