package check

import (
	"context"
	"fmt"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/version"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/webhook"
)

// oldest is the oldest version of Kubernetes that Keyferry runs on.
const oldest = "1.30"

// Prerequisites checks whether Keyferry can be installed in a namespace of a cluster. serverVersion
// is that of the API server.
func Prerequisites(ctx context.Context, c client.Client, namespace, serverVersion string) Report {
	r := Report{Subject: "Cluster before the installation in namespace " + namespace}
	r.checkVersions(ctx, c, serverVersion)
	r.checkNotInstalled(ctx, c)
	r.checkInstaller(ctx, c, namespace)
	r.checkFeatures(ctx, c)
	r.Result = r.sum()
	return r
}

func isOld(text string) bool {
	v, err := version.ParseGeneric(text)
	return err == nil && v.LessThan(version.MustParseGeneric(oldest))
}

func (r *Report) checkVersions(ctx context.Context, c client.Client, serverVersion string) {
	const upgrade = "upgrade it to Kubernetes " + oldest + " or later"
	if isOld(serverVersion) {
		r.wrong("API server", upgrade, "its version is %s", serverVersion)
	} else {
		r.fine("API server", "its version is %s", serverVersion)
	}
	nodes := &corev1.NodeList{}
	if err := c.List(ctx, nodes); err != nil {
		r.unknown("nodes", "", "cannot list them: %v", err)
		return
	}
	var old []string
	linux := 0
	for i := range nodes.Items {
		info := nodes.Items[i].Status.NodeInfo
		if info.OperatingSystem == "linux" {
			linux++
		}
		if isOld(info.KubeletVersion) {
			old = append(old, fmt.Sprintf("%s (%s)", nodes.Items[i].Name, info.KubeletVersion))
		}
	}
	switch {
	case len(old) > 0:
		r.wrong("nodes", upgrade, "the kubelet is too old on %s", strings.Join(old, ", "))
	case linux == 0:
		r.unknown("nodes", "Keyferry's images are for Linux: add a node", "there is no Linux node")
	default:
		r.fine("nodes", "%d nodes, all of Kubernetes %s or later", len(nodes.Items), oldest)
	}
}

func (r *Report) checkNotInstalled(ctx context.Context, c client.Client) {
	const check = "installation"
	hooks := &admissionv1.MutatingWebhookConfiguration{}
	switch err := c.Get(ctx, types.NamespacedName{Name: webhookConfiguration}, hooks); {
	case apierrors.IsNotFound(err):
		r.fine(check, "Keyferry is not installed yet")
	case err != nil:
		r.unknown(check, "", "cannot read MutatingWebhookConfiguration %s: %v", webhookConfiguration, err)
	default:
		where := ""
		if len(hooks.Webhooks) > 0 && hooks.Webhooks[0].ClientConfig.Service != nil {
			where = " in namespace " + hooks.Webhooks[0].ClientConfig.Service.Namespace
		}
		r.wrong(check, "a cluster can have only one installation: upgrade the installation with helm upgrade, and check it with keyferry check", "Keyferry is installed already%s", where)
	}
}

// checkInstaller checks your rights to create what the chart creates.
func (r *Report) checkInstaller(ctx context.Context, c client.Client, namespace string) {
	const check = "your rights"
	rights := []authorizationv1.ResourceAttributes{
		{Resource: "namespaces"},
		{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"},
		{Group: "admissionregistration.k8s.io", Resource: "mutatingwebhookconfigurations"},
		{Group: "admissionregistration.k8s.io", Resource: "validatingwebhookconfigurations"},
		{Group: "admissionregistration.k8s.io", Resource: "validatingadmissionpolicies"},
		{Group: "admissionregistration.k8s.io", Resource: "validatingadmissionpolicybindings"},
		{Group: "rbac.authorization.k8s.io", Resource: "clusterroles"},
		{Group: "rbac.authorization.k8s.io", Resource: "clusterrolebindings"},
		{Group: "rbac.authorization.k8s.io", Resource: "roles", Namespace: namespace},
		{Group: "rbac.authorization.k8s.io", Resource: "rolebindings", Namespace: namespace},
		{Group: "apps", Resource: "deployments", Namespace: namespace},
		{Resource: "services", Namespace: namespace},
		{Resource: "serviceaccounts", Namespace: namespace},
	}
	var missing []string
	for _, right := range rights {
		right.Verb = "create"
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &right}}
		if err := c.Create(ctx, review); err != nil {
			r.unknown(check, "", "cannot find them out: %v", err)
			return
		}
		if !review.Status.Allowed {
			missing = append(missing, right.Resource)
		}
	}
	if len(missing) > 0 {
		r.wrong(check, "install it as a cluster administrator", "you must not create %s", strings.Join(missing, ", "))
		return
	}
	r.fine(check, "you may create all kinds of objects of the chart")
}

// checkFeatures reports what works only on some clusters. Keyferry works without it.
func (r *Report) checkFeatures(ctx context.Context, c client.Client) {
	for _, optional := range []struct {
		check   string
		feature webhook.Feature
		without string
	}{
		{"restarts", webhook.EnvFromFile(), "Pods do not restart in place when the endpoint of a target changes: re-create them"},
		{"image volumes", webhook.ImageVolume(), "credential plugins are copied into Pods by init containers"},
	} {
		lack, err := (&webhook.Probe{Feature: optional.feature, Client: c, Namespace: "default"}).Lack(ctx)
		switch {
		case err != nil:
			r.unknown(optional.check, "", "cannot find it out: %v", err)
		case lack != "":
			r.fine(optional.check, "%s: %s", lack, optional.without)
		default:
			r.fine(optional.check, "the cluster supports the feature %s", optional.feature.Name)
		}
	}
}
