package apitest

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli"
)

func TestLockAndUnlock(t *testing.T) {
	c := administrator(t)
	stdout, _ := keyferryOK(t, "lock", "target", "fleet/tenant-1", "--reason", "stolen key", "--duration", "2h")
	if stdout != "Lock fleet/target-tenant-1 created\n" {
		t.Errorf("got %q", stdout)
	}
	lock := &v1alpha1.Lock{}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: "fleet", Name: "target-tenant-1"}, lock); err != nil {
		t.Fatal(err)
	}
	if want := (v1alpha1.LockSubject{Type: v1alpha1.LockTargetCluster, Name: "tenant-1"}); lock.Spec.Subject != want || lock.Spec.Reason != "stolen key" || lock.Spec.ExpirationTimestamp == nil {
		t.Errorf("got %+v", lock.Spec)
	}

	// Run again, it is about reason and expiry.
	if stdout, _ := keyferryOK(t, "lock", "target", "fleet/tenant-1", "--reason", "incident 7"); stdout != "Lock fleet/target-tenant-1 configured\n" {
		t.Errorf("got %q", stdout)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(lock), lock); err != nil || lock.Spec.ExpirationTimestamp != nil || lock.Spec.Reason != "incident 7" {
		t.Errorf("got %+v, %v", lock.Spec, err)
	}
	if stdout, _ := keyferryOK(t, "locks", "-A"); !strings.Contains(stdout, "Lock fleet/target-tenant-1   TargetCluster fleet/tenant-1   never     incident 7\n") {
		t.Errorf("got %q", stdout)
	}

	// Somebody else's lock of the same subject stays, and is named.
	other := &v1alpha1.ClusterLock{ObjectMeta: metav1.ObjectMeta{Name: "other"}, Spec: v1alpha1.ClusterLockSpec{
		Subject:   v1alpha1.ClusterLockSubject{Type: v1alpha1.LockTargetCluster, Namespace: "fleet", Name: "tenant-1"},
		LockTerms: v1alpha1.LockTerms{Reason: "audit"},
	}}
	create(t, c, other)
	code, stdout, stderr := run(t, "keyferry", "unlock", "target", "fleet/tenant-1")
	if code != cli.ExitFailed || stdout != "Lock fleet/target-tenant-1 deleted\n" ||
		stderr != "error: another lock still locks the subject: ClusterLock other: audit: kubectl delete clusterlocks.keyferry.dev other\n" {
		t.Errorf("exit code %d, %q, %q", code, stdout, stderr)
	}
	if err := c.Delete(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if stdout, _ := keyferryOK(t, "unlock", "target", "fleet/tenant-1"); stdout != "Lock fleet/target-tenant-1 not found\n" {
		t.Errorf("got %q", stdout)
	}
	if stdout, _ := keyferryOK(t, "locks"); stdout != "there are no locks\n" {
		t.Errorf("got %q", stdout)
	}
}

// TestUnlockNamesAllThatDenies: also a lock of the namespace or of the cluster.
func TestUnlockNamesAllThatDenies(t *testing.T) {
	keyferryOK(t, "lock", "everything", "fleet", "--reason", "incident 8")
	keyferryOK(t, "lock", "everything", "--cluster-wide", "--reason", "incident 9")
	for _, subject := range []string{"pod fleet/web-0", "serviceaccount fleet/web", "target fleet/tenant-1", "clusterprofile fleet/paris"} {
		code, _, stderr := run(t, "keyferry", append([]string{"unlock"}, strings.Fields(subject)...)...)
		for _, want := range []string{"Lock fleet/everything: incident 8: ", "ClusterLock everything: incident 9: "} {
			if code != cli.ExitFailed || !strings.Contains(stderr, "error: another lock still locks the subject: "+want) && !strings.Contains(stderr, "\nanother lock still locks the subject: "+want) {
				t.Errorf("%s: exit code %d, %q", subject, code, stderr)
			}
		}
	}
	if code, _, stderr := run(t, "keyferry", "unlock", "everything", "fleet"); code != cli.ExitFailed || !strings.Contains(stderr, "ClusterLock everything") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	if stdout, _ := keyferryOK(t, "unlock", "everything", "--cluster-wide"); stdout != "ClusterLock everything deleted\n" {
		t.Errorf("got %q", stdout)
	}
}

// TestLockOfNothing: a misspelt name is worth a warning.
func TestLockOfNothing(t *testing.T) {
	for subject, want := range map[string]string{
		"pod fleet/misspelt":            "there is no Pod fleet/misspelt: correct the name, or",
		"serviceaccount fleet/misspelt": "there is no ServiceAccount fleet/misspelt: ",
		"target fleet/misspelt":         "there is no TargetCluster fleet/misspelt: ",
		"everything misspelt":           "there is no Namespace misspelt: ",
		"everything":                    "",
		"everything fleet":              "",
	} {
		args := append(strings.Fields(subject), "--cluster-wide")
		_, stderr := keyferryOK(t, append(append([]string{"lock"}, args...), "--reason", "incident 7")...)
		if want == "" && stderr != "" || want != "" && !strings.HasPrefix(stderr, "warning: "+want) {
			t.Errorf("%s: got %q", subject, stderr)
		}
		keyferryOK(t, append(append([]string{"unlock"}, args...), "-n", "default")...)
	}
}

func TestLockClusterWide(t *testing.T) {
	for subject, name := range map[string]string{
		"everything":                "everything",
		"everything app":            "everything-app",
		"pod app/web-0":             "pod-app.web-0",
		"serviceaccount app/web":    "serviceaccount-app.web",
		"clusterprofile fleet/rome": "clusterprofile-fleet.rome",
	} {
		args := append(strings.Fields(subject), "--cluster-wide")
		if stdout, _ := keyferryOK(t, append(append([]string{"lock"}, args...), "--reason", "incident 7")...); stdout != "ClusterLock "+name+" created\n" {
			t.Errorf("%s: got %q", subject, stdout)
		}
		if stdout, _ := keyferryOK(t, append([]string{"unlock"}, args...)...); stdout != "ClusterLock "+name+" deleted\n" {
			t.Errorf("%s: got %q", subject, stdout)
		}
	}
}

func TestLockUsage(t *testing.T) {
	for args, want := range map[string]string{
		"lock":                                            "the subject is missing",
		"lock node a --reason r":                          `"node" cannot be locked: use pod, serviceaccount, target, clusterprofile or everything`,
		"lock pod --reason r":                             "the name of the Pod is missing",
		"lock pod app/web-0":                              "--reason is required",
		"lock everything --reason r":                      "to lock the whole cluster, add --cluster-wide",
		"lock everything app/web --reason r":              `"app/web" is not a valid namespace`,
		"lock pod app/web-0 --reason r --duration -1h":    "--duration is -1h0m0s: it must be positive",
		"lock pod app/web-0 --reason r --dry-run=perhaps": `--dry-run is "perhaps"`,
	} {
		code, stdout, stderr := run(t, "keyferry", strings.Fields(args)...)
		if code != cli.ExitUsage || stdout != "" || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit code %d, %q, %q", args, code, stdout, stderr)
		}
	}
}
