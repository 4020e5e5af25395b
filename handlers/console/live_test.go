package console

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/a-h/templ"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/domain/domaintest"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

func text(s string) templ.Component { return templ.Raw(s) }

func TestHubSince(t *testing.T) {
	h := NewHub()
	start := h.Last()
	for i := range 3 {
		h.Publish("a", text(fmt.Sprint(i)))
	}
	middle := h.id(2)
	tests := []struct {
		cursor string
		want   int // events, -1 for: look at everything again
	}{
		{start, 3},
		{middle, 1},
		{h.Last(), 0},
		{"", -1},
		{"other-2", -1},
		{h.id(4), -1},
		{h.run + "-x", -1},
		{h.id(-1), -1},
	}
	for _, tt := range tests {
		events, last, _, ok := h.since(tt.cursor)
		if got := len(events); ok != (tt.want >= 0) || ok && got != tt.want {
			t.Errorf("since %q: %d events, known %v; want %d", tt.cursor, got, ok, tt.want)
		}
		if last != h.Last() {
			t.Errorf("since %q ends at %s, want %s", tt.cursor, last, h.Last())
		}
	}

	_, _, more, _ := h.since(h.Last())
	select {
	case <-more:
		t.Fatal("woken without an event")
	default:
	}
	h.Publish("a", text("x"))
	<-more

	for range maxEvents {
		h.Publish("a", text("x"))
	}
	if _, _, _, ok := h.since(start); ok {
		t.Error("a reader behind the ring is not told")
	}
	if got := len(h.ring); got != maxEvents {
		t.Errorf("%d events are kept, want %d", got, maxEvents)
	}
	end := h.Last()
	h.Reset()
	if _, _, _, ok := h.since(end); ok {
		t.Error("after a reset, an old cursor is still good")
	}
	if _, _, _, ok := h.since(h.Last()); !ok {
		t.Error("after a reset, a new page is not live")
	}
}

func TestHubCapsAndEndsStreams(t *testing.T) {
	h := NewHub()
	var contexts []context.Context
	var leave func()
	for range maxStreams {
		ctx, l, ok := h.join(t.Context(), []string{"mara", "jon"})
		if !ok {
			t.Fatal("refused below the limit")
		}
		contexts, leave = append(contexts, ctx), l
		defer l()
	}
	if _, _, ok := h.join(t.Context(), []string{"jon"}); ok {
		t.Error("one more than the limit is let in")
	}
	leave()
	if _, l, ok := h.join(t.Context(), []string{"jon"}); !ok {
		t.Error("refused after one has left")
	} else {
		l()
	}
	_, other, _ := h.join(t.Context(), []string{"ann"})
	defer other()
	h.end("mara")
	for _, ctx := range contexts {
		if ctx.Err() == nil {
			t.Error("a stream outlives the session")
		}
	}
}

func TestEventIsRenderedForItsReader(t *testing.T) {
	w := domaintest.New(t)
	account := w.Provider.Account().ID
	renders := 0
	row := func(_ context.Context, s *domain.Scope, id string) (templ.Component, error) {
		renders++
		switch {
		case id == "gone":
			return nil, &domain.Error{Kind: domain.NotFound}
		case !s.Can(domain.WriteProvide):
			return text("row " + id), nil
		}
		return text("row " + id + " Accept"), nil
	}
	e := &event{component: change{row, "connection", "ep-1"}, html: map[domain.Role]string{}}
	for _, s := range []*domain.Scope{w.Provider, w.As(account, domain.RoleAuditor), w.As(account, domain.RoleAuditor)} {
		got, err := e.render(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(got, "Accept") != (s.Role() == domain.RoleOwner) {
			t.Errorf("the %s reads %q", s.Role(), got)
		}
	}
	if renders != 2 {
		t.Errorf("rendered %d times for two roles", renders)
	}
	gone := &event{component: change{row, "connection", "gone"}, html: map[domain.Role]string{}}
	if got, err := gone.render(t.Context(), w.Provider); err != nil || !strings.Contains(got, `hx-target="#connection-gone" hx-swap="delete"`) {
		t.Errorf("what is gone is %q, %v", got, err)
	}
	if err := (change{row, "connection", "ep-1"}).Render(t.Context(), io.Discard); err == nil {
		t.Error("rendered for nobody")
	}
}

func TestFollowSendsARowOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := New(Config{})
		k.views[domain.KindConnection] = func(context.Context, *domain.Scope, string) (templ.Component, error) { return nil, nil }
		feed := make(chan []domain.Change)
		ended := make(chan error)
		go func() { ended <- k.Follow(t.Context(), feed) }()
		sent := func() int64 {
			synctest.Wait()
			k.hub.mu.Lock()
			defer k.hub.mu.Unlock()
			return k.hub.seq
		}

		row := domain.Change{Account: "a", Kind: domain.KindConnection, ID: "ep-1"}
		other := domain.Change{Account: "b", Kind: domain.KindConnection, ID: "ep-1"}
		feed <- []domain.Change{row, other, {Account: "a", Kind: domain.KindSite, ID: "nothing shows it"}}
		if got := sent(); got != 2 {
			t.Fatalf("%d events at once, want one for each account", got)
		}
		for range 100 {
			feed <- []domain.Change{row}
		}
		if got := sent(); got != 2 {
			t.Errorf("%d events in the same second, want 2", got)
		}
		time.Sleep(2 * rowPause)
		if got := sent(); got != 3 {
			t.Errorf("%d events a second later, want one more for a hundred changes", got)
		}
		time.Sleep(10 * rowPause)
		if got := sent(); got != 3 {
			t.Errorf("%d events without a change, want 3", got)
		}
		before := k.hub.Last()
		feed <- nil
		sent()
		if _, _, _, ok := k.hub.since(before); ok {
			t.Error("readers do not hear that changes were missed")
		}
		close(feed)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestFollowIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := New(Config{})
		k.views[domain.KindConnection] = func(context.Context, *domain.Scope, string) (templ.Component, error) { return nil, nil }
		feed := make(chan []domain.Change)
		go func() {
			if err := k.Follow(t.Context(), feed); err != nil {
				t.Error(err)
			}
		}()
		before := k.hub.Last()
		for i := range maxRows + 1 {
			feed <- []domain.Change{{Account: "a", Kind: domain.KindConnection, ID: fmt.Sprint(i)}}
		}
		synctest.Wait()
		if _, _, _, ok := k.hub.since(before); ok {
			t.Error("a flood of rows is not a reset")
		}
		close(feed)
	})
}

// reader reads one event stream.
type reader struct {
	*bufio.Scanner
	close func()
}

func (a *testApp) stream(t *testing.T, b *http.Client, query string) *reader {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.URL+"/events?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := b.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("stream: %d, %s", res.StatusCode, res.Header.Get("Content-Type"))
	}
	r := &reader{bufio.NewScanner(res.Body), func() { _ = res.Body.Close() }}
	t.Cleanup(r.close)
	return r
}

// next is the next message: its lines, or io.EOF.
func (r *reader) next() (map[string]string, error) {
	m := map[string]string{}
	for r.Scan() {
		name, value, _ := strings.Cut(r.Text(), ": ")
		if r.Text() == "" && m["event"] != "" {
			return m, nil
		}
		m[name] += value
	}
	return nil, errors.Join(r.Err(), io.EOF)
}

func TestStream(t *testing.T) {
	a := newTestApp(t)
	mine, theirs := a.Provider.Account().ID, a.Consumer.Account().ID
	b := a.browser(t)
	a.signIn(t, b, a.user(t, "mara", a.Provider))
	last := a.console.hub.Last()
	a.console.hub.Publish(theirs, text("secret"))
	a.console.hub.Publish(mine, text("one\ntwo"))
	r := a.stream(t, b, "account="+mine+"&account="+theirs+"&last="+last)
	m, err := r.next()
	if err != nil || m["event"] != mine || m["data"] != "onetwo" || m["id"] != a.console.hub.Last() {
		t.Fatalf("first message %v, %v", m, err)
	}
	a.console.hub.Publish(mine, ui.Added("services"))
	if m, err := r.next(); err != nil || !strings.Contains(m["data"], "#services-added") {
		t.Fatalf("second message %v, %v", m, err)
	}
	a.console.hub.Reset()
	if m, err := r.next(); err != nil || m["event"] != "reset" {
		t.Fatalf("after a reset: %v, %v", m, err)
	}
	old := a.stream(t, b, "account="+mine+"&last=gone-1")
	if m, err := old.next(); err != nil || m["event"] != "reset" {
		t.Fatalf("with an unknown cursor: %v, %v", m, err)
	}

	who, err := a.sessions.Identities(a.context(t, b))
	if err != nil || len(who) != 1 {
		t.Fatal(who, err)
	}
	a.post(t, b, "/sign-out/"+who[0].SessionID(), nil)
	for _, r := range []*reader{r, old} {
		if m, err := r.next(); !errors.Is(err, io.EOF) {
			t.Errorf("after the sign-out the stream brings %v, %v", m, err)
		}
	}
}

func TestStreamsEndWithTheConsole(t *testing.T) {
	a := newTestApp(t)
	b := a.browser(t)
	a.signIn(t, b, a.user(t, "mara", a.Provider))
	r := a.stream(t, b, "account="+a.Provider.Account().ID)
	if m, err := r.next(); err != nil || m["event"] != "reset" {
		t.Fatalf("without a cursor: %v, %v", m, err)
	}
	a.console.Close()
	if _, err := r.next(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream goes on: %v", err)
	}
}
