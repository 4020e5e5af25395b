// Package static embeds the browser's files and serves each under an address
// that holds the hash of its content, so that browsers may keep it for ever.
//
// static/own is ours; static/vendor is copied from npm by static/gen and is not
// in the repository: without it the package still compiles, and [Missing] names
// what is absent.
package static

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
	"regexp"
	"strings"
	"sync"
)

// Prefix is the path under which [Serve] expects to be mounted.
const Prefix = "/static/"

//go:embed all:vendor all:own
var embedded embed.FS

// required is what every page needs.
var required = []string{
	"htmx.min.js", "inter.woff2", "inter-ext.woff2", "mono.woff2", "uplot.min.js", "uplot.min.css",
	"console.css", "app.js", "charts.js", "live.js", "live-worker.js",
}

// kinds are the only files that are served; the licences beside them are not.
// (The host's table of MIME types is not asked: it differs from host to host.)
var kinds = map[string]string{
	".js":    "text/javascript; charset=utf-8",
	".css":   "text/css; charset=utf-8",
	".woff2": "font/woff2",
}

type file struct {
	kind string
	body []byte
	gzip []byte // nil where it would not be smaller
}

type assets struct {
	url   map[string]string // name -> hashed address
	files map[string]file   // hashed address -> file
}

// all reads the embedded files once, when the first page is rendered.
var all = sync.OnceValue(func() assets { return load(embedded) })

// load hashes the files below vendor and own. Style sheets come last: the
// addresses in them are replaced by the hashed ones.
func load(fsys fs.FS) assets {
	a := assets{url: map[string]string{}, files: map[string]file{}}
	var sheets []string
	walk := func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || d.IsDir() || kinds[path.Ext(name)] == "":
			return err
		case path.Ext(name) == ".css":
			sheets = append(sheets, name)
			return nil
		}
		body, err := fs.ReadFile(fsys, name)
		a.add(path.Base(name), body)
		return err
	}
	for _, dir := range []string{"vendor", "own"} {
		if err := fs.WalkDir(fsys, dir, walk); err != nil {
			panic(err) // an embedded file that cannot be read
		}
	}
	for _, name := range sheets {
		body, err := fs.ReadFile(fsys, name)
		if err != nil {
			panic(err)
		}
		a.add(path.Base(name), cssURL.ReplaceAllFunc(body, func(ref []byte) []byte {
			if u, ok := a.url[path.Base(string(ref))]; ok {
				return []byte(u)
			}
			return ref
		}))
	}
	return a
}

var cssURL = regexp.MustCompile(Prefix + `[a-z0-9.-]+`)

func (a *assets) add(name string, body []byte) {
	sum := sha256.Sum256(body)
	ext := path.Ext(name)
	u := Prefix + strings.TrimSuffix(name, ext) + "." + hex.EncodeToString(sum[:6]) + ext
	f := file{kind: kinds[ext], body: body}
	if ext != ".woff2" { // compressed already
		var z bytes.Buffer
		w, _ := gzip.NewWriterLevel(&z, gzip.BestCompression) // the level is valid
		_, _ = w.Write(body)                                  // into memory
		_ = w.Close()
		if z.Len() < len(body) {
			f.gzip = z.Bytes()
		}
	}
	a.url[name], a.files[u] = u, f
}

// URL returns the address of the file called name, or "" if it is missing.
func URL(name string) string { return all().url[name] }

// Missing names the files that every page needs and that were not there when
// the program was built.
func Missing() (names []string) {
	for _, n := range required {
		if all().url[n] == "" {
			names = append(names, n)
		}
	}
	return names
}

// Serve answers with the file whose address is the request's path. A wrong hash
// is 404: a page of an older version has its files in the browser's cache.
func Serve(w http.ResponseWriter, r *http.Request) {
	f, ok := all().files[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Add("Vary", "Accept-Encoding")
	body := f.body
	if f.gzip != nil && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		body = f.gzip
	}
	_, _ = w.Write(body) // the browser went away
}
