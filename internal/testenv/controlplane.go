package testenv

import (
	"context"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

// FillTokens does what the tokens controller of a control plane does: it writes a token to each
// Secret of type service-account-token. It runs until stop is called.
func FillTokens(t *testing.T, cfg *rest.Config) (stop func()) {
	t.Helper()
	clients, err := kubernetes.NewForConfig(cfg)
	must(t, err)
	return follow(t, cfg, corev1.SchemeGroupVersion.WithResource("secrets"), func(ctx context.Context, namespace, name string) error {
		secret, err := clients.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		return FillToken(ctx, clients, secret)
	})
}

// FillToken writes a token to a Secret of type service-account-token that has none.
func FillToken(ctx context.Context, clients kubernetes.Interface, secret *corev1.Secret) error {
	if secret.Type != corev1.SecretTypeServiceAccountToken || len(secret.Data[corev1.ServiceAccountTokenKey]) > 0 {
		return nil
	}
	account := secret.Annotations[corev1.ServiceAccountNameKey]
	token, err := clients.CoreV1().ServiceAccounts(secret.Namespace).CreateToken(ctx, account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	secret.Data = map[string][]byte{corev1.ServiceAccountTokenKey: []byte(token.Status.Token), corev1.ServiceAccountRootCAKey: []byte("-----BEGIN CERTIFICATE-----\n")}
	_, err = clients.CoreV1().Secrets(secret.Namespace).Update(ctx, secret, metav1.UpdateOptions{})
	return err
}

// MarkReady does what Keyferry's controller does for a target that always answers. It runs until
// stop is called.
func MarkReady(t *testing.T, cfg *rest.Config) (stop func()) {
	t.Helper()
	c := NewClient(t, cfg)
	return follow(t, cfg, v1alpha1.GroupVersion.WithResource("targetclusters"), func(ctx context.Context, namespace, name string) error {
		tc := &v1alpha1.TargetCluster{}
		if err := c.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, tc); err != nil || tc.Status.ObservedGeneration == tc.Generation {
			return err
		}
		tc.Status.ObservedGeneration = tc.Generation
		tc.Status.Conditions = nil
		for _, condition := range []string{v1alpha1.ConditionResolved, v1alpha1.ConditionReachable, v1alpha1.ConditionReady} {
			tc.Status.Conditions = append(tc.Status.Conditions, metav1.Condition{
				Type: condition, Status: metav1.ConditionTrue, Reason: condition, LastTransitionTime: metav1.Now(), ObservedGeneration: tc.Generation,
			})
		}
		return c.Status().Update(ctx, tc)
	})
}

// follow calls do for each object of a resource, and whenever an object changes.
func follow(t *testing.T, cfg *rest.Config, resource schema.GroupVersionResource, do func(ctx context.Context, namespace, name string) error) (stop func()) {
	t.Helper()
	client, err := dynamic.NewForConfig(cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	changes, err := client.Resource(resource).Watch(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) { // the API server does not have the resource
		cancel()
		return func() {}
	}
	must(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for event := range changes.ResultChan() {
			object, ok := event.Object.(metav1.Object)
			if !ok || event.Type == watch.Deleted {
				continue
			}
			err := do(ctx, object.GetNamespace(), object.GetName())
			// A later change comes as another event.
			if err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				t.Errorf("%s %s/%s: %v", resource.Resource, object.GetNamespace(), object.GetName(), err)
			}
		}
	}()
	return func() {
		cancel()
		changes.Stop()
		<-ended
	}
}
