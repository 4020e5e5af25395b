package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/proxy"
)

// admin does what commands ask for, as the installation's own operator. It lives
// in the server, or in the command itself while no server runs.
type admin struct {
	store *domain.Store
	op    *domain.Operator
	links func(path string) string // absolute URL of a path of the console
	since time.Time

	engine proxy.Engine // nil in a command
}

func newAdmin(store *domain.Store, public *url.URL) *admin {
	return &admin{
		store: store,
		op:    store.Local(domain.Actor{Kind: domain.ActorOperator, Name: "command line", Channel: "cli"}),
		since: time.Now(),
		links: func(path string) string { return strings.TrimSuffix(public.String(), "/") + path },
	}
}

// Inputs and outputs of the operations, as they travel and as --json prints them.
type (
	accountIn struct {
		Name, Site, ID string
	}
	accountOut struct {
		ID, Name, Site, State string
		Created               time.Time
	}
	userIn struct {
		Name, DisplayName, Password, Account, Role string
		Operator                                   bool
	}
	userOut struct {
		ID, Name, DisplayName string
		Operator, Disabled    bool
		Created               time.Time
	}
	linkOut struct {
		User, Link string
	}
	accessKeyIn struct {
		Account, User string
	}
	accessKeyOut struct {
		ID, Account, User, State string
		Secret                   string `json:",omitempty"` // only when it is made
		Created                  time.Time
	}
	nameIn struct {
		Name string
	}
	attachmentOut struct {
		ID string
	}
	statusOut struct {
		Server int // pid
		Since  time.Time
		URL    string // of the console
		Engine proxy.Status
	}
	none struct{}
)

func (a *admin) createAccount(ctx context.Context, in accountIn) (accountOut, error) {
	acc, err := a.op.CreateAccount(ctx, domain.AccountInput{Name: in.Name, SiteID: in.Site, ID: in.ID})
	if err != nil {
		return accountOut{}, err
	}
	return outAccount(*acc), nil
}

func outAccount(a domain.Account) accountOut {
	return accountOut{ID: a.ID, Name: a.Name, Site: a.SiteID, State: a.State, Created: a.CreatedAt}
}

func (a *admin) accounts(ctx context.Context, _ none) ([]accountOut, error) {
	return all(func(q domain.Query) (domain.Page[domain.Account], error) { return a.op.Accounts(ctx, q) }, outAccount)
}

func (a *admin) createUser(ctx context.Context, in userIn) (userOut, error) {
	if in.Account != "" && in.Role == "" {
		in.Role = string(domain.RoleOwner)
	}
	u, err := a.op.CreateUser(ctx, domain.UserInput{Name: in.Name, DisplayName: in.DisplayName, Password: in.Password, Operator: in.Operator})
	if err != nil {
		return userOut{}, err
	}
	if in.Account != "" {
		if err := a.op.AddMember(ctx, in.Account, u.Name, domain.Role(in.Role)); err != nil {
			return userOut{}, fmt.Errorf("user %s was made, but is no member of %s: %w", u.Name, in.Account, err)
		}
	}
	return outUser(*u), nil
}

func outUser(u domain.User) userOut {
	return userOut{ID: u.ID, Name: u.Name, DisplayName: u.DisplayName, Operator: u.Operator, Disabled: u.Disabled, Created: u.CreatedAt}
}

func (a *admin) users(ctx context.Context, _ none) ([]userOut, error) {
	return all(func(q domain.Query) (domain.Page[domain.User], error) { return a.op.Users(ctx, q) }, outUser)
}

func (a *admin) signInLink(ctx context.Context, in nameIn) (linkOut, error) {
	token, err := a.op.SignInLink(ctx, in.Name)
	if err != nil {
		return linkOut{}, err
	}
	return linkOut{User: in.Name, Link: a.welcome(token)}, nil
}

// welcome is the address that a sign-in token is for.
func (a *admin) welcome(token string) string { return a.links("/welcome?t=" + token) }

func (a *admin) createAccessKey(ctx context.Context, in accessKeyIn) (accessKeyOut, error) {
	k, secret, err := a.op.CreateAccessKey(ctx, in.Account, in.User)
	if err != nil {
		return accessKeyOut{}, err
	}
	return accessKeyOut{ID: k.ID, Account: k.AccountID, User: in.User, State: k.State, Secret: secret, Created: k.CreatedAt}, nil
}

func (a *admin) accessKeys(ctx context.Context, in accessKeyIn) ([]accessKeyOut, error) {
	keys, err := a.op.AccessKeys(ctx, in.Account)
	if err != nil {
		return nil, err
	}
	out := make([]accessKeyOut, len(keys))
	for i, k := range keys {
		out[i] = accessKeyOut{ID: k.ID, Account: k.AccountID, User: k.UserID, State: k.State, Created: k.CreatedAt}
	}
	return out, nil
}

func (a *admin) findAttachment(ctx context.Context, in nameIn) (attachmentOut, error) {
	id, err := a.op.FindAttachment(ctx, in.Name)
	return attachmentOut{ID: id}, err
}

func (a *admin) status(ctx context.Context, _ none) (statusOut, error) {
	if a.engine == nil {
		return statusOut{}, errNoServer
	}
	st, err := a.engine.Status(ctx)
	return statusOut{Server: os.Getpid(), Since: a.since, URL: a.links("/"), Engine: st}, err
}

// all reads every page of a list.
func all[A, B any](list func(domain.Query) (domain.Page[A], error), f func(A) B) ([]B, error) {
	out := []B{}
	q := domain.Query{Limit: 200}
	for {
		p, err := list(q)
		if err != nil {
			return nil, err
		}
		for _, a := range p.Items {
			out = append(out, f(a))
		}
		if p.Next == "" {
			return out, nil
		}
		q.After = p.Next
	}
}

// run does an operation at the running server or, while none runs, on the store
// itself, under its lock.
func (c *config) run(ctx context.Context, operation string, in, out any) error {
	err := remote(ctx, c.controlPath(), operation, in, out)
	if !errors.Is(err, errNoServer) {
		return err
	}
	return c.alone(ctx, func(a *admin) error {
		body, err := json.Marshal(in)
		if err != nil {
			return err
		}
		v, err := operations[operation](ctx, a, body)
		if err != nil {
			return errors.New(sentence(err))
		}
		if body, err = json.Marshal(v); err != nil {
			return err
		}
		return json.Unmarshal(body, out)
	})
}

// alone opens the store for this command while no server does.
func (c *config) alone(ctx context.Context, f func(*admin) error) error {
	if err := c.complete(); err != nil {
		return err
	}
	lock, err := lockData(c.data)
	if errors.Is(err, errLocked) {
		return fmt.Errorf("%w, but does not answer at %s: is it starting or stopping?", err, c.controlPath())
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	store, err := c.open(ctx, slog.Default())
	if err != nil {
		return err
	}
	defer store.Close()
	public, err := c.public()
	if err != nil {
		return err
	}
	return f(newAdmin(store, public))
}

// open opens the store with the folder's key.
func (c *config) open(ctx context.Context, log *slog.Logger) (*domain.Store, error) {
	secret, err := c.secret()
	if err != nil {
		return nil, err
	}
	return domain.Open(ctx, domain.Config{Database: c.database, Secret: secret, LooseRanges: !c.strictRanges, Log: log})
}

// adminCommands are account, user, access-key, backup and restore.
func adminCommands() []*cobra.Command {
	c := &config{listen: "127.0.0.1:8080", strictRanges: true}
	asJSON := false
	group := func(use, short string, subs ...*cobra.Command) *cobra.Command {
		g := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
		g.AddCommand(subs...)
		dataFlag(g.PersistentFlags(), c)
		databaseFlag(g.PersistentFlags(), c)
		g.PersistentFlags().BoolVar(&asJSON, "json", false, "print JSON")
		return g
	}
	var account accountIn
	accountCreate := &cobra.Command{
		Use: "create NAME", Short: "Make an account", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			account.Name = args[0]
			var out accountOut
			if err := c.run(cmd.Context(), "account-create", account, &out); err != nil {
				return err
			}
			return show(cmd, asJSON, out, []accountOut{out}, accountColumns)
		},
	}
	accountCreate.Flags().StringVar(&account.ID, "id", "", "16 digits that begin with 1 (default: the next free)")
	accountCreate.Flags().StringVar(&account.Site, "site", "", "site of the account (default: the first)")
	accountList := &cobra.Command{
		Use: "list", Short: "List accounts", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out []accountOut
			if err := c.run(cmd.Context(), "account-list", none{}, &out); err != nil {
				return err
			}
			return show(cmd, asJSON, out, out, accountColumns)
		},
	}
	var user userIn
	userCreate := &cobra.Command{
		Use: "create NAME", Short: "Make a user", Args: cobra.ExactArgs(1),
		Long: "Make a user. The password is read from standard input when --password is \"-\"; without a password the user signs in by a link (user sign-in-link NAME).",
		RunE: func(cmd *cobra.Command, args []string) error {
			user.Name = args[0]
			if user.Password == "-" {
				b, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), 1024))
				if err != nil {
					return fmt.Errorf("read password: %w", err)
				}
				user.Password = strings.TrimRight(string(b), "\r\n")
			}
			var out userOut
			if err := c.run(cmd.Context(), "user-create", user, &out); err != nil {
				return err
			}
			return show(cmd, asJSON, out, []userOut{out}, userColumns)
		},
	}
	userCreate.Flags().StringVar(&user.DisplayName, "display-name", "", "name for people")
	userCreate.Flags().StringVar(&user.Password, "password", "", "password, or - to read it from standard input")
	userCreate.Flags().StringVar(&user.Account, "account", "", "account to make the user a member of")
	userCreate.Flags().StringVar(&user.Role, "role", "", "role there: owner, provider, consumer, network or auditor (default owner)")
	userCreate.Flags().BoolVar(&user.Operator, "operator", false, "may run the installation")
	userList := &cobra.Command{
		Use: "list", Short: "List users", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out []userOut
			if err := c.run(cmd.Context(), "user-list", none{}, &out); err != nil {
				return err
			}
			return show(cmd, asJSON, out, out, userColumns)
		},
	}
	userLink := &cobra.Command{
		Use: "sign-in-link NAME", Short: "Print a link that signs a user in once, within ten minutes", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var out linkOut
			if err := c.run(cmd.Context(), "user-sign-in-link", nameIn{args[0]}, &out); err != nil {
				return err
			}
			return show(cmd, asJSON, out, []linkOut{out}, linkColumns)
		},
	}
	var key accessKeyIn
	keyCreate := &cobra.Command{
		Use: "create", Short: "Make an access key; its secret is shown once", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out accessKeyOut
			if err := c.run(cmd.Context(), "access-key-create", key, &out); err != nil {
				return err
			}
			return show(cmd, asJSON, out, []accessKeyOut{out}, append(accessKeyColumns, column[accessKeyOut]{"SECRET", func(k accessKeyOut) string { return k.Secret }}))
		},
	}
	keyCreate.Flags().StringVar(&key.User, "user", "", "name of the user who signs with it")
	keyList := &cobra.Command{
		Use: "list", Short: "List access keys of an account", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out []accessKeyOut
			if err := c.run(cmd.Context(), "access-key-list", key, &out); err != nil {
				return err
			}
			return show(cmd, asJSON, out, out, accessKeyColumns)
		},
	}
	for _, k := range []*cobra.Command{keyCreate, keyList} {
		k.Flags().StringVar(&key.Account, "account", "", "id of the account")
	}
	require(keyCreate, "account", "user")
	require(keyList, "account")

	backup := &cobra.Command{
		Use: "backup FILE", Short: "Write everything the store holds to a file", Args: cobra.ExactArgs(1),
		Long: "Write everything the store holds, as of one moment, to a file, whether a server runs or not. The file holds the key of sealed secrets: keep it safe.",
		RunE: func(cmd *cobra.Command, args []string) error { return c.backup(cmd.Context(), args[0]) },
	}
	restore := &cobra.Command{
		Use: "restore FILE", Short: "Fill an empty store from a backup", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return c.restore(cmd.Context(), args[0]) },
	}
	for _, k := range []*cobra.Command{backup, restore} {
		dataFlag(k.Flags(), c)
		databaseFlag(k.Flags(), c)
	}
	return []*cobra.Command{
		group("account", "Accounts of the installation", accountCreate, accountList),
		group("user", "Users of the installation", userCreate, userList, userLink),
		statusCommand(),
		group("access-key", "Access keys that sign API calls", keyCreate, keyList),
		backup, restore,
	}
}

// statusCommand tells about the running server and its engine.
func statusCommand() *cobra.Command {
	c, asJSON := &config{}, false
	cmd := &cobra.Command{
		Use: "status", Short: "Show the running server and its engine", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.complete(); err != nil {
				return err
			}
			var out statusOut
			if err := remote(cmd.Context(), c.controlPath(), "status", none{}, &out); err != nil {
				return err
			}
			return show(cmd, asJSON, out, []statusOut{out}, statusColumns)
		},
	}
	dataFlag(cmd.Flags(), c)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func require(cmd *cobra.Command, flags ...string) {
	for _, f := range flags {
		if err := cmd.MarkFlagRequired(f); err != nil {
			panic(err) // the flag is not defined
		}
	}
}

// backup writes to a new file that appears only when it is whole.
func (c *config) backup(ctx context.Context, path string) error {
	if _, err := os.Stat(path); err == nil {
		return fmt.Errorf("%s exists already; name a new file", path)
	}
	tmp := path + ".part"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = c.backupTo(ctx, f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, path)
}

func (c *config) backupTo(ctx context.Context, w io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://control/backup", nil)
	if err != nil {
		return err
	}
	resp, err := controlClient(c.controlPath()).Do(req)
	if errors.Is(err, errNoServer) {
		return c.alone(ctx, func(a *admin) error { return a.store.Backup(ctx, w) })
	}
	if err != nil {
		return fmt.Errorf("ask the server: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answered %s", resp.Status)
	}
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("read the backup: %w", err)
	}
	if e := resp.Trailer.Get("X-Error"); e != "" {
		return errors.New(e)
	}
	return nil
}

// restore needs an empty store and no server. The key of sealed secrets comes from
// the backup.
func (c *config) restore(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return c.alone(ctx, func(a *admin) error {
		secret, err := a.store.Restore(ctx, f, info.Size())
		if err != nil {
			return err
		}
		return writeFile(c.secretPath(), secret)
	})
}

// column is one column of a printed table.
type column[T any] struct {
	head string
	cell func(T) string
}

var (
	accountColumns = []column[accountOut]{
		{"ID", func(a accountOut) string { return a.ID }},
		{"NAME", func(a accountOut) string { return a.Name }},
		{"SITE", func(a accountOut) string { return a.Site }},
		{"STATE", func(a accountOut) string { return a.State }},
		{"CREATED", func(a accountOut) string { return a.Created.Format(time.RFC3339) }},
	}
	userColumns = []column[userOut]{
		{"NAME", func(u userOut) string { return u.Name }},
		{"DISPLAY NAME", func(u userOut) string { return u.DisplayName }},
		{"OPERATOR", func(u userOut) string { return yesNo(u.Operator) }},
		{"DISABLED", func(u userOut) string { return yesNo(u.Disabled) }},
		{"CREATED", func(u userOut) string { return u.Created.Format(time.RFC3339) }},
	}
	statusColumns = []column[statusOut]{
		{"CONSOLE", func(s statusOut) string { return s.URL }},
		{"SERVER PID", func(s statusOut) string { return strconv.Itoa(s.Server) }},
		{"ENGINE PID", func(s statusOut) string { return strconv.Itoa(s.Engine.PID) }},
		{"NETWORK", func(s statusOut) string { return s.Engine.Mode }},
		{"FLOWS", func(s statusOut) string { return strconv.FormatInt(s.Engine.Flows, 10) }},
		{"LISTENERS", func(s statusOut) string { return strconv.Itoa(s.Engine.Listeners) }},
	}
	linkColumns = []column[linkOut]{
		{"USER", func(l linkOut) string { return l.User }},
		{"LINK (once, within ten minutes)", func(l linkOut) string { return l.Link }},
	}
	accessKeyColumns = []column[accessKeyOut]{
		{"ID", func(k accessKeyOut) string { return k.ID }},
		{"ACCOUNT", func(k accessKeyOut) string { return k.Account }},
		{"USER", func(k accessKeyOut) string { return k.User }},
		{"STATE", func(k accessKeyOut) string { return k.State }},
		{"CREATED", func(k accessKeyOut) string { return k.Created.Format(time.RFC3339) }},
	}
)

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// show prints v as JSON, or rows as a table.
func show[T any](cmd *cobra.Command, asJSON bool, v any, rows []T, columns []column[T]) error {
	if asJSON {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	line := func(cell func(column[T]) string) {
		cells := make([]string, len(columns))
		for i, c := range columns {
			cells[i] = cell(c)
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	line(func(c column[T]) string { return c.head })
	for _, r := range rows {
		line(func(c column[T]) string { return c.cell(r) })
	}
	return w.Flush()
}
