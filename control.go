package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/proxy"
)

// The control socket is how commands speak to a running server: HTTP over a unix
// socket in the data folder, for the server's own user and root only. One table of
// operations serves the socket and, while no server runs, the command itself.

// operations is what commands can ask for.
var operations = map[string]func(ctx context.Context, a *admin, in json.RawMessage) (any, error){
	"account-create":    call((*admin).createAccount),
	"account-list":      call((*admin).accounts),
	"user-create":       call((*admin).createUser),
	"user-list":         call((*admin).users),
	"user-sign-in-link": call((*admin).signInLink),
	"access-key-create": call((*admin).createAccessKey),
	"access-key-list":   call((*admin).accessKeys),
	"status":            call((*admin).status),
	"attachment-find":   call((*admin).findAttachment),
}

// call turns a typed operation into one of the table.
func call[In, Out any](f func(*admin, context.Context, In) (Out, error)) func(context.Context, *admin, json.RawMessage) (any, error) {
	return func(ctx context.Context, a *admin, raw json.RawMessage) (any, error) {
		var in In
		if err := json.Unmarshal(raw, &in); err != nil {
			return nil, fmt.Errorf("read request: %w", err)
		}
		return f(a, ctx, in)
	}
}

func (c *config) controlPath() string { return filepath.Join(c.data, "control.sock") }

// peerKey holds a connection's credentials in its context.
type peerKey struct{}

// listenControl makes the socket; nobody else can open it at any moment.
func listenControl(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	return net.Listen("unix", path) //nolint:noctx // it ends with the server
}

// serveControl answers commands until ctx ends. end is called when one asks the
// server to end, with why.
func serveControl(ctx context.Context, ln net.Listener, a *admin, end func(why error), log *slog.Logger) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{operation}", func(w http.ResponseWriter, r *http.Request) {
		f, ok := operations[r.PathValue("operation")]
		if !ok {
			answer(w, http.StatusNotFound, nil, fmt.Errorf("this server does not know %q: is it of another version?", r.PathValue("operation")))
			return
		}
		in, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			answer(w, http.StatusBadRequest, nil, err)
			return
		}
		out, err := f(r.Context(), a, in)
		if err != nil {
			if domain.KindOf(err) == domain.Internal {
				log.ErrorContext(r.Context(), "command failed", "operation", r.PathValue("operation"), "err", err)
			}
			answer(w, http.StatusUnprocessableEntity, nil, err)
			return
		}
		answer(w, http.StatusOK, out, nil)
	})
	mux.HandleFunc("GET /backup", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Error")
		if err := a.store.Backup(r.Context(), w); err != nil {
			w.Header().Set("X-Error", err.Error())
		}
	})
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, os.Getpid(), nil)
		end(errStop)
	})
	mux.HandleFunc("POST /upgrade", func(w http.ResponseWriter, r *http.Request) {
		var program string
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&program)
		if err == nil {
			err = checkProgram(program)
		}
		if err != nil {
			answer(w, http.StatusUnprocessableEntity, nil, err)
			return
		}
		answer(w, http.StatusOK, os.Getpid(), nil)
		end(&successor{program: program})
	})
	srv := &http.Server{
		ReadHeaderTimeout: readHeaderTimeout,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			uc, ok := c.(*net.UnixConn)
			if !ok {
				return context.WithValue(ctx, peerKey{}, errors.New("not a unix socket"))
			}
			return context.WithValue(ctx, peerKey{}, proxy.CheckPeer(uc))
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err, _ := r.Context().Value(peerKey{}).(error); err != nil {
				answer(w, http.StatusForbidden, nil, err)
				return
			}
			mux.ServeHTTP(w, r)
		}),
	}
	// Whoever asked for the end still gets the answer.
	ended := make(chan struct{})
	stopped := context.AfterFunc(ctx, func() {
		defer close(ended)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), controlGrace)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close() //nolint:errcheck // nothing is left to tell
		}
	})
	defer stopped()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-ended
	return nil
}

// controlGrace is how long commands in progress may take when the server ends.
const controlGrace = 2 * time.Second

// reply is the envelope of every answer on the socket.
type reply struct {
	Error string          `json:"error,omitempty"`
	Value json.RawMessage `json:"value,omitempty"`
}

func answer(w http.ResponseWriter, code int, value any, err error) {
	var r reply
	if err != nil {
		r.Error = sentence(err)
	} else if r.Value, err = json.Marshal(value); err != nil {
		code, r.Error = http.StatusInternalServerError, err.Error()
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(r) //nolint:errcheck // the command is gone
}

// sentence is what a person reads of err.
func sentence(err error) string {
	if faults := domain.Fields(err); len(faults) > 0 {
		said := make([]string, len(faults))
		for i, f := range faults {
			said[i] = f.Field + ": " + f.Message
		}
		return strings.Join(said, " ")
	}
	if de, ok := errors.AsType[*domain.Error](err); ok && de.Kind != domain.Internal {
		return de.Message
	}
	return err.Error()
}

// errNoServer says that nobody listens on the control socket.
var errNoServer = errors.New("no server runs on this data folder")

// controlClient speaks to the socket at path.
func controlClient(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "unix", path)
			if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) {
				return nil, errNoServer
			}
			return c, err
		},
	}}
}

// remote runs an operation at the running server; errNoServer if there is none.
func remote(ctx context.Context, path, operation string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://control/"+operation, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := controlClient(path).Do(req)
	if err != nil {
		if errors.Is(err, errNoServer) {
			return errNoServer
		}
		return fmt.Errorf("ask the server: %w", err)
	}
	defer resp.Body.Close()
	var r reply
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	if r.Error != "" {
		return errors.New(r.Error)
	}
	return json.Unmarshal(r.Value, out)
}
