package onboard

import (
	"context"
	"fmt"
	"strconv"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/keyferry/keyferry/cli/managed"
	"github.com/keyferry/keyferry/providers/kubeconfig"
)

// Rotate replaces the access token. It needs your rights, not those of the token, so it also
// replaces one that was revoked. The old token is revoked once no request with it can be under way:
// grace is the longest that one takes.
func (a *Adder) Rotate(ctx context.Context, grace time.Duration) error {
	secret := &corev1.Secret{}
	if err := a.Management.Get(ctx, a.Name, secret); err != nil {
		return in(inManagement, fmt.Errorf("reading Secret %s: %w", a.Name, err))
	}
	if !managed.Is(secret, "") {
		return in(inManagement, fmt.Errorf("Secret %s %w: write the new credential into the Secret yourself", a.Name, managed.ErrForeign))
	}
	provider, err := kubeconfig.NewFromFile(secret.Data[secretKey], "")
	if err != nil {
		return in(inManagement, fmt.Errorf("Secret %s: key %s: %w", a.Name, secretKey, err))
	}
	rights, err := a.issuingRights(ctx)
	if err != nil {
		return in(inTarget, err)
	}
	old, err := a.tokens(ctx)
	if err != nil {
		return in(inTarget, err)
	}
	token, err := a.replaceToken(ctx, nextToken(a.TokenSecret(), old), rights)
	if err != nil {
		return fmt.Errorf("%w (the old access token stays in use)", err)
	}
	text, err := a.kubeconfig(provider.Endpoint(), token)
	if err != nil {
		return err
	}
	if err := a.apply(ctx, inManagement, a.Management, a.secret(text), managed.Apply); err != nil {
		return err
	}
	if len(old) > 0 && grace > 0 {
		a.Report("waiting %s for requests with the old access token", grace)
		select {
		case <-time.After(grace):
		case <-ctx.Done():
			return fmt.Errorf("the new access token is in use, and the old token is not revoked yet: run the command again: %w", ctx.Err())
		}
	}
	for _, name := range old {
		object := a.tokenSecret(name)
		outcome, err := managed.Delete(ctx, a.Target, object)
		if err != nil {
			return in(inTarget, err)
		}
		a.Report("%s: %s %s", inTarget, managed.Name(object), outcome)
	}
	return nil
}

// replaceToken makes a Secret with a new token, and removes it again if the token does not work.
func (a *Adder) replaceToken(ctx context.Context, name string, rights []authorizationv1.ResourceAttributes) (token string, err error) {
	defer func() {
		if err != nil {
			if undone := a.undo(ctx); undone != nil {
				err = fmt.Errorf("%w; %w", err, undone)
			}
		}
	}()
	if err := a.apply(ctx, inTarget, a.Target, a.tokenSecret(name), managed.Apply); err != nil {
		return "", err
	}
	if token, err = a.awaitToken(ctx, name); err == nil {
		err = a.awaitRights(ctx, token, rights)
	}
	if err != nil {
		return "", in(inTarget, err)
	}
	return token, nil
}

// issuingRights are those that the Roles in the target give to the access account.
func (a *Adder) issuingRights(ctx context.Context) ([]authorizationv1.ResourceAttributes, error) {
	roles, err := inventory(ctx, a.Target, a.Owner, rbacv1.SchemeGroupVersion.WithKind("Role"))
	if err != nil {
		return nil, err
	}
	if len(roles) == 0 {
		return nil, fmt.Errorf("the target has no Role for TargetCluster %s: select the right target with --context, or rotate the credential by hand if another tool or management cluster registered the target", a.Name)
	}
	var rights []authorizationv1.ResourceAttributes
	for _, object := range roles {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
		if err != nil {
			return nil, err
		}
		role := &rbacv1.Role{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content, role); err != nil {
			return nil, err
		}
		name := ""
		if len(role.Rules) > 0 && len(role.Rules[0].ResourceNames) > 0 {
			name = role.Rules[0].ResourceNames[0]
		}
		rights = append(rights, tokenRight(role.Namespace, name))
	}
	return rights, nil
}

// nextToken is the name of a Secret that does not exist yet.
func nextToken(first string, have []string) string {
	taken := map[string]bool{}
	for _, name := range have {
		taken[name] = true
	}
	name := first
	for n := 2; taken[name]; n++ {
		name = first + "." + strconv.Itoa(n)
	}
	return name
}
