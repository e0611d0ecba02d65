package broker

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	certmanager "github.com/cert-manager/cert-manager/pkg/client/clientset/versioned/typed/certmanager/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/keyferry/keyferry/clusterprofile"
)

const (
	amazon     = "sts.eu-central-1.amazonaws.com"
	google     = "sts.googleapis.com"
	googleKeys = "oauth2.googleapis.com"
	microsoft  = "login.microsoftonline.com"
)

// serveTarget is the API server of a target, of which tokens are requested.
func (f *fleet) serveTarget(name string) http.HandlerFunc {
	return func(rw http.ResponseWriter, req *http.Request) {
		f.with(func() { f.entered[name] = append(f.entered[name], req.Header.Get("Authorization")) })
		rw.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(rw, `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","status":{"token":"issued-by-%s-%s","expirationTimestamp":%q}}`,
			name, rand.Text(), f.now().Add(time.Hour).UTC().Format(time.RFC3339))
	}
}

// serveProvider is CB-Spider, CB-Tumblebug, Google, Entra, and what a plugin asks. It gives whose
// credentials it sees a token of its own; one that is to fail has what it sent repeated.
func (f *fleet) serveProvider(rw http.ResponseWriter, req *http.Request) {
	name, sent := f.sender(req)
	rw.Header().Set("Content-Type", "application/json")
	token := planted + "access-of-" + name + "-" + rand.Text()
	switch {
	case f.fails(name, sent):
		rw.WriteHeader(http.StatusServiceUnavailable)
		_ = json.NewEncoder(rw).Encode(map[string]string{"message": sent, "error": "temporarily_unavailable", "error_description": sent})
	case strings.HasSuffix(req.URL.Path, "/v2.0/.well-known/openid-configuration"):
		base := "https://" + req.Host + strings.TrimSuffix(req.URL.Path, "/v2.0/.well-known/openid-configuration")
		_, _ = fmt.Fprintf(rw, `{"issuer":"%[1]s/v2.0","authorization_endpoint":"%[1]s/oauth2/v2.0/authorize","token_endpoint":"%[1]s/oauth2/v2.0/token"}`, base)
	case req.PostForm.Has("grant_type"):
		_, _ = fmt.Fprintf(rw, `{"access_token":%q,"expires_in":3600,"token_type":"Bearer","issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}`, token)
	default:
		_, _ = fmt.Fprintf(rw, `{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":%q,"expirationTimestamp":%q}}`,
			token, f.now().Add(10*time.Minute).UTC().Format(time.RFC3339))
	}
}

// sender tells for which TargetCluster a provider is asked, and what it is sent that is secret.
func (f *fleet) sender(req *http.Request) (name, sent string) {
	_ = req.ParseForm()
	authorization := req.Header.Get("Authorization")
	user, password, _ := req.BasicAuth()
	switch {
	case req.Host == google: // //iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/NAME/providers/management
		return path.Base(path.Dir(path.Dir(req.PostForm.Get("audience")))), req.PostForm.Get("subject_token")
	case req.Host == microsoft:
		tenant, _, _ := strings.Cut(req.URL.Path[1:], "/")
		return f.tenants[tenant], req.PostForm.Get("client_secret") + req.PostForm.Get("client_assertion")
	case req.Host == googleKeys:
		assertion := req.PostForm.Get("assertion")
		var claims struct{ Iss string }
		text, _ := base64.RawURLEncoding.DecodeString(strings.Split(assertion+"..", ".")[1])
		_ = json.Unmarshal(text, &claims)
		name, _, _ = strings.Cut(claims.Iss, "@")
		return name, assertion
	case strings.HasPrefix(req.URL.Path, "/plugin/"):
		return path.Base(req.URL.Path), authorization
	case password == planted+user:
		return user, authorization
	}
	return strings.TrimPrefix(authorization, "Bearer "+planted), authorization
}

// fails keeps what a provider is sent, and reports whether it is to fail.
func (f *fleet) fails(name, sent string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if sent != "" {
		f.sent[name] = sent
	}
	return f.fail[name]
}

// failSTS answers for an AWS STS that fails.
func (f *fleet) failSTS(rw http.ResponseWriter, req *http.Request) bool {
	name, sent := path.Base(req.FormValue("RoleArn")), req.FormValue("WebIdentityToken")
	if !f.fails(name, sent) {
		return false
	}
	http.Error(rw, sent, http.StatusServiceUnavailable)
	return true
}

// plugins is a provider file with this very program, which has a password.
func (f *fleet) plugins() *clusterprofile.ProviderFile {
	file, err := clusterprofile.ParseProviderFile(fmt.Appendf(nil, `{"providers":[{"name":"plugin","profileSourcedEnvVarsPolicy":"AppendIfNotExists","execConfig":{
"apiVersion":"client.authentication.k8s.io/v1","command":%q,"env":[{"name":"ACT_AS","value":"plugin"},{"name":"PROVIDER","value":%q},{"name":"PASSWORD","value":%q}]}}]}`,
		os.Args[0], f.provider.URL, planted+"plugin"))
	must(f.t, err)
	return file
}

// actAsPlugin is this program as a plugin. It prints what the provider says of the cluster that it
// is told.
func actAsPlugin() int {
	password := os.Getenv("PASSWORD")
	req, err := http.NewRequest(http.MethodGet, os.Getenv("PROVIDER")+"/plugin/"+os.Getenv("CLUSTER"), http.NoBody)
	if err != nil {
		return 1
	}
	req.Header.Set("Authorization", "Bearer "+password)
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		fmt.Fprintln(os.Stderr, "is refused with", password, err)
		return 1
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		return 1
	}
	return 0
}

// signRequests is cert-manager and its issuers, which are named for the TargetClusters.
func (f *fleet) signRequests(api certmanager.CertificateRequestsGetter) {
	requests, err := api.CertificateRequests(f.namespace).Watch(f.t.Context(), metav1.ListOptions{})
	must(f.t, err)
	f.t.Cleanup(requests.Stop)
	go func() {
		for event := range requests.ResultChan() {
			request, ok := event.Object.(*cmapi.CertificateRequest)
			if !ok || event.Type != watch.Added {
				continue
			}
			f.decide(request)
			if _, err := api.CertificateRequests(f.namespace).UpdateStatus(f.t.Context(), request, metav1.UpdateOptions{}); err != nil && f.t.Context().Err() == nil {
				f.t.Error(err)
			}
		}
	}()
}

func (f *fleet) decide(request *cmapi.CertificateRequest) {
	name, now := request.Spec.IssuerRef.Name, metav1.Now()
	ready := cmapi.CertificateRequestCondition{Type: cmapi.CertificateRequestConditionReady, LastTransitionTime: &now}
	certificate, err := f.authorities[name].sign(request.Spec.Request, f.now())
	if err != nil || f.fails(name, "") {
		ready.Status, ready.Reason, ready.Message = cmmeta.ConditionFalse, cmapi.CertificateRequestReasonFailed, "the authority is down"
	} else {
		ready.Status, ready.Reason = cmmeta.ConditionTrue, cmapi.CertificateRequestReasonIssued
		request.Status.Certificate = certificate
	}
	request.Status.Conditions = append(request.Status.Conditions, ready)
}
