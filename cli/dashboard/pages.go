package dashboard

import (
	"cmp"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/cli/check"
	"github.com/keyferry/keyferry/cli/events"
	"github.com/keyferry/keyferry/cli/grants"
	"github.com/keyferry/keyferry/cli/status"
)

// rowsPerPage limits tables: browsers are slow with thousands of rows.
const rowsPerPage = 200

// The pages with an entry in the navigation.
const (
	pageTargets = ""
	pageExpiry  = "expiry"
	pageAccess  = "access"
	pageEvents  = "events"
)

// page is the content of one URL.
type page struct {
	// Section is the entry of the navigation.
	Section string
	Title   string
	// Of is the kind of the object that the page is about, such as "TargetCluster"; empty for a list.
	Of        string
	Filter    filter
	Fragments []fragment
	// Check is the form, and the result if there is one; nil for all pages but those of Pods.
	Check *checkForm
}

// fragment is a part of a page that is updated alone. Its ID is also the name of its template.
type fragment struct {
	ID   string
	Data any
}

// filter is what the user searches for.
type filter struct {
	Query     string
	Namespace string
	page      int
	// all is for tables with all rows.
	all bool
}

// checkForm is for the check of one Pod.
type checkForm struct {
	Namespace, Name string
	Report          *check.Report
}

// table is the part of a list that a page shows.
type table[T any] struct {
	Rows                     []T
	From, To, Total          int
	PreviousQuery, NextQuery string
	IsFiltered, IsUnreadable bool
	// ShowTarget and ShowPod say which columns make sense.
	ShowTarget bool
}

// readFilter reads the query of a URL.
func readFilter(query url.Values) filter {
	number, err := strconv.ParseUint(query.Get("page"), 10, 16)
	if err != nil {
		number = 1
	}
	return filter{Query: strings.TrimSpace(query.Get("q")), Namespace: query.Get("namespace"), page: int(number)}
}

// query is the query of a URL for another page of a table.
func (f filter) query(number int) string {
	values := url.Values{}
	for key, value := range map[string]string{"q": f.Query, "namespace": f.Namespace} {
		if value != "" {
			values.Set(key, value)
		}
	}
	if number > 1 {
		values.Set("page", strconv.Itoa(number))
	}
	return "?" + values.Encode()
}

// matches reports whether one of the texts contains what is searched for.
func (f filter) matches(texts ...string) bool {
	if f.Query == "" {
		return true
	}
	query := strings.ToLower(f.Query)
	return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(strings.ToLower(text), query) })
}

func (f filter) inNamespace(namespace string) bool {
	return f.Namespace == "" || f.Namespace == namespace
}

func (f filter) matchesTarget(t *target) bool {
	if !f.matches(t.String(), t.Reason, t.Message, t.Endpoint, t.ServerVersion, string(t.Details.Access), t.Delivery) {
		return false
	}
	return f.inNamespace(t.Namespace) || slices.ContainsFunc(t.All, func(u *user) bool { return u.Namespace == f.Namespace })
}

func (f filter) matchesUser(u *user) bool {
	return f.inNamespace(u.Namespace) && f.matches(u.Namespace+"/"+u.Name, u.ServiceAccount, u.Workload, u.State, u.Message, u.Delivery)
}

// cut returns the rows of a table that a page shows.
func cut[T any](f filter, rows []T) table[T] {
	from := min((max(f.page, 1)-1)*rowsPerPage, len(rows))
	to := min(from+rowsPerPage, len(rows))
	if f.all {
		from, to = 0, len(rows)
	}
	t := table[T]{Rows: rows[from:to], From: from + 1, To: to, Total: len(rows), IsFiltered: f.Query != "" || f.Namespace != ""}
	if from > 0 {
		t.PreviousQuery = f.query(f.page - 1)
	}
	if to < len(rows) {
		t.NextQuery = f.query(f.page + 1)
	}
	return t
}

// page returns the page at a path, such as "targets/fleet/tenant-1". ok is false if there is none.
func (s *snapshot) page(path string, f filter) (p page, ok bool) {
	segments := strings.Split(path, "/")
	for i := range segments {
		segment, err := url.PathUnescape(segments[i])
		if err != nil {
			return page{}, false
		}
		segments[i] = segment
	}
	p = page{Section: segments[0], Filter: f}
	switch {
	case len(segments) == 1:
		p, ok = s.list(p)
	case len(segments) == 3: //nolint:mnd // KIND/NAMESPACE/NAME
		p, ok = s.object(p, segments[0], types.NamespacedName{Namespace: segments[1], Name: segments[2]})
	}
	p.Fragments = append([]fragment{{"notices", s.Notices}}, p.Fragments...)
	return p, ok
}

// list returns a page of the navigation.
func (s *snapshot) list(p page) (page, bool) {
	switch p.Section {
	case pageTargets:
		p.Title = "Targets"
		p.Fragments = []fragment{{"summary", s.summarize()}, {"targets", s.targetTable(p.Filter)}}
		if p.Filter.Query != "" {
			p.Fragments = append(p.Fragments, fragment{"users", s.userTable(p.Filter)})
		}
	case pageExpiry:
		p.Title = "Expiry and renewal"
		p.Fragments = []fragment{{"expiry", s.expiryTable(p.Filter)}, {"renewed", s.renewedInPods(p.Filter)}}
	case pageAccess:
		p.Title = "Access"
		p.Fragments = []fragment{{"incomplete", s.RBACIncomplete}, {"revoked", s.revokedTable(p.Filter)}, {"locks", s.lockTable(p.Filter)}, {"access", s.accessTable(p.Filter)}}
	case pageEvents:
		p.Title = "Events"
		p.Fragments = []fragment{{"events", s.eventTable(p.Filter, "", types.NamespacedName{})}}
	default:
		return p, false
	}
	return p, true
}

// The first segments of the paths of objects, by kind.
func kindSegments() map[string]string {
	return map[string]string{
		status.KindTargetCluster: "targets", status.KindClusterProfile: "clusterprofiles", status.KindCredentialRequest: "credentialrequests", status.KindPod: "pods",
	}
}

// object returns the page of an object.
func (s *snapshot) object(p page, segment string, name types.NamespacedName) (page, bool) {
	p.Section, p.Title = pageTargets, name.String()
	for kind, of := range kindSegments() {
		if of == segment {
			p.Of = kind
		}
	}
	if p.Of == "" {
		return p, false
	}
	users := s.users[userKey{p.Of, name}]
	if p.Of == status.KindPod || len(users) > 0 {
		if p.Of == status.KindPod {
			p.Check = &checkForm{Namespace: name.Namespace, Name: name.Name}
		}
		p.Fragments = []fragment{{"user", users}}
		if p.Of == status.KindCredentialRequest {
			p.Fragments = append(p.Fragments, fragment{"mounted", cut(p.Filter, s.podsWith(name))})
		}
		p.Fragments = append(p.Fragments, fragment{"events", s.eventTable(p.Filter, p.Of, name)})
		return p, len(users) > 0
	}
	i := slices.IndexFunc(s.Targets, func(t *target) bool {
		return t.Kind == p.Of && t.Namespace == name.Namespace && t.Name == name.Name
	})
	if i < 0 {
		p.Fragments = []fragment{{"user", users}}
		return p, false
	}
	t := s.Targets[i]
	p.Fragments = []fragment{
		{"target", t}, {"workloads", s.workloadTable(p.Filter, t)}, {"requests", s.requestTable(p.Filter, t)}, {"pods", s.podTable(p.Filter, t)},
		{"grants", grantsView{t, s.RBACIncomplete}}, {"events", s.eventTable(p.Filter, p.Of, name)},
	}
	return p, true
}

// grantsView is the access to one target.
type grantsView struct {
	*target
	Incomplete []string
}

// summary is the line of numbers at the top.
type summary struct {
	Ready, NotReady, Unknown, Pods, ReadyPods, Requests, Revoked int
	PodsUnknown, RequestsUnknown, TargetsUnknown                 bool
	Next                                                         *user
}

func (s *snapshot) summarize() summary {
	sum := summary{PodsUnknown: s.Unreadable["Pods"], RequestsUnknown: s.Unreadable["CredentialRequests"], TargetsUnknown: s.Unreadable["TargetClusters"]}
	for _, t := range s.Targets {
		switch {
		case t.Kind == status.KindClusterProfile:
		case t.Ready == metav1.ConditionTrue:
			sum.Ready++
		case t.Ready == metav1.ConditionFalse:
			sum.NotReady++
		default:
			sum.Unknown++
		}
		for _, u := range t.All {
			if u.May == grants.No {
				sum.Revoked++
			}
			if u.Kind == status.KindCredentialRequest && u.Ends != nil && (sum.Next == nil || u.Ends.Before(sum.Next.Ends)) {
				sum.Next = u
			}
		}
	}
	for key, uses := range s.users { // a Pod may use several targets
		switch {
		case key.kind == status.KindCredentialRequest:
			sum.Requests++
		case uses[0].State == status.StateReady:
			sum.ReadyPods++
			fallthrough
		default:
			sum.Pods++
		}
	}
	return sum
}

func (s *snapshot) targetTable(f filter) table[*target] {
	t := cut(f, slices.DeleteFunc(slices.Clone(s.Targets), func(t *target) bool { return !f.matchesTarget(t) }))
	t.IsUnreadable = s.Unreadable["TargetClusters"]
	return t
}

// usersOf returns the users that a filter and a condition leave.
func (s *snapshot) usersOf(f filter, of *target, keep func(*user) bool) []*user {
	var found []*user
	for _, t := range s.Targets {
		if of != nil && t != of {
			continue
		}
		for _, u := range t.All {
			if keep(u) && f.matchesUser(u) {
				found = append(found, u)
			}
		}
	}
	return found
}

func isPod(u *user) bool { return u.Kind == status.KindPod }

func (s *snapshot) userTable(f filter) table[*user] {
	t := cut(f, s.usersOf(f, nil, func(*user) bool { return true }))
	t.ShowTarget = true
	return t
}

func (s *snapshot) podTable(f filter, of *target) table[*user] {
	t := cut(f, s.usersOf(f, of, isPod))
	t.IsUnreadable = s.Unreadable["Pods"]
	return t
}

func (s *snapshot) requestTable(f filter, of *target) table[*user] {
	t := cut(f, s.usersOf(f, of, func(u *user) bool { return !isPod(u) }))
	t.IsUnreadable = s.Unreadable["CredentialRequests"]
	return t
}

func (s *snapshot) podsWith(request types.NamespacedName) []*user {
	return s.usersOf(filter{}, nil, func(u *user) bool { return isPod(u) && u.Namespace == request.Namespace && u.Request == request.Name })
}

// workload is the Pods of one workload with one ServiceAccount.
type workload struct {
	Namespace, Name, ServiceAccount, Delivery string
	Pods, Ready                               int
	May                                       grants.Answer
	// Example is one of the Pods: the first that is not ready, if there is one.
	Example *user
}

func (s *snapshot) workloadTable(f filter, of *target) table[*workload] {
	byKey := map[[4]string]*workload{}
	var all []*workload
	for _, u := range s.usersOf(f, of, isPod) {
		key := [4]string{u.Namespace, cmp.Or(u.Workload, "Pod "+u.Name), u.ServiceAccount, u.Delivery}
		w := byKey[key]
		if w == nil {
			w = &workload{Namespace: u.Namespace, Name: key[1], ServiceAccount: u.ServiceAccount, Delivery: u.Delivery, May: u.May, Example: u}
			byKey[key] = w
			all = append(all, w)
		}
		w.Pods++
		if u.State == status.StateReady {
			w.Ready++
		} else if w.Example.State == status.StateReady {
			w.Example = u
		}
	}
	slices.SortStableFunc(all, func(a, b *workload) int { // those with problems are the first
		return cmp.Or(cmp.Compare(min(a.Ready-a.Pods, 0), min(b.Ready-b.Pods, 0)), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	t := cut(f, all)
	t.IsUnreadable = s.Unreadable["Pods"]
	return t
}

// expiryTable has the credentials in Secrets; the next to expire is the first.
func (s *snapshot) expiryTable(f filter) table[*user] {
	found := s.usersOf(f, nil, func(u *user) bool { return u.Kind == status.KindCredentialRequest })
	slices.SortStableFunc(found, func(a, b *user) int { return a.expiry().Compare(b.expiry()) })
	t := cut(f, found)
	t.IsUnreadable, t.ShowTarget = s.Unreadable["CredentialRequests"], true
	return t
}

// expiry is the time to sort by. Credentials that are not issued yet are the last.
func (u *user) expiry() time.Time {
	if u.Ends == nil {
		return time.Unix(1<<40, 0)
	}
	return u.Ends.Time
}

// renewedInPods are the Pods whose sidecar, or kubelet, renews the credential.
func (s *snapshot) renewedInPods(f filter) table[*user] {
	t := cut(f, s.usersOf(f, nil, func(u *user) bool { return isPod(u) && u.Request == "" }))
	t.IsUnreadable, t.ShowTarget = s.Unreadable["Pods"], true
	return t
}

// revokedTable has the users that may not use their target any more.
func (s *snapshot) revokedTable(f filter) table[*user] {
	t := cut(f, s.usersOf(f, nil, func(u *user) bool { return u.May == grants.No }))
	t.ShowTarget = true
	return t
}

func (s *snapshot) lockTable(f filter) table[*lock] {
	t := cut(f, slices.DeleteFunc(slices.Clone(s.Locks), func(l *lock) bool {
		isOfAll := l.Subject.Namespace == ""
		return !f.matches(l.String(), l.SubjectName(), l.Reason) || !isOfAll && !f.inNamespace(l.Subject.Namespace)
	}))
	t.IsUnreadable = s.Unreadable["Locks"] || s.Unreadable["ClusterLocks"]
	return t
}

// access is one grant for one target.
type access struct {
	Target *target
	grants.Grant
	// Users is the number of Pods and CredentialRequests that use the grant.
	Users int
}

func (s *snapshot) accessTable(f filter) table[access] {
	var all []access
	for _, t := range s.Targets {
		for _, g := range t.Grants {
			if !f.matches(t.String(), g.String(), g.Binding, g.Role) || !f.inNamespace(t.Namespace) && !f.inNamespace(g.Namespace) {
				continue
			}
			a := access{Target: t, Grant: g}
			for _, u := range t.All {
				if g.Covers(u.account()) {
					a.Users++
				}
			}
			all = append(all, a)
		}
	}
	return cut(f, all)
}

// eventTable has the Events about one object; about all objects if kind is empty.
func (s *snapshot) eventTable(f filter, kind string, name types.NamespacedName) table[events.Event] {
	var found []events.Event
	for _, e := range s.Events {
		about := kind == "" || e.Kind == kind && e.Namespace == name.Namespace && e.Name == name.Name
		if about && f.inNamespace(e.Namespace) && f.matches(e.Namespace+"/"+e.Name, e.Kind, e.Reason, e.Message, e.Type) {
			found = append(found, e)
		}
	}
	t := cut(f, found)
	t.IsUnreadable = s.Unreadable["Events"]
	return t
}
