package onboard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/managed"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/providers/tokenrequest"
)

const (
	// interval is the time between two looks at what a control plane or Keyferry does.
	interval = 500 * time.Millisecond
	// tokenTimeout is how long a control plane may take for a token, and until it accepts the token
	// with its rights.
	tokenTimeout = 30 * time.Second
	// undoTimeout is how long the removal of what was made may take.
	undoTimeout = 30 * time.Second
)

// Adder makes what a Request asks for.
type Adder struct {
	Request
	// Endpoint is the target as Keyferry and Pods reach it.
	Endpoint endpoint.Endpoint
	// Administrator is how you reach the target.
	Administrator Administrator
	// Target and Management act as you do.
	Target     client.Client
	Management client.Client
	// Credentials is the Secret with the key of a cloud, for Request.Access; empty for none.
	Credentials string
	// Timeout is how long to wait until the TargetCluster is ready.
	Timeout time.Duration
	// Report prints a line of progress, and Warn a warning.
	Report, Warn func(format string, args ...any)

	made []made
}

var errNoTargetClusters = errors.New("the management cluster does not have the resource TargetCluster: install Keyferry, or select another cluster with --management-context")

// made is an object that was created.
type made struct {
	where   string
	cluster client.Client
	object  client.Object
}

// The clusters in messages.
const (
	inTarget     = "target"
	inManagement = "management cluster"
)

// Register makes the objects in both clusters. Run again, it changes those that differ. If it
// cannot make all, it removes those that it has created.
func (a *Adder) Register(ctx context.Context) error {
	if err := a.preflight(ctx); err != nil {
		return err
	}
	if err := a.make(ctx); err != nil {
		return errors.Join(err, a.undo(ctx))
	}
	return nil
}

// Finish waits until the TargetCluster is ready, and then deletes what an earlier Register made and
// this one does not need.
func (a *Adder) Finish(ctx context.Context) error {
	if err := a.awaitReady(ctx); err != nil {
		return fmt.Errorf("%w (no object was removed from the clusters: fix the problem, and run the command again)", err)
	}
	return a.prune(ctx)
}

// Preview returns the objects of both clusters. The Secret has a placeholder for the token.
func (a *Adder) Preview() (target, management []client.Object, err error) {
	text, err := a.kubeconfig(a.Endpoint, "REPLACE-WITH-THE-TOKEN")
	if err != nil {
		return nil, nil, err
	}
	secret := a.secret(nil)
	secret.Data, secret.StringData = nil, map[string]string{secretKey: string(text)}
	return append(a.usable(), a.owned(a.TokenSecret())...), []client.Object{secret, a.targetCluster(a.Endpoint)}, nil
}

// Check refuses what the controller would not resolve: it resolves the TargetCluster as the
// controller does.
func (a *Adder) Check(ctx context.Context) error {
	text, err := a.kubeconfig(a.Endpoint, "not-issued-yet")
	if err != nil {
		return err
	}
	i, err := issuer.New(issuer.Config{
		Clusters: planned{}, Secrets: planned{a.secret(text)}, ClusterID: a.Owner,
		// The broker has others than this machine, which may have no file with them.
		SystemRoots: func() ([]byte, error) { return []byte("those of the broker's image"), nil },
	})
	if err != nil {
		return err
	}
	if _, err = i.Resolve(ctx, a.targetCluster(a.Endpoint)); err != nil {
		return fmt.Errorf("TargetCluster %s would not work: %w; use --endpoint to set another address of the target", a.Name, err)
	}
	return nil
}

// planned reads a Secret that is not there yet.
type planned struct{ secret *corev1.Secret }

// Get returns the Secret.
func (p planned) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	if secret, ok := into.(*corev1.Secret); ok && p.secret != nil {
		p.secret.DeepCopyInto(secret)
		return nil
	}
	return apierrors.NewNotFound(v1alpha1.GroupVersion.WithResource("").GroupResource(), key.Name)
}

// List finds nothing.
func (planned) List(context.Context, client.ObjectList, ...client.ListOption) error { return nil }

// preflight finds what is in the way before anything is made.
func (a *Adder) preflight(ctx context.Context) error {
	if err := a.Check(ctx); err != nil {
		return err
	}
	var problems []error
	for _, object := range a.owned(a.TokenSecret()) {
		if err := managed.Check(ctx, a.Target, object); err != nil {
			problems = append(problems, in(inTarget, err))
		}
	}
	for _, object := range []client.Object{a.secret(nil), a.targetCluster(a.Endpoint)} {
		if err := managed.Check(ctx, a.Management, object); meta.IsNoMatchError(err) {
			problems = append(problems, errNoTargetClusters)
		} else if err != nil {
			problems = append(problems, in(inManagement, err))
		}
	}
	if a.Role != "" {
		if err := a.Target.Get(ctx, client.ObjectKey{Name: a.Role}, &rbacv1.ClusterRole{}); err != nil {
			problems = append(problems, in(inTarget, fmt.Errorf("--role: reading ClusterRole %s: %w", a.Role, err)))
		}
	}
	if len(problems) == 0 {
		problems = append(problems, checkCluster(ctx, a.Management, a.Target, a.Name, a.Owner), a.checkAccount(ctx))
	}
	if id, err := issuer.ClusterID(ctx, a.Target); err == nil && strings.HasPrefix(a.Owner, id+"/") {
		a.Warn("the target is the management cluster itself: select the target with --context, and the cluster in which Keyferry runs with --management-context")
	}
	return errors.Join(problems...)
}

// checkAccount refuses a ServiceAccount that Keyferry is to create and that others have created:
// Keyferry would issue nothing for it.
func (a *Adder) checkAccount(ctx context.Context) error {
	if !a.Create || a.Account.Name == "" {
		return nil
	}
	account := &corev1.ServiceAccount{}
	err := a.Target.Get(ctx, a.Account, account)
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return in(inTarget, fmt.Errorf("--create: reading ServiceAccount %s: %w", a.Account, err))
	case account.Annotations[tokenrequest.OwnerAnnotation] != a.Owner:
		return in(inTarget, fmt.Errorf("--create: ServiceAccount %s exists, and Keyferry did not create it for TargetCluster %s: "+
			"remove --create to use the ServiceAccount, or delete the ServiceAccount", a.Account, a.Name))
	}
	return nil
}

// in says which cluster an error is about.
func in(where string, err error) error { return fmt.Errorf("%s: %w", where, err) }

func (a *Adder) make(ctx context.Context) error {
	for _, object := range a.usable() {
		if err := a.apply(ctx, inTarget, a.Target, object, managed.CreateMissing); err != nil {
			return err
		}
	}
	secret, err := a.currentToken(ctx)
	if err != nil {
		return in(inTarget, err)
	}
	for _, object := range a.owned(secret) {
		if err := a.apply(ctx, inTarget, a.Target, object, managed.Apply); err != nil {
			return err
		}
	}
	token, err := a.awaitToken(ctx, secret)
	if err != nil {
		return in(inTarget, err)
	}
	if err := a.awaitRights(ctx, token, a.rights()); err != nil {
		return in(inTarget, err)
	}
	text, err := a.kubeconfig(a.Endpoint, token)
	if err != nil {
		return err
	}
	for _, object := range []client.Object{a.secret(text), a.targetCluster(a.Endpoint)} {
		if err := a.apply(ctx, inManagement, a.Management, object, managed.Apply); err != nil {
			return err
		}
	}
	a.Warn("the access token of TargetCluster %[1]s does not expire. The token can only %[2]s. "+
		"To replace it: keyferry target rotate %[1]s --context CONTEXT. To revoke it, delete Secret %[3]s/%[4]s in the target",
		a.Name, a.abilities(), AccessNamespace, secret)
	return nil
}

// abilities are what the access token can do.
func (a *Adder) abilities() string {
	if a.Create {
		return "create and request tokens of " + a.subjects()
	}
	return "request tokens of " + a.subjects()
}

// subjects names the ServiceAccounts that Pods become.
func (a *Adder) subjects() string {
	if a.Account.Name != "" {
		return "ServiceAccount " + a.Account.String()
	}
	return "ServiceAccounts in " + strings.Join(a.Mirror, ", ")
}

type write func(context.Context, client.Client, client.Object) (managed.Outcome, error)

func (a *Adder) apply(ctx context.Context, where string, cluster client.Client, object client.Object, write write) error {
	outcome, err := write(ctx, cluster, object)
	if err != nil {
		return in(where, err)
	}
	if outcome == managed.Created {
		a.made = append(a.made, made{where, cluster, object})
	}
	a.Report("%s: %s %s", where, managed.Name(object), outcome)
	return nil
}

// undo deletes what was created, the last first, and says what it cannot delete.
func (a *Adder) undo(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout) // also after an interrupt
	defer cancel()
	var left []error
	for _, m := range slices.Backward(a.made) {
		if _, ok := m.object.(*corev1.Namespace); ok {
			a.Report("%s: %s was not removed: it may contain objects of other users", m.where, managed.Name(m.object))
			continue
		}
		outcome, err := managed.Delete(ctx, m.cluster, m.object)
		if err != nil {
			left = append(left, fmt.Errorf("%s: %s could not be removed: %w", m.where, managed.Name(m.object), err))
			continue
		}
		a.Report("%s: %s %s", m.where, managed.Name(m.object), outcome)
	}
	return errors.Join(left...)
}

// tokens are the names of the Secrets with access tokens of this TargetCluster, the oldest first.
func (a *Adder) tokens(ctx context.Context) ([]string, error) {
	list := &corev1.SecretList{}
	if err := a.Target.List(ctx, list, client.InNamespace(AccessNamespace), client.MatchingLabels{managed.Label: managed.Value}); err != nil {
		return nil, fmt.Errorf("reading Secrets in namespace %s: %w", AccessNamespace, err)
	}
	slices.SortStableFunc(list.Items, func(x, y corev1.Secret) int { return x.CreationTimestamp.Compare(y.CreationTimestamp.Time) })
	var names []string
	for i := range list.Items {
		if s := &list.Items[i]; managed.Is(s, a.Owner) && s.Type == corev1.SecretTypeServiceAccountToken {
			names = append(names, s.Name)
		}
	}
	return names, nil
}

// currentToken is the name of the Secret with the newest access token, or of the first one that is
// still to be made.
func (a *Adder) currentToken(ctx context.Context) (string, error) {
	names, err := a.tokens(ctx)
	if err != nil || len(names) == 0 {
		return a.TokenSecret(), err
	}
	return names[len(names)-1], nil
}

// awaitToken waits until the target's control plane has filled the Secret.
func (a *Adder) awaitToken(ctx context.Context, name string) (string, error) {
	secret := &corev1.Secret{}
	err := wait.PollUntilContextTimeout(ctx, interval, tokenTimeout, true, func(context.Context) (bool, error) {
		err := a.Target.Get(ctx, client.ObjectKey{Namespace: AccessNamespace, Name: name}, secret)
		return len(secret.Data[corev1.ServiceAccountTokenKey]) > 0, err
	})
	switch {
	case wait.Interrupted(err) && ctx.Err() == nil:
		return "", fmt.Errorf("Secret %s/%s has no token after %s: the target's controller manager does not work, or its tokens controller is off", AccessNamespace, name, tokenTimeout)
	case err != nil:
		return "", fmt.Errorf("reading Secret %s/%s: %w", AccessNamespace, name, err)
	}
	return string(secret.Data[corev1.ServiceAccountTokenKey]), nil
}

// awaitRights waits until the target accepts the access token, and lets it request tokens.
func (a *Adder) awaitRights(ctx context.Context, token string, rights []authorizationv1.ResourceAttributes) error {
	cfg := rest.AnonymousClientConfig(a.Administrator.Config)
	cfg.BearerToken = token
	access, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	for _, right := range rights {
		var last error
		err := wait.PollUntilContextTimeout(ctx, interval, tokenTimeout, true, func(context.Context) (bool, error) {
			review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &right}}
			review, err := access.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
			if last = err; err == nil && !review.Status.Allowed {
				last = fmt.Errorf("the token lacks the permission to %s %s/%s in namespace %s", right.Verb, right.Resource, right.Subresource, right.Namespace)
			}
			return last == nil, nil
		})
		if err != nil {
			return fmt.Errorf("the access token of ServiceAccount %s/%s does not work: %w", AccessNamespace, a.accountName(), errors.Join(last, ctx.Err()))
		}
	}
	return nil
}

// rights are those that issuing takes.
func (a *Adder) rights() []authorizationv1.ResourceAttributes {
	namespaces := a.Mirror
	if a.Account.Name != "" {
		namespaces = []string{a.Account.Namespace}
	}
	var rights []authorizationv1.ResourceAttributes
	for _, namespace := range namespaces {
		rights = append(rights, tokenRight(namespace, a.Account.Name))
	}
	return rights
}

// tokenRight is the right to request tokens of a ServiceAccount; without a name, of all in the
// namespace.
func tokenRight(namespace, name string) authorizationv1.ResourceAttributes {
	return authorizationv1.ResourceAttributes{Namespace: namespace, Verb: "create", Resource: "serviceaccounts", Subresource: "token", Name: name}
}

// awaitReady reports each change of the TargetCluster's conditions. Those of an older spec do not
// count: the endpoint is in the spec, so a changed endpoint is a new generation.
func (a *Adder) awaitReady(ctx context.Context) error {
	var reported string
	err := wait.PollUntilContextTimeout(ctx, interval, a.Timeout, true, func(context.Context) (bool, error) {
		tc := &v1alpha1.TargetCluster{}
		if err := a.Management.Get(ctx, a.Name, tc); err != nil {
			return false, err
		}
		ready := meta.FindStatusCondition(tc.Status.Conditions, v1alpha1.ConditionReady)
		if ready == nil || tc.Status.ObservedGeneration < tc.Generation {
			return false, nil
		}
		if ready.Status == metav1.ConditionTrue {
			return true, nil
		}
		if now := ready.Reason + ": " + ready.Message; now != reported {
			reported = now
			a.Report("TargetCluster %s is not ready: %s", a.Name, now)
		}
		return false, nil
	})
	switch {
	case err == nil:
		a.Report("TargetCluster %s is ready", a.Name)
		return nil
	case !wait.Interrupted(err) || ctx.Err() != nil:
		return fmt.Errorf("waiting until TargetCluster %s is ready: %w", a.Name, err)
	case reported == "":
		return fmt.Errorf("TargetCluster %s: the controller has not reconciled the TargetCluster after %s: look at the log of Deployment keyferry-controller", a.Name, a.Timeout)
	default:
		return fmt.Errorf("TargetCluster %s is not ready after %s: %s", a.Name, a.Timeout, reported)
	}
}

// prune deletes RBAC objects in the target that an earlier run made and this one does not need.
func (a *Adder) prune(ctx context.Context) error {
	needed := map[string]bool{}
	for _, object := range a.owned(a.TokenSecret()) {
		needed[managed.Name(object)] = true
	}
	objects, err := inventory(ctx, a.Target, a.Owner, rbacKinds()...)
	if err != nil {
		return in(inTarget, err)
	}
	for _, object := range objects {
		if needed[managed.Name(object)] {
			continue
		}
		outcome, err := managed.Delete(ctx, a.Target, object)
		if err != nil {
			return in(inTarget, err)
		}
		a.Report("%s: %s %s", inTarget, managed.Name(object), outcome)
	}
	return nil
}
