package issuer_test

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"
	"time"
)

// TestRewrittenKubeconfig: Cluster API's provider for AWS writes a new token into the kubeconfig
// Secret every ten minutes. The tokens that were issued stay.
func TestRewrittenKubeconfig(t *testing.T) {
	w := newWorld(t)
	rewrite := func(token string) {
		w.with(func() {
			w.secret.ResourceVersion += "0"
			w.secret.Data["value"] = bytes.ReplaceAll(w.kubeconfig(""), []byte(planted), []byte(token))
		})
		w.pass(10 * time.Minute)
	}
	w.wantToken("token-1")
	for n := range 24 { // four hours
		rewrite(fmt.Sprintf("access-%d", n))
		w.issue(web)
	}
	if issued, _ := w.counts(); issued != 5 {
		t.Errorf("%d tokens were requested in four hours, want 5", issued)
	}
	// A kubeconfig that did not work is replaced: that is noticed at once.
	w.pass(time.Hour)
	w.failWith(answers(http.StatusUnauthorized, "Unauthorized", ""))
	for range 8 {
		if _, err := w.issuer.Issue(t.Context(), tenant, web); err == nil {
			t.Fatal("no error")
		}
		w.pass(10 * time.Second)
	}
	if _, err := w.issuer.Issue(t.Context(), tenant, web); err == nil {
		t.Fatal("no error")
	}
	w.failWith(nil)
	w.with(func() { w.secret.ResourceVersion = "repaired" })
	w.pass(5 * time.Second)
	w.issue(web)
}
