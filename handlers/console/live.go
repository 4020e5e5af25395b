package console

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/a-h/templ"
	"github.com/labstack/echo/v4"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/web/ui"
)

const (
	maxEvents  = 512              // kept for readers that come back
	maxStreams = 8                // of one browser; it needs one, and one more while it reconnects
	heartbeat  = 20 * time.Second // finds dead peers, keeps proxies awake, looks whether the session has ended
	rowPause   = time.Second      // a row is sent at most once in it
	maxRows    = 4096             // that may wait for their turn; beyond, readers look at everything again
)

// event is a change of one account's pages. It is rendered when it is sent, for
// the role of the reader, once a role.
type event struct {
	seq       int64
	account   string
	component templ.Component

	mu   sync.Mutex
	html map[domain.Role]string
}

// Hub keeps the newest events and wakes whoever waits for more. It has no queue
// per reader: a slow reader only lags, and one that lags too far is told to
// fetch its page again.
type Hub struct {
	mu      sync.Mutex
	run     string // ids of another run mean nothing here
	seq     int64
	ring    []*event
	more    chan struct{}               // closes at the next event
	streams map[string]map[*stream]bool // by handle of a session
}

// stream is one reader, by every session of its browser.
type stream struct {
	end context.CancelFunc
}

// NewHub returns a hub without events.
func NewHub() *Hub {
	return &Hub{run: strings.ToLower(rand.Text()[:8]), more: make(chan struct{}), streams: map[string]map[*stream]bool{}}
}

// Last is the id of the newest event: what a page that is rendered from now on
// already shows.
func (h *Hub) Last() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.id(h.seq)
}

func (h *Hub) id(seq int64) string { return h.run + "-" + strconv.FormatInt(seq, 10) }

// Publish sends t to every reader of the account. t is rendered with a context
// that has the reader's scope, and again only for another role.
func (h *Hub) Publish(account string, t templ.Component) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq++
	h.ring = append(h.ring, &event{seq: h.seq, account: account, component: t, html: map[domain.Role]string{}})
	if len(h.ring) > maxEvents {
		h.ring = slices.Delete(h.ring, 0, len(h.ring)-maxEvents)
	}
	h.wake()
}

// Reset makes every reader fetch its page again: something was missed.
func (h *Hub) Reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq++ // so that no cursor is at the end
	h.ring = nil
	h.wake()
}

func (h *Hub) wake() {
	close(h.more)
	h.more = make(chan struct{})
}

// since returns the events after the one with the id cursor, the id of the
// newest, and a channel that closes at the next one. ok is false if some of them
// are no longer known.
func (h *Hub) since(cursor string) (events []*event, last string, more <-chan struct{}, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	run, n, _ := strings.Cut(cursor, "-")
	seq, err := strconv.ParseInt(n, 10, 64)
	first := h.seq - int64(len(h.ring)) // the newest one before the ring
	if err != nil || run != h.run || seq < first || seq > h.seq {
		return nil, h.id(h.seq), h.more, false
	}
	return slices.Clone(h.ring[seq-first:]), h.id(h.seq), h.more, true
}

// join counts a stream of the sessions with these handles. ok is false if one of
// them has too many already. The context ends when one of them is signed out.
func (h *Hub) join(ctx context.Context, handles []string) (_ context.Context, leave func(), ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range handles {
		if len(h.streams[id]) >= maxStreams {
			return nil, nil, false
		}
	}
	ctx, end := context.WithCancel(ctx)
	s := &stream{end: end}
	for _, id := range handles {
		if h.streams[id] == nil {
			h.streams[id] = map[*stream]bool{}
		}
		h.streams[id][s] = true
	}
	return ctx, func() {
		end()
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, id := range handles {
			delete(h.streams[id], s)
			if len(h.streams[id]) == 0 {
				delete(h.streams, id)
			}
		}
	}, true
}

// end ends the streams of a session; the browser comes back with those it still has.
func (h *Hub) end(handle string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.streams[handle] {
		s.end()
	}
}

// close ends every stream.
func (h *Hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, streams := range h.streams {
		for s := range streams {
			s.end()
		}
	}
}

// ---- the stream

// events is GET /events?account=…&account=…&last=…: the changes of the accounts
// that this browser may see, each event named after its account.
func (k *Console) events(c echo.Context) error {
	accounts := c.QueryParams()["account"]
	readers, handles, err := k.readers(c, accounts)
	if err != nil {
		return err
	}
	ctx, leave, ok := k.hub.join(c.Request().Context(), handles)
	if !ok {
		return &domain.Error{Kind: domain.Limit, Reason: "too_many_streams", Message: "This browser has too many event streams."}
	}
	defer leave()

	cursor := c.Request().Header.Get("Last-Event-ID")
	if cursor == "" {
		cursor = c.QueryParam("last")
	}
	w := c.Response()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{}) // nothing more is read; whether the browser is gone is seen in writing
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	var out bytes.Buffer
	out.WriteString("retry: 500\n\n")
	for {
		events, last, more, ok := k.hub.since(cursor)
		if !ok {
			fmt.Fprintf(&out, "id: %s\nevent: reset\ndata: -\n\n", last)
		}
		for _, e := range events {
			s := readers[e.account]
			if s == nil {
				continue
			}
			html, err := e.render(ctx, s)
			if err != nil {
				k.Log.ErrorContext(ctx, "render event", "account", e.account, "err", err)
				continue // the page is right again when it is next fetched
			}
			k.hub.write(&out, e, html)
		}
		cursor = last
		_ = rc.SetWriteDeadline(time.Now().Add(2 * heartbeat)) // who takes nothing for so long is gone
		_, err := out.WriteTo(w)
		if err == nil {
			err = rc.Flush()
		}
		if err != nil {
			return nil //nolint:nilerr // the browser is gone
		}
		select {
		case <-ctx.Done():
			return nil
		case <-more:
		case <-beat.C:
			if readers, handles, err = k.readers(c, accounts); err != nil || len(handles) == 0 {
				return nil //nolint:nilerr // the session has ended: the browser is told when it comes back
			}
			out.WriteString(":\n\n")
		}
	}
}

// readers are the scopes of those accounts that this browser may see, and the
// handles of its sessions: one of each at least, or an error.
func (k *Console) readers(c echo.Context, accounts []string) (map[string]*domain.Scope, []string, error) {
	who, err := k.Sessions.Identities(c) // not the request's own answer: a stream lives long
	if err != nil {
		return nil, nil, err
	}
	readers := map[string]*domain.Scope{}
	for _, a := range accounts {
		for _, i := range who {
			if s, err := i.Scope(a, k.actor(c)); err == nil {
				readers[a] = s
				break
			}
		}
	}
	if len(readers) == 0 {
		return nil, nil, echo.ErrUnauthorized
	}
	var handles []string
	for _, i := range who {
		handles = append(handles, i.SessionID())
	}
	return readers, handles, nil
}

// write adds an event to a stream; one that has nothing to show for its reader is
// left out.
func (h *Hub) write(out *bytes.Buffer, e *event, html string) {
	if html == "" {
		return
	}
	fmt.Fprintf(out, "id: %s\nevent: %s\n", h.id(e.seq), e.account)
	for line := range strings.Lines(html) {
		fmt.Fprintf(out, "data: %s\n", strings.TrimRight(line, "\r\n"))
	}
	out.WriteByte('\n')
}

// readerKey finds the scope of the reader in the context of an event's rendering.
type readerKey struct{}

func (e *event) render(ctx context.Context, s *domain.Scope) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if html, ok := e.html[s.Role()]; ok {
		return html, nil
	}
	var b strings.Builder
	if err := e.component.Render(context.WithValue(ctx, readerKey{}, s), &b); err != nil {
		return "", err
	}
	e.html[s.Role()] = b.String()
	return b.String(), nil
}

// ---- from the domain's changes to events

// liveView renders what a change of an object changes on the pages of an
// account: patches of its row, of its page's regions. An object that is gone is
// NotFound or Gone: its element, [liveID], is then removed.
type liveView func(ctx context.Context, s *domain.Scope, id string) (templ.Component, error)

// live registers the view of the objects of a kind.
func (r router) live(kind string, v liveView) { r.k.views[kind] = v }

// liveID is the id of the element that is an object's row.
func liveID(kind, id string) string { return kind + "-" + id }

// change is an object that changed, rendered when it is sent: the reader sees
// what is true then.
type change struct {
	view     liveView
	kind, id string
}

// Render implements [templ.Component].
func (ch change) Render(ctx context.Context, w io.Writer) error {
	s, ok := ctx.Value(readerKey{}).(*domain.Scope)
	if !ok {
		return errors.New("console: change rendered without a reader")
	}
	t, err := ch.view(ctx, s, ch.id)
	switch domain.KindOf(err) {
	case domain.NotFound, domain.Gone:
		t = ui.Remove(liveID(ch.kind, ch.id))
	case domain.Denied: // not for this reader's role
		return nil
	default:
		if err != nil {
			return fmt.Errorf("view %s %s: %w", ch.kind, ch.id, err)
		}
	}
	if t == nil {
		return nil
	}
	return t.Render(ctx, w)
}

// Follow turns the changes of a store into events until ctx ends or the feed is
// closed. A row that changes all the time is sent once a second.
func (k *Console) Follow(ctx context.Context, feed <-chan []domain.Change) error {
	sent := map[domain.Change]time.Time{} // in the last rowPause
	waiting := map[domain.Change]bool{}   // for their turn
	tick := time.NewTicker(rowPause)
	defer tick.Stop()
	publish := func(ch domain.Change, now time.Time) {
		sent[ch] = now
		k.hub.Publish(ch.Account, change{k.views[ch.Kind], ch.Kind, ch.ID})
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case changes, ok := <-feed:
			if !ok {
				return nil
			}
			if changes == nil { // some were missed
				clear(waiting)
				k.hub.Reset()
			}
			now := time.Now()
			for _, ch := range changes {
				switch {
				case k.views[ch.Kind] == nil:
				case now.Sub(sent[ch]) < rowPause:
					waiting[ch] = true
				default:
					publish(ch, now)
				}
			}
			if len(waiting)+len(sent) > maxRows {
				clear(waiting)
				clear(sent)
				k.hub.Reset()
			}
		case now := <-tick.C:
			for ch, at := range sent {
				if now.Sub(at) < rowPause {
					continue
				}
				delete(sent, ch)
				if waiting[ch] {
					delete(waiting, ch)
					publish(ch, now)
				}
			}
		}
	}
}
