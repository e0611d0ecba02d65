package broker

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/providers"
)

// revocable is an issuer whose credentials a target rejects.
type revocable struct {
	fakeIssuer
	refused []issuer.Issued
}

func (r *revocable) Refused(issued issuer.Issued) { r.refused = append(r.refused, issued) }

// TestRefusedByTheTarget checks that a credential which the target rejects is reported to the
// issuer and issued again, and that a report about another credential is ignored.
func TestRefusedByTheTarget(t *testing.T) {
	of := &revocable{}
	of.fakeIssuer = func(context.Context, types.NamespacedName, providers.Request) (issuer.Issued, error) {
		is := issued()
		is.Token += fmt.Sprint(len(of.refused))
		return is, nil
	}
	b := newBench(t, webMayUse, of.fakeIssuer)
	b.cfg.Issuer = of
	tag := b.do(request("{}")).Header().Get("ETag")
	for _, other := range []string{"", "*", `"x"`, "W/" + tag, tag + ", " + tag} {
		r := request("{}")
		r.Header.Set(wire.HeaderRefused, other)
		if w := b.do(r); w.Header().Get("ETag") != tag || len(of.refused) > 0 {
			t.Fatalf("%s is refused, and so is the credential with the tag %s", other, tag)
		}
	}
	r := request("{}")
	r.Header.Set(wire.HeaderRefused, tag)
	r.Header.Set("If-None-Match", tag)
	w := b.do(r)
	if w.Code != http.StatusOK || w.Header().Get("ETag") == tag || len(of.refused) != 1 || of.refused[0].Token != issued().Token+"0" {
		t.Errorf("code %d, ETag %s, refused %d", w.Code, w.Header().Get("ETag"), len(of.refused))
	}
	unauthorized := request("{}")
	unauthorized.Header.Set("Authorization", "Bearer x")
	unauthorized.Header.Set(wire.HeaderRefused, w.Header().Get("ETag"))
	if b.do(unauthorized); len(of.refused) != 1 {
		t.Error("somebody who is not known tells that a credential is refused")
	}
}
