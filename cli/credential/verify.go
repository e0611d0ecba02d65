package credential

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// anonymous is the user that an API server takes clients for whose certificate it does not trust.
const anonymous = "system:anonymous"

// Verify asks the target who the credential belongs to, by a SelfSubjectReview, and returns the
// user name. Errors repeat nothing that the target answers: it has been sent the credential.
func (c Credential) Verify(ctx context.Context) (user string, err error) {
	reviews, err := c.reviewClient()
	if err != nil {
		return "", fmt.Errorf("verifying the credential for TargetCluster %s: %w", c.Target, err)
	}
	review, err := reviews.Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err == nil {
		user = review.Status.UserInfo.Username
	}
	if err == nil && user != "" && user != anonymous {
		return user, nil
	}
	return "", fmt.Errorf("verifying the credential for TargetCluster %s: %s %w", c.Target, c.Endpoint.Server, rejection(user, err))
}

func (c Credential) reviewClient() (authenticationclient.SelfSubjectReviewInterface, error) {
	kubeconfig, err := c.kubeconfig()
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return nil, errors.New("its certificate or CA cannot be read")
	}
	transport, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, errors.New("its certificate or CA cannot be read")
	}
	transport.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	client, err := authenticationclient.NewForConfigAndClient(config, transport)
	if err != nil {
		return nil, err
	}
	return client.SelfSubjectReviews(), nil
}

// rejection completes a sentence that begins with the target's address.
func rejection(user string, err error) error {
	status, answered := errors.AsType[*apierrors.StatusError](err)
	failure, failed := errors.AsType[*url.Error](err)
	switch {
	case user == anonymous:
		return fmt.Errorf("takes its user for %s: have the target trust the issuer of the credential", anonymous)
	case failed:
		return fmt.Errorf("does not answer: %w", failure)
	case !answered:
		return errors.New("answers with something else than a SelfSubjectReview: correct spec.endpoint.server")
	case apierrors.IsUnauthorized(err):
		return errors.New("rejects it (401 Unauthorized): have the target accept it (its audience, its issuer), or correct spec.access and spec.issue")
	case apierrors.IsForbidden(err):
		return errors.New("does not let its user create a SelfSubjectReview (403 Forbidden): bind ClusterRole system:basic-user to the user, or leave --verify out")
	case apierrors.IsNotFound(err):
		return errors.New("does not know SelfSubjectReviews (404 Not Found), which Kubernetes has since 1.28: leave --verify out, or correct the server")
	default:
		return fmt.Errorf("answers %d: see the log of its API server", status.ErrStatus.Code)
	}
}
