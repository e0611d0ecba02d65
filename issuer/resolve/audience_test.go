package resolve

import (
	"errors"
	"strings"
	"testing"
)

func TestCheckAudience(t *testing.T) {
	r := New(Config{LocalAudiences: []string{"https://Kubernetes.default.svc"}})
	for audience, want := range map[string]string{
		"tenant-1.example.com":                 "",
		"https://203.0.113.7:6443":             "",
		"api://tenant-1":                       "",
		"amazonaws.com.example.com":            "",
		"notamazonaws.com":                     "",
		"100%":                                 "",
		"keyferry":                             "Keyferry's broker",
		"Keyferry/":                            "Keyferry's broker",
		"%6beyferry":                           "Keyferry's broker",
		"%25%36%62eyferry":                     "Keyferry's broker",
		"%20keyferry":                          "Keyferry's broker",
		"https://kubernetes.default.svc":       "this cluster's API server",
		"https://kubernetes.default.svc/":      "this cluster's API server",
		"https%3A%2F%2Fkubernetes.default.svc": "this cluster's API server",
		"sts.amazonaws.com":                    "Amazon Web Services",
		"STS.Amazonaws.com/":                   "Amazon Web Services",
		"sts.eu-central-1.amazonaws.com":       "Amazon Web Services",
		"https://sts.amazonaws.com.cn":         "Amazon Web Services",
		"pods.eks.amazonaws.com":               "Amazon Web Services",
		"sts.amazonaws.com.":                   "Amazon Web Services",
		"api://AzureADTokenExchange":           "Microsoft Entra ID",
		"api://AzureADTokenExchangeUSGov":      "Microsoft Entra ID",
		"api:%2f%2fazureadtokenexchange/":      "Microsoft Entra ID",
		"//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q":       "Google Cloud",
		"https://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q": "Google Cloud",
		"project.svc.id.goog":   "Google Cloud",
		"sts.aliyuncs.com":      "Alibaba Cloud",
		"sts.cloud.tencent.com": "Tencent Cloud",
		"sts.volcengine.com":    "Volcano Engine",
		"iam":                   "IBM Cloud",
		"istio-ca":              "Istio",
		"OpenShift":             "OpenShift's cloud credentials",
		"identity.l5d.io":       "Linkerd",
		"sigstore":              "Sigstore",
		"spire-server":          "SPIRE",
		"vault":                 "HashiCorp Vault",
	} {
		err := r.checkAudience(audience)
		invalid, ok := errors.AsType[*InvalidError](err)
		if (err != nil) != (want != "") || err != nil && (!ok || invalid.Reason != ReasonAudienceTaken ||
			!strings.Contains(invalid.Message, want) || !strings.Contains(invalid.Message, "use an audience that only the target accepts")) {
			t.Errorf("%q: got %v, want %q", audience, err, want)
		}
	}
}
