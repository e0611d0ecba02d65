package dashboard

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyferry/keyferry/cli/check"
	"github.com/keyferry/keyferry/cli/status"
	"github.com/keyferry/keyferry/cli/terminal"
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed assets
var assets embed.FS

// renderer writes pages. Everything that comes from the cluster goes through html/template, which
// escapes it, and through plain.
type renderer struct {
	templates *template.Template
	cluster   string
}

// navigation is an entry of the navigation.
type navigation struct{ Path, Title string }

// rendered is a fragment as HTML.
type rendered struct {
	ID   string
	HTML template.HTML
}

// newRenderer returns a renderer for pages below a path, such as "/3f9a/".
func newRenderer(base, cluster string) (*renderer, error) {
	return parse(cluster, template.FuncMap{
		"link":       func(path string) string { return base + path },
		"asset":      func(name string) string { return base + "assets/" + name },
		"objectLink": func(kind, namespace, name string) string { return base + objectPath(kind, namespace, name) },
		"pageLink":   func(query string) string { return query },
		"rowID":      rowID,
	})
}

// newExportRenderer returns a renderer for a single file with all pages.
func newExportRenderer(cluster string) (*renderer, error) {
	rows := 0
	return parse(cluster, template.FuncMap{
		"link":  func(path string) string { return "#" + anchor(path) },
		"asset": func(name string) string { return name },
		"objectLink": func(kind, namespace, name string) string {
			if kind == status.KindPod { // which has no page of its own
				return ""
			}
			return "#" + anchor(objectPath(kind, namespace, name))
		},
		"pageLink": func(query string) string { return query },
		"rowID": func(...any) string { // an object has rows in several pages
			rows++
			return "row" + strconv.Itoa(rows)
		},
	})
}

func parse(cluster string, functions template.FuncMap) (*renderer, error) {
	maps.Copy(functions, template.FuncMap{
		"plain": func(text any) string { return terminal.Plain(fmt.Sprint(text)) },
		"tone":  tone, "glyph": glyph, "result": resultTone, "rfc": rfc3339, "utc": utc,
		"nav": func() []navigation {
			return []navigation{{pageTargets, "Targets"}, {pageExpiry, "Expiry"}, {pageAccess, "Access"}, {pageEvents, "Events"}}
		},
	})
	templates, err := template.New("").Funcs(functions).ParseFS(templateFiles, "templates/*.html")
	return &renderer{templates, cluster}, err
}

// objectPath is the path of an object's page below the base.
func objectPath(kind, namespace, name string) string {
	return kindSegments()[kind] + "/" + url.PathEscape(namespace) + "/" + url.PathEscape(name)
}

// anchor is the id of a page in an export.
func anchor(path string) string { return "page/" + path }

// rowID identifies a row, so that the page can update it alone.
func rowID(parts ...any) string { return fmt.Sprint(parts...) }

// tone returns the class of a state.
func tone(state any) string {
	switch fmt.Sprint(state) {
	case string(metav1.ConditionTrue), status.StateReady:
		return "good"
	case string(metav1.ConditionUnknown), "Pending", "Starting", "Running", "NotLookedAt", "PodInitializing", "ContainerCreating":
		return "doubtful"
	}
	return "bad"
}

func glyph(tone string) string {
	return map[string]string{"good": "✓", "bad": "!", "doubtful": "?"}[tone]
}

func resultTone(v check.Verdict) string {
	return map[check.Verdict]string{check.Fine: "good", check.Wrong: "bad", check.Unknown: "doubtful"}[v]
}

// timeOf reads the types of time that objects have.
func timeOf(value any) time.Time {
	switch t := value.(type) {
	case time.Time:
		return t.UTC()
	case metav1.Time:
		return t.UTC()
	case *metav1.Time:
		return t.UTC()
	}
	return time.Time{}
}

// Times are absolute, so that HTML changes only if an object does. The page's script makes them
// relative.
func rfc3339(value any) string { return timeOf(value).Format(time.RFC3339) }

func utc(value any) string { return timeOf(value).Format("2006-01-02 15:04:05 UTC") }

// fragments renders the fragments of a page.
func (r *renderer) fragments(p page) ([]rendered, error) {
	all := make([]rendered, len(p.Fragments))
	for i, f := range p.Fragments {
		var html bytes.Buffer
		if err := r.templates.ExecuteTemplate(&html, f.ID, f.Data); err != nil {
			return nil, err
		}
		all[i] = rendered{f.ID, template.HTML(html.String())} //nolint:gosec // html/template has written it
	}
	return all, nil
}

// page writes a whole page.
func (r *renderer) page(w io.Writer, s *snapshot, p page) error {
	fragments, err := r.fragments(p)
	if err != nil {
		return err
	}
	return r.templates.ExecuteTemplate(w, "layout", struct {
		Page       page
		Cluster    string
		Namespaces []string
		Fragments  []rendered
	}{p, r.cluster, s.Namespaces, fragments})
}

// message writes a page with one sentence, and leads to another page if next is not empty.
func (r *renderer) message(w io.Writer, head, text, next string) error {
	return r.templates.ExecuteTemplate(w, "message", struct{ Head, Text, Continue string }{head, text, next})
}

// exported is a page in an export.
type exported struct {
	Anchor, Title, Of string
	Fragments         []rendered
}

// export writes all pages into one file, which loads nothing.
func (r *renderer) export(w io.Writer, s *snapshot, now time.Time) error {
	paths := []string{pageTargets, pageExpiry, pageAccess, pageEvents}
	for _, t := range s.Targets {
		paths = append(paths, objectPath(t.Kind, t.Namespace, t.Name))
	}
	for _, u := range s.usersOf(filter{}, nil, func(u *user) bool { return !isPod(u) }) {
		paths = append(paths, objectPath(u.Kind, u.Namespace, u.Name))
	}
	slices.Sort(paths[4:])
	var pages []exported
	for _, path := range slices.Compact(paths) {
		p, _ := s.page(path, filter{all: true})
		fragments, err := r.fragments(p)
		if err != nil {
			return err
		}
		if len(pages) > 0 {
			fragments = fragments[1:] // the notices are on the first page
		}
		pages = append(pages, exported{anchor(path), p.Title, p.Of, fragments})
	}
	style, err := assets.ReadFile("assets/page.css")
	if err != nil {
		return err
	}
	icon, err := assets.ReadFile("assets/icon.svg")
	if err != nil {
		return err
	}
	hash := sha256.Sum256(style)
	return r.templates.ExecuteTemplate(w, "export", struct {
		StyleHash, Cluster, At string
		Style                  template.CSS
		Icon                   template.URL
		Pages                  []exported
	}{
		"sha256-" + base64.StdEncoding.EncodeToString(hash[:]), r.cluster, utc(now),
		template.CSS(style), //nolint:gosec // a file of this package
		template.URL("data:image/svg+xml;base64," + base64.StdEncoding.EncodeToString(icon)), //nolint:gosec // a file of this package
		pages,
	})
}
