package testenv

import (
	"context"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// AwaitRejection waits until an API server rejects a token with an audience. An API server accepts
// the token of a deleted Pod for some seconds, from its cache.
func AwaitRejection(t *testing.T, cfg *rest.Config, token, audience string) {
	t.Helper()
	c, err := kubernetes.NewForConfig(cfg)
	must(t, err)
	err = wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
		review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{audience}}}
		review, err := c.AuthenticationV1().TokenReviews().Create(ctx, review, metav1.CreateOptions{})
		return err == nil && !review.Status.Authenticated, err
	})
	if err != nil {
		t.Fatalf("the API server still accepts the token: %v", err)
	}
}
