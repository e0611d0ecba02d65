package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/e2e/audit"
	"github.com/keyferry/keyferry/e2e/cluster"
)

// witness sees what the tests do to the clusters, and tells afterwards whether a secret was
// anywhere to be seen, and whether Keyferry used the rights that it has and was denied nothing.
type witness struct {
	start time.Time
	// stop ends what goes on besides the tests, and waits for it.
	stop func()

	mu sync.Mutex
	// processes is how many looks were taken at those of the nodes.
	processes int
	errs      []error
	// changes are the times in which the release was changed, from the first moment to the last.
	changes [][2]time.Time
}

// newWitness begins to watch. Clusters that are not of kind show no nodes.
func newWitness(pair *cluster.Pair) (*witness, error) {
	w := &witness{start: time.Now()}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	w.stop = func() { cancel(); all.Wait() }
	for _, c := range []*cluster.Cluster{pair.Management, pair.Target} {
		if c.Kind == "" {
			continue
		}
		wait, err := c.KeepLogs(ctx)
		if err != nil {
			w.stop()
			return nil, err
		}
		all.Go(wait)
		all.Go(func() { w.watchProcesses(ctx, c) })
	}
	return w, nil
}

// watchProcesses looks at what runs on a node every ten seconds.
func (w *witness) watchProcesses(ctx context.Context, c *cluster.Cluster) {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		list, err := c.Processes(ctx)
		if err != nil {
			continue // somebody stopped it, or the node is too busy
		}
		w.mu.Lock()
		w.processes++
		w.mu.Unlock()
		w.look("the processes of the "+c.Name+" cluster", list)
	}
}

// look searches something for secrets.
func (w *witness) look(where string, data []byte) {
	if err := suite.secrets.Find(data); err != nil {
		w.fail(fmt.Errorf("in %s there is %w", where, err))
	}
}

func (w *witness) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.ContainsFunc(w.errs, func(e error) bool { return e.Error() == err.Error() }) {
		w.errs = append(w.errs, err)
	}
}

// changed notes that the release was changed from then until now. What ran before may have rights
// no longer while it ends.
func (w *witness) changed(from time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changes = append(w.changes, [2]time.Time{from, time.Now().Add(time.Minute)})
}

func (w *witness) changing(t time.Time) bool {
	return slices.ContainsFunc(w.changes, func(c [2]time.Time) bool { return t.After(c[0]) && t.Before(c[1]) })
}

// report stops watching, looks at all that the tests leave, says what was seen, and returns what
// should not have been. Which rights were not used, only a whole run can tell.
func (w *witness) report(ctx context.Context, out io.Writer, whole bool) error {
	w.stop()
	var own corev1.SecretList
	if err := suite.management.List(ctx, &own, client.InNamespace(suite.release)); err != nil {
		w.fail(err)
	}
	for i := range own.Items {
		if own.Items[i].Type != "helm.sh/release.v1" {
			plantIssued(&own.Items[i])
		}
	}
	for _, k := range []*kube{suite.management, suite.target} {
		w.searchObjects(ctx, k)
	}
	metrics := w.searchMetrics(ctx, suite.release)
	fmt.Fprintf(out, "%d secrets were looked for in %d pages of metrics, %d lists of processes", suite.secrets.Len(), metrics, w.processes)
	for _, c := range []*cluster.Cluster{suite.pair.Management, suite.pair.Target} {
		if c.Kind != "" {
			w.searchNode(ctx, out, c)
		}
	}
	fmt.Fprintln(out)
	if suite.pair.Management.Kind != "" {
		w.checkRights(ctx, out, whole)
	}
	return errors.Join(w.errs...)
}

// searchObjects looks at Events, and at all objects of ours and of whatever we write into but
// Secrets.
func (w *witness) searchObjects(ctx context.Context, k *kube) {
	kinds := "events,configmaps,pods,serviceaccounts,deployments,replicasets,jobs"
	if k == suite.management {
		kinds += ",targetclusters,credentialrequests,mutatingwebhookconfigurations,validatingwebhookconfigurations"
	}
	list, err := exec.CommandContext(ctx, suite.kubectl, "--kubeconfig", k.kubeconfig, "get", kinds, "-A", "-o", "json").Output()
	if err != nil {
		w.fail(fmt.Errorf("listing objects to search: %w", err))
	}
	w.look("the objects of "+k.config.Host, list)
}

// searchMetrics scrapes Keyferry and sidecars of a namespace, and returns how many answered.
func (w *witness) searchMetrics(ctx context.Context, namespace string) (pages int) {
	pods, err := suite.management.clientset.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		w.fail(fmt.Errorf("listing Pods for their metrics: %w", err))
		return 0
	}
	read := func(pod *corev1.Pod) ([]byte, error) {
		return suite.management.clientset.CoreV1().Pods(namespace).ProxyGet("http", pod.Name, pod.Annotations["keyferry.dev/metrics-port"], "/metrics", nil).DoRaw(ctx)
	}
	if namespace == suite.release {
		s, remove, err := newScraper(ctx)
		if err != nil {
			w.fail(fmt.Errorf("preparing to read Keyferry's metrics: %w", err))
			return 0
		}
		defer func() {
			if err := remove(); err != nil {
				w.fail(err)
			}
		}()
		read = func(pod *corev1.Pod) ([]byte, error) { return s.scrape(ctx, pod) }
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.Status.Phase != corev1.PodRunning || namespace != suite.release && pod.Annotations["keyferry.dev/metrics-port"] == "" {
			continue
		}
		page, err := read(pod)
		if err != nil {
			w.fail(fmt.Errorf("reading the metrics of Pod %s: %w", pod.Name, err))
			continue
		}
		w.look("the metrics of Pod "+pod.Name, page)
		pages++
	}
	return pages
}

// searchNode looks at all logs since the start, at the API server's audit log, and for memory
// dumps.
func (w *witness) searchNode(ctx context.Context, out io.Writer, c *cluster.Cluster) {
	logs, size := 0, 0
	err := c.Logs(ctx, func(path string, log []byte) error {
		logs, size = logs+1, size+len(log)
		w.look("the log "+path+" of the "+c.Name+" cluster", log)
		return nil
	})
	audited, auditErr := c.Audit(ctx)
	w.look("the audit log of the "+c.Name+" cluster", audited)
	cores, coresErr := c.CoreFiles(ctx)
	if len(cores) > 0 {
		w.fail(fmt.Errorf("processes of the %s cluster left their memory in %s", c.Name, strings.Join(cores, " ")))
	}
	if err := errors.Join(err, auditErr, coresErr); err != nil {
		w.fail(err)
	}
	fmt.Fprintf(out, "; of the %s cluster in %d logs (%d MB) and an audit log of %d MB", c.Name, logs, size>>20, len(audited)>>20)
}

// checkRights compares Keyferry's rights with what its ServiceAccounts asked the API server for.
func (w *witness) checkRights(ctx context.Context, out io.Writer, whole bool) {
	log, err := suite.pair.Management.Audit(ctx)
	if err != nil {
		w.fail(err)
		return
	}
	if err := os.WriteFile(filepath.Join(suite.runDir, "audit.log"), log, 0o600); err != nil {
		w.fail(err)
	}
	requests, err := audit.Parse(log, w.start)
	if err != nil {
		w.fail(err)
		return
	}
	prefix := "system:serviceaccount:" + suite.release + ":keyferry-"
	for _, denied := range audit.Denied(prefix, requests) {
		if !w.changing(denied.Time) {
			w.fail(fmt.Errorf("at %s, %s had no right to %s %s", denied.Time.Format(time.TimeOnly), denied.User.Name, denied.Verb, denied.URI))
		}
	}
	if !whole {
		return
	}
	rights, err := keyferryRights(ctx, prefix)
	if err != nil {
		w.fail(err)
		return
	}
	for _, unused := range audit.Unused(rights, requests) {
		if !byAdmission(unused) && !byLaterVersions(unused) {
			w.fail(fmt.Errorf("no test needed a right that Keyferry has: %s", unused))
		}
	}
	fmt.Fprintf(out, "%d rights of Keyferry were compared with %d requests\n", len(rights), len(requests))
}

// byAdmission says of a right that it is asked for within the API server, of which the audit log
// shows nothing: the admission plugin OwnerReferencesPermissionEnforcement does, when an object
// with an owner is made. Without the right, tests of CredentialRequests fail.
func byAdmission(right audit.Right) bool {
	return strings.HasSuffix(right.Resource, "/finalizers") && right.Verb == "update"
}

// byLaterVersions reports whether only later versions of Kubernetes than the cluster's need a
// right: the webhook lists nodes to detect features of kubelets, but only if the API server has
// them.
func byLaterVersions(right audit.Right) bool {
	return !suite.imageVolumes && right.Resource == "nodes" && right.Verb == "list"
}

// keyferryRights reads what the roles that are bound to ServiceAccounts of Keyferry allow.
func keyferryRights(ctx context.Context, prefix string) (rights []audit.Right, err error) {
	bound := func(roleRef rbacv1.RoleRef, namespace string, subjects []rbacv1.Subject) error {
		for _, subject := range subjects {
			user := "system:serviceaccount:" + subject.Namespace + ":" + subject.Name
			if subject.Kind != rbacv1.ServiceAccountKind || !strings.HasPrefix(user, prefix) {
				continue
			}
			var role rbacv1.Role
			var object client.Object = &role
			cluster := &rbacv1.ClusterRole{}
			if roleRef.Kind == "ClusterRole" {
				object, namespace = cluster, ""
			}
			if err := suite.management.Get(ctx, client.ObjectKey{Namespace: namespace, Name: roleRef.Name}, object); err != nil {
				return err
			}
			rights = append(rights, audit.Rights(user, slices.Concat(role.Rules, cluster.Rules))...)
		}
		return nil
	}
	var local rbacv1.RoleBindingList
	var global rbacv1.ClusterRoleBindingList
	if err := errors.Join(suite.management.List(ctx, &local), suite.management.List(ctx, &global)); err != nil {
		return nil, err
	}
	for _, b := range local.Items {
		err = errors.Join(err, bound(b.RoleRef, b.Namespace, b.Subjects))
	}
	for _, b := range global.Items {
		err = errors.Join(err, bound(b.RoleRef, "", b.Subjects))
	}
	return rights, err
}

// wholeRun says whether no flag of go test leaves a test out.
func wholeRun() bool {
	return flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.skip").Value.String() == ""
}
