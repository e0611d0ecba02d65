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

// serveTarget returns the handler of a target's API server, which issues tokens.
func (f *fleet) serveTarget(name string) http.HandlerFunc {
	return func(rw http.ResponseWriter, req *http.Request) {
		f.with(func() { f.entered[name] = append(f.entered[name], req.Header.Get("Authorization")) })
		rw.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(rw, `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","status":{"token":"issued-by-%s-%s","expirationTimestamp":%q}}`,
			name, rand.Text(), f.now().Add(time.Hour).UTC().Format(time.RFC3339))
	}
}

// serveProvider is the handler of all providers: CB-Spider, CB-Tumblebug, Google, Entra, and the
// server of a plugin. It returns another token for each TargetCluster. If it is to fail, its error
// contains the secret that it received.
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

// sender returns the TargetCluster that a provider is called for, and the secret in the request.
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

// fails records the secret that a provider receives, and reports whether the provider is to fail.
func (f *fleet) fails(name, sent string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if sent != "" {
		f.sent[name] = sent
	}
	return f.fail[name]
}

// failSTS is the handler of a failing AWS STS.
func (f *fleet) failSTS(rw http.ResponseWriter, req *http.Request) bool {
	name, sent := path.Base(req.FormValue("RoleArn")), req.FormValue("WebIdentityToken")
	if !f.fails(name, sent) {
		return false
	}
	http.Error(rw, sent, http.StatusServiceUnavailable)
	return true
}

// plugins returns a provider file whose plugin is this test program, with a password.
func (f *fleet) plugins() *clusterprofile.ProviderFile {
	file, err := clusterprofile.ParseProviderFile(fmt.Appendf(nil, `{"providers":[{"name":"plugin","profileSourcedEnvVarsPolicy":"AppendIfNotExists","execConfig":{
"apiVersion":"client.authentication.k8s.io/v1","command":%q,"env":[{"name":"ACT_AS","value":"plugin"},{"name":"PROVIDER","value":%q},{"name":"PASSWORD","value":%q}]}}]}`,
		os.Args[0], f.provider.URL, planted+"plugin"))
	must(f.t, err)
	return file
}

// actAsPlugin runs this program as a plugin. It prints the credential that the provider returns for
// the cluster in its environment.
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

// signRequests does what cert-manager does, with an issuer for each TargetCluster.
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
