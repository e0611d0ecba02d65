package issuer

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/issuer/verify"
	"github.com/keyferry/keyferry/providers"
)

func TestFailureOf(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want Failure
	}{
		"invalid":          {&resolve.InvalidError{Reason: resolve.ReasonInvalidKubeconfig}, Failure{"InvalidKubeconfig", "invalid", 422, "Invalid"}},
		"no subject token": {resolve.ErrSubjectToken, Failure{"SubjectTokenNeeded", "refused", 403, "Forbidden"}},
		"not found":        {providers.ErrNotFound, Failure{"NotFound", "not_found", 404, "NotFound"}},
		"refused":          {providers.ErrRefused, Failure{"Refused", "refused", 502, "ProviderRefused"}},
		"rejected":         {fmt.Errorf("%w: %w", providers.ErrRefused, verify.ErrRejected), Failure{"CredentialRejected", "rejected", 502, "ProviderRefused"}},
		"unavailable":      {providers.Unavailable(0, context.DeadlineExceeded), Failure{"Unavailable", "unavailable", 503, "ServiceUnavailable"}},
		"too late":         {context.DeadlineExceeded, Failure{"Unavailable", "unavailable", 503, "ServiceUnavailable"}},
		"unknown":          {errors.New("a bug"), Failure{"Failed", "failed", 500, "InternalError"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := FailureOf(fmt.Errorf("TargetCluster fleet/tenant-1: %w", test.err)); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}
