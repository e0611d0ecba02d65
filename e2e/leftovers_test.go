package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/e2e/release"
)

// ofTest labels the namespaces of tests.
const ofTest = "e2e.keyferry.dev/test"

// removeLeftovers removes what an earlier run left in clusters that are up, so that every run is
// like the first one: Keyferry needs the rights that only a first installation needs, and no object
// of an interrupted run is in the way.
func removeLeftovers(ctx context.Context, log io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	defer suite.witness.changed(time.Now())
	fmt.Fprintln(log, "removing what an earlier run left")
	err := release.Helm(ctx, "uninstall", release.Name, "--ignore-not-found", "--no-hooks", "--wait", "--timeout", "2m",
		"--kubeconfig", suite.management.kubeconfig, "--namespace", release.Namespace)
	if err != nil {
		return err
	}
	if err := removeFinalizers(ctx); err != nil {
		return err
	}
	return errors.Join(
		suite.management.deleteNamespaces(ctx, fleet, requests, release.Namespace),
		suite.target.deleteNamespaces(ctx),
	)
}

// removeFinalizers does what no controller is there to do. The credentials that CredentialRequests
// would revoke are those of ServiceAccounts that go with the tests' namespaces in the target.
func removeFinalizers(ctx context.Context) error {
	list := &unstructured.UnstructuredList{}
	list.SetAPIVersion("keyferry.dev/v1alpha1")
	list.SetKind("CredentialRequestList")
	if err := suite.management.List(ctx, list, client.InNamespace(requests)); err != nil {
		if meta.IsNoMatchError(err) {
			return nil
		}
		return err
	}
	for i := range list.Items {
		patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))
		if err := suite.management.Patch(ctx, &list.Items[i], patch); err != nil {
			return err
		}
	}
	return nil
}

// deleteNamespaces deletes these namespaces and those of tests, and waits until they are gone.
func (k *kube) deleteNamespaces(ctx context.Context, names ...string) error {
	var left []string
	err := wait.PollUntilContextCancel(ctx, time.Second, true, func(ctx context.Context) (bool, error) {
		var all corev1.NamespaceList
		if err := k.List(ctx, &all); err != nil {
			return false, err
		}
		left = nil
		for i := range all.Items {
			ns := &all.Items[i]
			if ns.Labels[ofTest] == "" && !slices.Contains(names, ns.Name) {
				continue
			}
			left = append(left, ns.Name)
			if ns.DeletionTimestamp == nil {
				if err := client.IgnoreNotFound(k.Delete(ctx, ns)); err != nil {
					return false, err
				}
			}
		}
		return len(left) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("deleting namespaces %s of an earlier run (make clusters-down removes the clusters): %w", strings.Join(left, " "), err)
	}
	return nil
}
