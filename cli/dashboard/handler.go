package dashboard

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"io"
	"net/http"
	"net/url"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// checkTimeout is for one check of a Pod, which runs a command in it.
	checkTimeout = 30 * time.Second
	// heartbeat is the time after which a stream without changes sends something, so that both sides
	// notice a dead connection.
	heartbeat = 15 * time.Second
)

// pages answers requests that the guard lets through.
type pages struct {
	*Dashboard
	renderer *renderer
}

func newPages(d *Dashboard, base string) (*pages, error) {
	r, err := newRenderer(base, d.cfg.Cluster)
	return &pages{d, r}, err
}

func (p *pages) handler() http.Handler {
	mux := http.NewServeMux()
	for name, contentType := range map[string]string{"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"} {
		mux.HandleFunc("GET /assets/"+name, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", contentType) // Windows may have others
			http.ServeFileFS(w, r, assets, "assets/"+name)
		})
	}
	mux.HandleFunc("GET /stream", p.stream)
	mux.HandleFunc("POST /pods/{namespace}/{name}/check", p.check)
	mux.HandleFunc("GET /", p.show)
	return mux
}

// snapshotFor waits for the first snapshot, and answers the request if there is none.
func (p *pages) snapshotFor(w http.ResponseWriter, r *http.Request) *snapshot {
	changed, s, err := p.latest.get()
	if s == nil && err == nil {
		select {
		case <-changed:
			_, s, err = p.latest.get()
		case <-r.Context().Done():
			return nil
		}
	}
	if err != nil {
		p.refuse(w, http.StatusServiceUnavailable, "The cluster cannot be shown", err.Error())
		return nil
	}
	return s
}

// show writes the page at a path.
func (p *pages) show(w http.ResponseWriter, r *http.Request) {
	s := p.snapshotFor(w, r)
	if s == nil {
		return
	}
	content, ok := s.page(r.URL.EscapedPath()[1:], readFilter(r.URL.Query()))
	switch {
	case ok:
		p.write(w, http.StatusOK, func(w io.Writer) error { return p.renderer.page(w, s, content) })
	case content.Of != "": // it may appear while the page is open
		p.write(w, http.StatusNotFound, func(w io.Writer) error { return p.renderer.page(w, s, content) })
	default:
		p.refuse(w, http.StatusNotFound, "Not found", "There is no such page.")
	}
}

// check checks a Pod, and writes its page with the result.
func (p *pages) check(w http.ResponseWriter, r *http.Request) {
	s := p.snapshotFor(w, r)
	if s == nil {
		return
	}
	pod := types.NamespacedName{Namespace: r.PathValue("namespace"), Name: r.PathValue("name")}
	content, ok := s.page(objectPath("Pod", pod.Namespace, pod.Name), filter{})
	if !ok {
		p.refuse(w, http.StatusNotFound, "Not found", "This Pod does not exist, or uses no target.")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	report := p.cfg.CheckPod(ctx, pod)
	content.Check.Report = &report
	p.write(w, http.StatusOK, func(w io.Writer) error { return p.renderer.page(w, s, content) })
}

// refuse writes a page with an error.
func (p *pages) refuse(w http.ResponseWriter, code int, head, text string) {
	p.write(w, code, func(w io.Writer) error { return p.renderer.message(w, head, text, "") })
}

// welcome writes a page that leads to another one.
func (p *pages) welcome(w http.ResponseWriter, next string) {
	p.write(w, http.StatusOK, func(w io.Writer) error { return p.renderer.message(w, "Keyferry", "The dashboard opens.", next) })
}

func (p *pages) write(w http.ResponseWriter, code int, render func(io.Writer) error) {
	var html bytes.Buffer
	if err := render(&html); err != nil {
		http.Error(w, fmt.Sprintf("rendering the page: %v", err), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write(html.Bytes()) // the browser may be gone
}

// stream sends the fragments of the page at ?page= as server-sent events: first all of them, and
// then those that have changed.
func (p *pages) stream(w http.ResponseWriter, r *http.Request) {
	of, err := url.Parse(r.URL.Query().Get("page"))
	if err != nil {
		http.Error(w, "page: "+err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	flush := http.NewResponseController(w)
	sent := sentFragments{seed: maphash.MakeSeed(), hashes: map[string]uint64{}}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		changed, s, err := p.latest.get()
		if s != nil && err == nil {
			if err := p.send(w, s, of, &sent); err != nil {
				return
			}
		}
		if flush.Flush() != nil {
			return
		}
		select {
		case <-changed:
		case <-beat.C:
			if _, err := io.WriteString(w, ": alive\n\n"); err != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

// sentFragments are the hashes of what a stream sent.
type sentFragments struct {
	seed   maphash.Seed
	hashes map[string]uint64
}

// send writes an event with the fragments that differ from those that were sent.
func (p *pages) send(w io.Writer, s *snapshot, of *url.URL, sent *sentFragments) error {
	content, _ := s.page(of.EscapedPath(), readFilter(of.Query()))
	fragments, err := p.renderer.fragments(content)
	if err != nil {
		return err
	}
	changes := map[string]string{}
	for _, f := range fragments {
		if hash := maphash.String(sent.seed, string(f.HTML)); sent.hashes[f.ID] != hash {
			sent.hashes[f.ID] = hash
			changes[f.ID] = string(f.HTML)
		}
	}
	if len(changes) == 0 {
		return nil
	}
	data, err := json.Marshal(changes)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "data: %s\n\n", data)
	return err
}
