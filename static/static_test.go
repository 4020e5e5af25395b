package static

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func TestLoad(t *testing.T) {
	fsys := fstest.MapFS{
		"vendor/.gitignore":    {Data: []byte("*")},
		"vendor/font.LICENSE":  {Data: []byte("licence")},
		"vendor/font.woff2":    {Data: []byte("font")},
		"own/app.js":           {Data: []byte(strings.Repeat("run();", 100))},
		"own/console.css":      {Data: []byte(`a{src:url("/static/font.woff2")} b{src:url("/static/missing.woff2")}`)},
		"own/sub/README.md":    {Data: []byte("no")},
		"vendor/htmx.min.js":   {Data: []byte("h")},
		"vendor/other.min.css": {Data: []byte("o{}")},
	}
	a := load(fsys)
	hashed := regexp.MustCompile(`^/static/font\.[0-9a-f]{12}\.woff2$`)
	if !hashed.MatchString(a.url["font.woff2"]) {
		t.Errorf("address %q", a.url["font.woff2"])
	}
	if got, want := string(a.files[a.url["console.css"]].body), `a{src:url("`+a.url["font.woff2"]+`")} b{src:url("/static/missing.woff2")}`; got != want {
		t.Errorf("style sheet %q, want %q", got, want)
	}
	if len(a.files) != 5 {
		t.Errorf("%d files are served, want the 5 that browsers ask for", len(a.files))
	}
	if a.files[a.url["app.js"]].gzip == nil || a.files[a.url["font.woff2"]].gzip != nil || a.files[a.url["htmx.min.js"]].gzip != nil {
		t.Error("compressed is what is not smaller, or not what is")
	}

	// The address is the content's: it changes with it, and with the files a sheet refers to.
	fsys["vendor/font.woff2"] = &fstest.MapFile{Data: []byte("font 2")}
	b := load(fsys)
	for name, changed := range map[string]bool{"font.woff2": true, "console.css": true, "app.js": false} {
		if (a.url[name] != b.url[name]) != changed {
			t.Errorf("%s: %s and %s", name, a.url[name], b.url[name])
		}
	}
}

func TestServe(t *testing.T) {
	get := func(path, accept string) *http.Response {
		req := httptest.NewRequest(http.MethodGet, path, nil)
		req.Header.Set("Accept-Encoding", accept)
		rec := httptest.NewRecorder()
		Serve(rec, req)
		return rec.Result()
	}
	u := URL("app.js")
	plain, packed := get(u, ""), get(u, "br, gzip")
	want, err := embedded.ReadFile("own/app.js")
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(plain.Body); string(got) != string(want) {
		t.Error("not the file")
	}
	z, err := gzip.NewReader(packed.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(z); string(got) != string(want) || packed.Header.Get("Content-Encoding") != "gzip" {
		t.Error("not the file, compressed")
	}
	for _, res := range []*http.Response{plain, packed} {
		if h := res.Header; !strings.Contains(h.Get("Cache-Control"), "immutable") || h.Get("Vary") != "Accept-Encoding" || h.Get("Content-Type") != "text/javascript; charset=utf-8" {
			t.Errorf("headers %v", h)
		}
	}
	for _, path := range []string{"/static/app.js", "/static/app.000000000000.js", "/static/", "/static/../static.go"} {
		if res := get(path, ""); res.StatusCode != http.StatusNotFound || res.Header.Get("Cache-Control") != "" {
			t.Errorf("%s: %d, %q", path, res.StatusCode, res.Header.Get("Cache-Control"))
		}
	}
}

// Missing is what a page refers to and the program does not have.
func TestMissing(t *testing.T) {
	for _, name := range required {
		if slices.Contains(Missing(), name) != (URL(name) == "") {
			t.Errorf("%s: missing %v, address %q", name, slices.Contains(Missing(), name), URL(name))
		}
	}
	if slices.Contains(Missing(), "app.js") {
		t.Error("a file of our own is missing")
	}
}
