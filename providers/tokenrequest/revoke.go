package tokenrequest

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyferry/keyferry/providers"
)

// owner marks the Secret that tokens are bound to: those of a holder have one of their own.
func (p *Provider) owner(req providers.Request) string {
	if req.Holder == "" {
		return p.cfg.Owner
	}
	return p.cfg.Owner + "#" + req.Holder
}

// Revocation returns the Secret that the token for req is bound to, as namespace/name.
func (p *Provider) Revocation(req providers.Request) string {
	if !p.cfg.Revocable {
		return ""
	}
	account := p.account(req.Identity)
	return account.Namespace + "/" + secretName(account.Name, p.owner(req))
}

// Revoke deletes that Secret. The ServiceAccount stays: others have tokens of it.
func (p *Provider) Revoke(ctx context.Context, req providers.Request, name string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	namespace, secret, ok := strings.Cut(name, "/")
	if !ok || p.cfg.Owner == "" {
		return fmt.Errorf("%w: %q is not the name of an object that Keyferry created to revoke tokens", providers.ErrRefused, name)
	}
	access, err := p.cfg.Access.Issue(ctx, req)
	if err != nil {
		return fmt.Errorf("getting into the target: %w", err)
	}
	target, err := p.clientFor(p.cfg.Endpoint.Or(access.Endpoint), access)
	if err != nil {
		return err
	}
	return target.deleteSecret(ctx, namespace, secret, p.owner(req))
}

// deleteSecret deletes the Secret if it is owner's: the very one that was looked at, not one that
// was made since.
func (c *client) deleteSecret(ctx context.Context, namespace, name, owner string) error {
	existing := &corev1.Secret{}
	err := c.api.Get().Namespace(namespace).Resource("secrets").Name(name).MaxRetries(0).Do(ctx).Into(existing)
	if err == nil && existing.Annotations[OwnerAnnotation] == owner {
		err = c.api.Delete().Namespace(namespace).Resource("secrets").Name(name).
			Body(metav1.NewPreconditionDeleteOptions(string(existing.UID))).MaxRetries(0).Do(ctx).Error()
	}
	if err == nil || isNotFound(err, "secrets") {
		return nil
	}
	return c.failure(err, failing{
		doing:   "deleting Secret " + namespace + "/" + name + ", which revokes tokens,",
		needs:   "get and delete on secrets in namespace " + namespace,
		missing: "it is not there",
	})
}
