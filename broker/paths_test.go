package broker

import (
	"context"
	"net/http"
	"net/url"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/providers"
)

func TestPathsAndMethods(t *testing.T) {
	b := newBench(t, webMayUse, func(context.Context, types.NamespacedName, providers.Request) (issuer.Issued, error) {
		t.Error("a credential was issued")
		return issued(), nil
	})
	good := wire.TargetClusterPath(target.Namespace, target.Name)
	for _, test := range []struct {
		method, url string
		code        int
	}{
		{http.MethodGet, good, 405},
		{http.MethodPut, good, 405},
		{http.MethodPost, "/", 404},
		{http.MethodPost, good + "/", 404},
		{http.MethodPost, "/" + good, 404},
		{http.MethodPost, "/v1/x/.." + good[3:], 404},
		{http.MethodPost, "/v1/namespaces//targetclusters/tenant-1/credential", 404},
		{http.MethodPost, "/v1/namespaces/fleet/targetclusters/tenant%2F1/credential", 404},
		{http.MethodPost, "/v1/namespaces/fleet/targetclusters/%74enant-1/credential", 404},
		{http.MethodPost, good + "?name=tenant-2", 404},
		{http.MethodPost, "/v1/namespaces/fleet/clusters/tenant-1/credential", 404},
	} {
		t.Run(test.method+" "+test.url, func(t *testing.T) {
			r := request("{}")
			r.Method = test.method
			parsed, err := url.Parse("https://broker" + test.url)
			if err != nil {
				t.Fatal(err)
			}
			r.URL = parsed
			reason := metav1.StatusReasonNotFound
			if test.code == 405 {
				reason = metav1.StatusReasonMethodNotAllowed
			}
			wantStatus(t, b.do(r), test.code, reason, "")
		})
	}
}
