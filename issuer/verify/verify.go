// Package verify asks a target who the client with an issued credential is. An endpoint can issue
// tokens and reject them all the same: a proxy before the API server may accept its own tokens
// only.
package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/egress"
	"github.com/keyferry/keyferry/providers"
)

// ErrRejected is wrapped by errors that say that the target does not accept a credential, or takes
// its client for another user.
var ErrRejected = errors.New("the target rejects the issued credential")

// anonymous is the user that an API server takes clients for whose credential it does not know.
const anonymous = "system:anonymous"

const (
	path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
	// The body, with which the answer is JSON, too.
	body = `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`
)

// ErrNoReview says that the target's answer is no SelfSubjectReview: it is no API server, perhaps.
var ErrNoReview = errors.New("the answer is no SelfSubjectReview")

// StatusError is an answer that shows nothing about the credential, such as 404 before Kubernetes
// 1.28, or 403 if the user may not create SelfSubjectReviews.
type StatusError struct {
	// Code is the HTTP status code.
	Code int
}

func (e *StatusError) Error() string { return fmt.Sprintf("the target answers %d", e.Code) }

// New returns a function that verifies a credential, and compares its User with the expected one;
// empty is any user. An error that wraps ErrRejected says that the credential is of no use. Any
// other error says that this is not known.
func New(policy endpoint.Policy) func(ctx context.Context, credential providers.Credential, user string) error {
	return func(ctx context.Context, credential providers.Credential, user string) error {
		switch found, err := User(ctx, policy, credential); {
		case err != nil:
			return err
		case user != "" && found != user:
			return takenFor(found)
		}
		return nil
	}
}

// User creates a SelfSubjectReview with a credential, at the credential's Endpoint, and returns the
// user name. Its errors wrap ErrRejected, ErrNoReview, a *StatusError or the error of the
// connection. They repeat nothing of the answer but user names: the target has the credential.
func User(ctx context.Context, policy endpoint.Policy, credential providers.Credential) (string, error) {
	client, err := egress.Client(policy, credential.Endpoint, credential)
	if err != nil {
		return "", fmt.Errorf("verifying the credential: %w", err)
	}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, credential.Endpoint.Server+path, strings.NewReader(body))
	if err != nil {
		return "", fmt.Errorf("verifying the credential: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "keyferry")
	response, err := client.Do(request)
	if err != nil {
		return "", fmt.Errorf("verifying the credential: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	return userOf(response)
}

func userOf(response *http.Response) (string, error) {
	switch response.StatusCode {
	case http.StatusOK, http.StatusCreated:
	case http.StatusUnauthorized:
		return "", fmt.Errorf("%w: 401 Unauthorized", ErrRejected)
	case http.StatusForbidden:
		var status metav1.Status
		if json.NewDecoder(response.Body).Decode(&status) == nil && strings.Contains(status.Message, fmt.Sprintf("User %q ", anonymous)) {
			return "", takenFor(anonymous)
		}
		fallthrough
	default:
		return "", fmt.Errorf("verifying the credential: %w", &StatusError{response.StatusCode})
	}
	var review authenticationv1.SelfSubjectReview
	if json.NewDecoder(response.Body).Decode(&review) != nil || review.Status.UserInfo.Username == "" {
		return "", fmt.Errorf("verifying the credential: %w", ErrNoReview)
	}
	if found := review.Status.UserInfo.Username; found != anonymous {
		return found, nil
	}
	return "", takenFor(anonymous)
}

func takenFor(user string) error {
	return fmt.Errorf("%w: it takes the client for %q", ErrRejected, user)
}
