package broker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/jwt"
	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/internal/serving"
	"github.com/keyferry/keyferry/internal/use"
	"github.com/keyferry/keyferry/providers"
)

// caller is an authenticated Pod.
type caller struct{ providers.Identity }

// account returns the ServiceAccount of the Pod.
func (c caller) account() types.NamespacedName {
	return types.NamespacedName{Namespace: c.Namespace, Name: c.ServiceAccount}
}

// admit authenticates a request. It returns an error if the Pod, or its address, exceeds its rate
// limit.
func (b *Broker) admit(ctx context.Context, r *http.Request) (caller, error) {
	address := serving.Host(r.RemoteAddr)
	if wait, again := b.refusals.wait(address); wait > 0 {
		return caller{}, tooMany("too many tokens from "+address+" were rejected", wait, again)
	}
	asking, err := b.authenticate(ctx, r.Header)
	if refused, ok := errors.AsType[*statusError](err); ok && refused.code == http.StatusUnauthorized {
		b.refusals.take(address)
	}
	if err != nil {
		return asking, err
	}
	if wait, again := b.questions.wait(asking.PodUID); wait > 0 {
		// A client that exceeds its rate limit must still find out that it is locked.
		if refused := b.callerLocked(ctx, asking); refused != nil {
			refused.retryAfter, refused.quiet = wait, again
			return asking, refused
		}
		return asking, tooMany("Pod "+asking.Namespace+"/"+asking.PodName+" sends too many requests", wait, again)
	}
	b.questions.take(asking.PodUID)
	return asking, nil
}

// authenticate returns the Pod that a request's bearer token belongs to.
func (b *Broker) authenticate(ctx context.Context, header http.Header) (caller, error) {
	token, err := bearerToken(header)
	if err != nil {
		return caller{}, unauthorized(err.Error())
	}
	// Checking the audience first saves calls of the API server for tokens that are for another
	// program, and lets the broker return a clearer error.
	audiences, err := audiencesOf(token)
	if err != nil {
		return caller{}, unauthorized("the bearer token is not a ServiceAccount token: " + err.Error())
	}
	if !slices.Contains(audiences, v1alpha1.BrokerAudience) {
		return caller{}, unauthorized(fmt.Sprintf("the bearer token is for the audiences %q: the projected token must have the audience %q", audiences, v1alpha1.BrokerAudience))
	}
	info, err := b.verify(ctx, token, authenticator.Audiences{v1alpha1.BrokerAudience})
	if err != nil {
		return caller{}, err
	}
	if info == nil {
		return caller{}, unauthorized("the API server rejects the bearer token: it may have expired, or its Pod or ServiceAccount may have been deleted")
	}
	return podOf(info)
}

// verifySubject checks that a subject token belongs to the Pod that sent the request: otherwise a
// Pod could have the token of another Pod exchanged for a credential.
func (b *Broker) verifySubject(ctx context.Context, token string, asking caller) error {
	audiences, err := audiencesOf(token)
	if err != nil {
		return forbidden("SubjectTokenInvalid", "the subjectToken is not a ServiceAccount token: "+err.Error())
	}
	info, err := b.verify(ctx, token, audiences)
	if err != nil {
		return err
	}
	if info == nil {
		return forbidden("SubjectTokenInvalid", "the API server rejects the subjectToken: it may have expired")
	}
	subject, err := podOf(info)
	if err != nil || subject.Identity != asking.Identity {
		return forbidden("SubjectTokenOfOther", "the subjectToken must belong to the Pod that sends the request: the same ServiceAccount and the same Pod as the bearer token")
	}
	return nil
}

// verify returns the user of a token; nil if the token is not valid for one of the audiences.
func (b *Broker) verify(ctx context.Context, token string, audiences authenticator.Audiences) (user.Info, error) {
	response, ok, err := b.cfg.Authenticator.AuthenticateToken(authenticator.WithAudiences(ctx, audiences), token)
	switch {
	case err != nil:
		return nil, unavailable("the broker could not verify the Pod's token with this cluster's API server", err)
	case !ok || response == nil || response.User == nil || len(audiences.Intersect(response.Audiences)) == 0:
		return nil, nil
	}
	return response.User, nil
}

// authorize checks that the Pod's ServiceAccount may use an object, and that no lock denies it.
// Locks of the object are checked last, because only users of the object may find out about them.
func (b *Broker) authorize(ctx context.Context, asking caller, o use.Object) error {
	account := asking.account()
	decision, reason, err := b.cfg.Authorizer.Authorize(ctx, use.Attributes(account, asking.ServiceAccountUID, o))
	switch {
	case err != nil:
		return unavailable("the broker could not check the access of the Pod's ServiceAccount with this cluster's API server", err)
	case decision == authorizer.DecisionAllow:
		return b.checkLocks(ctx, asking, o)
	}
	if refused := b.callerLocked(ctx, asking); refused != nil {
		return refused
	}
	message := use.Denial(account, o)
	if reason != "" {
		message += " (" + reason + ")"
	}
	return forbidden("Forbidden", message)
}

// checkLocks rejects the use of objects that a lock denies, and every use if the locks cannot be
// read.
func (b *Broker) checkLocks(ctx context.Context, asking caller, objects ...use.Object) error {
	switch lock, err := b.cfg.FindLock(ctx, locks.Access{ServiceAccount: asking.account(), Pod: asking.PodName, Objects: objects}); {
	case err != nil:
		return unavailable("the broker could not read the locks of this cluster", err)
	case lock != nil:
		return locked(lock.Denial())
	}
	return nil
}

// callerLocked returns the error for a Pod to which a lock applies whatever the target: a lock of
// the Pod, its ServiceAccount, its namespace or the cluster; nil if there is none. Only that error
// makes the sidecar delete its credential, so it takes precedence over other refusals. It does not
// contain the reason of the lock, because the Pod may not use the target. If the locks cannot be
// read, the request is refused for the other cause.
func (b *Broker) callerLocked(ctx context.Context, asking caller) *statusError {
	if lock, err := b.cfg.FindLock(ctx, locks.Access{ServiceAccount: asking.account(), Pod: asking.PodName}); err != nil || lock == nil {
		return nil
	}
	return locked(fmt.Sprintf("Pod %s/%s is locked: keyferry locks -n %s lists the locks", asking.Namespace, asking.PodName, asking.Namespace))
}

// podOf returns the Pod that a verified token is bound to. The broker accepts only bound tokens:
// they are invalid when the Pod is deleted, and the audit can name the Pod. With an error, podOf
// returns what is known of the caller, for the audit.
func podOf(info user.Info) (caller, error) {
	namespace, name, err := serviceaccount.SplitUsername(info.GetName())
	if err != nil {
		return caller{}, forbidden("NotAServiceAccount", fmt.Sprintf("%q is not a ServiceAccount: the broker accepts only the projected token of a Pod", info.GetName()))
	}
	known := caller{providers.Identity{Namespace: namespace, ServiceAccount: name, ServiceAccountUID: info.GetUID()}}
	pod, uid := info.GetExtra()[serviceaccount.PodNameKey], info.GetExtra()[serviceaccount.PodUIDKey]
	if len(pod) != 1 || len(uid) != 1 || pod[0] == "" || uid[0] == "" {
		return known, forbidden("NotBoundToPod", fmt.Sprintf("the token of ServiceAccount %s/%s is not bound to a Pod: the broker accepts only the projected token of a Pod", namespace, name))
	}
	known.PodName, known.PodUID = pod[0], uid[0]
	return known, nil
}

// bearerToken returns the token of the Authorization header (RFC 6750, section 2.1). There must be
// exactly one header.
func bearerToken(header http.Header) (string, error) {
	values := header.Values("Authorization")
	if len(values) != 1 {
		return "", errors.New("the request needs one Authorization header with the Pod's token")
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", errors.New("the Authorization header must contain Bearer and the Pod's token")
	}
	return token, nil
}

// audiencesOf returns the audiences of a JWT without verifying it.
func audiencesOf(token string) (authenticator.Audiences, error) {
	claims, err := jwt.Read(token)
	if err == nil && len(claims.Audience) == 0 {
		err = errors.New("it has no audience")
	}
	return authenticator.Audiences(claims.Audience), err
}
