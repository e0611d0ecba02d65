package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/webhook"
)

// targetsClient returns a client for TargetClusters and how Keyferry is installed.
func targetsClient(cluster *genericclioptions.ConfigFlags) (client.Client, error) {
	cfg, err := cluster.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("%w: select a cluster with --context, or use --target-cluster", err)
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme), inventory.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	reader, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("%w: use --context to select a cluster that answers, or use --target-cluster", err)
	}
	return reader, nil
}

// operator is what the operator of the installation decides.
type operator struct {
	// providers is the provider file; nil if there is none, or it is not known.
	providers *clusterprofile.ProviderFile
	policy    endpoint.Policy
}

// fleet is what an API server knows of clusters, and how those are entered.
type fleet struct {
	client.Reader
	operator
}

func (f fleet) target(ctx context.Context, want injector.Annotations, further bool) (injector.Target, []string, error) {
	if want.CredentialRequest {
		return f.request(ctx, want.Cluster)
	}
	if want.ClusterProfile {
		profile, err := f.profile(ctx, want.Cluster)
		if err != nil {
			return injector.Target{}, nil, err
		}
		target, err := webhook.ProfileTarget(f.providers, profile, f.policy)
		return target, nil, withProviders(f.providers, err)
	}
	found, err := f.targetCluster(ctx, want.Cluster)
	if err != nil {
		return injector.Target{}, nil, err
	}
	target, warnings, err := webhook.TargetFromStatus(found, further)
	if err != nil || !webhook.RunsInPod(found) {
		return target, warnings, err
	}
	var profile *inventory.ClusterProfile
	if ref := found.Spec.ClusterProfile; ref != nil {
		if profile, err = f.profile(ctx, types.NamespacedName(*ref)); err != nil {
			return injector.Target{}, nil, err
		}
	}
	target.Plugin, err = webhook.TargetPlugin(f.providers, found, profile)
	return target, warnings, withProviders(f.providers, err)
}

func (f fleet) targetCluster(ctx context.Context, name types.NamespacedName) (*v1alpha1.TargetCluster, error) {
	found := &v1alpha1.TargetCluster{}
	switch err := f.Get(ctx, name, found); {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("there is no TargetCluster %s: create it, or correct its name", name)
	case meta.IsNoMatchError(err):
		return nil, errors.New("the cluster does not have the resource TargetCluster: install Keyferry, or use --target-cluster")
	case err != nil:
		return nil, fmt.Errorf("reading TargetCluster %s: %w: fix the problem, or use --target-cluster", name, err)
	}
	return found, nil
}

// request goes by what the Pod would find; whether it may have that, the webhook decides.
func (f fleet) request(ctx context.Context, name types.NamespacedName) (injector.Target, []string, error) {
	request := &v1alpha1.CredentialRequest{}
	switch err := f.Get(ctx, name, request); {
	case apierrors.IsNotFound(err):
		return injector.Target{}, nil, fmt.Errorf("there is no CredentialRequest %s: create it, or correct the annotation", name)
	case meta.IsNoMatchError(err):
		return injector.Target{}, nil, errors.New("the cluster does not have the resource CredentialRequest: install Keyferry")
	case err != nil:
		return injector.Target{}, nil, fmt.Errorf("reading CredentialRequest %s: %w", name, err)
	}
	tc, err := f.targetCluster(ctx, types.NamespacedName(request.Spec.TargetCluster))
	if err != nil {
		return injector.Target{}, nil, fmt.Errorf("CredentialRequest %s: spec.targetCluster: %w", name, err)
	}
	target, warning, err := webhook.RequestTarget(request, tc)
	if err != nil || warning == "" {
		return target, nil, err
	}
	return target, []string{warning}, nil
}

func (f fleet) profile(ctx context.Context, name types.NamespacedName) (*inventory.ClusterProfile, error) {
	profile := &inventory.ClusterProfile{}
	switch err := f.Get(ctx, name, profile); {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("there is no ClusterProfile %s: create it, or correct its name", name)
	case meta.IsNoMatchError(err):
		return nil, fmt.Errorf("the cluster has no ClusterProfiles (%s): install their CustomResourceDefinition", inventory.GroupVersion)
	case err != nil:
		return nil, fmt.Errorf("reading ClusterProfile %s: %w", name, err)
	}
	return profile, nil
}

// withProviders adds to an error that may come from there being no provider file how to give one.
func withProviders(providers *clusterprofile.ProviderFile, err error) error {
	if err == nil || providers != nil {
		return err
	}
	return fmt.Errorf("%w: set --provider-file to the provider file of the installation", err)
}

// targetsOfFile returns the TargetClusters of a file. namespace is that of one that names none.
func targetsOfFile(file, namespace string, op operator) (targets, error) {
	text, err := os.ReadFile(file) // #nosec G304 -- that is what the user asks for
	if err != nil {
		return nil, err
	}
	known := make(map[string]*v1alpha1.TargetCluster)
	for n, doc := range split(text) {
		tc, err := readTargetCluster(doc.text)
		if err != nil {
			return nil, fmt.Errorf("%s: document %d: %w", file, n+1, err)
		}
		if tc == nil {
			continue
		}
		if tc.Namespace == "" {
			tc.Namespace = namespace
		}
		known[tc.Namespace+"/"+tc.Name] = tc
	}
	if len(known) == 0 {
		return nil, fmt.Errorf("%s: the file contains no TargetCluster (%s)", file, v1alpha1.GroupVersion)
	}
	return func(_ context.Context, want injector.Annotations, further bool) (injector.Target, []string, error) {
		name := want.Cluster
		tc := known[name.String()]
		if want.ClusterProfile || want.CredentialRequest {
			return injector.Target{}, nil, fmt.Errorf("%s cannot be read offline: omit --target-cluster to read it from the API server", want.ClusterName())
		}
		if tc == nil {
			return injector.Target{}, nil, fmt.Errorf("%s has no TargetCluster %s, only %s", file, name, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		target, warnings, err := op.specified(tc, further)
		if err == nil && webhook.RunsInPod(tc) {
			target.Plugin, err = webhook.TargetPlugin(op.providers, tc, nil)
			err = withProviders(op.providers, err)
		}
		if err != nil {
			return injector.Target{}, nil, fmt.Errorf("%s: TargetCluster %s: %w", file, name, err)
		}
		return target, warnings, nil
	}, nil
}

// readTargetCluster returns nil for what is none.
func readTargetCluster(text []byte) (*v1alpha1.TargetCluster, error) {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(text, &kind); err != nil {
		return nil, err
	}
	if kind.GroupVersionKind() != v1alpha1.GroupVersion.WithKind("TargetCluster") {
		return nil, nil
	}
	tc := new(v1alpha1.TargetCluster)
	if err := yaml.UnmarshalStrict(bytes.TrimSpace(text), tc); err != nil {
		return nil, fmt.Errorf("TargetCluster: %w", err)
	}
	return tc, nil
}

// specified returns the target that the spec alone describes, without its Secrets. It fills in the
// status that the controller would write.
func (o operator) specified(tc *v1alpha1.TargetCluster, further bool) (injector.Target, []string, error) {
	if tc.Spec.ClusterProfile != nil {
		return injector.Target{}, nil, errors.New("spec.clusterProfile: a ClusterProfile cannot be read offline: omit --target-cluster to read it from the API server")
	}
	if e := tc.Spec.Endpoint; e == nil || e.Server == "" {
		return injector.Target{}, nil, errors.New("spec.endpoint.server: is empty, and a Secret cannot be read offline: set the server, or omit --target-cluster to read the Secret from the API server")
	}
	resolution, err := resolve.New(resolve.Config{Policy: o.policy, Now: time.Now}).ResolveSpec(tc, o.providers)
	if err != nil {
		if tc.Spec.Access.Exec != nil {
			err = withProviders(o.providers, err)
		}
		return injector.Target{}, nil, err
	}
	condition := metav1.Condition{Type: v1alpha1.ConditionResolved, Status: metav1.ConditionTrue}
	if resolution.Warning != "" {
		condition.Reason, condition.Message = v1alpha1.ReasonResolvedWithWarning, resolution.Warning
	}
	tc.Status = v1alpha1.TargetClusterStatus{
		ObservedGeneration:   tc.Generation,
		Endpoint:             resolution.Endpoint.Server,
		Delivery:             resolution.Delivery,
		DeliveryReason:       resolution.DeliveryReason,
		SubjectTokenAudience: resolution.SubjectAudience,
		Conditions:           []metav1.Condition{condition},
	}
	return webhook.TargetFromStatus(tc, further)
}
