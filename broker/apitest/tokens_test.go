package apitest

import (
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/internal/testenv"
)

// hurried returns a clock that advances by minutes between requests, so that no rate limit is
// reached.
func hurried() func() time.Time {
	now := time.Now()
	return func() time.Time {
		now = now.Add(time.Minute)
		return now
	}
}

// forge builds tokens from parts, signed with the API server's own key.
type forge struct {
	t   *testing.T
	key *ecdsa.PrivateKey
	// header and claims are those of a good token.
	header, claims map[string]any
}

func newForge(t *testing.T, key *ecdsa.PrivateKey, good string) forge {
	t.Helper()
	f := forge{t: t, key: key}
	parts := strings.Split(good, ".")
	for i, into := range []*map[string]any{&f.header, &f.claims} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		must(t, err)
		must(t, json.Unmarshal(raw, into))
	}
	return f
}

func (f forge) encode(values, changes map[string]any) string {
	f.t.Helper()
	values = maps.Clone(values)
	maps.Copy(values, changes)
	raw, err := json.Marshal(values)
	must(f.t, err)
	return base64.RawURLEncoding.EncodeToString(raw)
}

// unsigned returns header and claims, with changes.
func (f forge) unsigned(header, claims map[string]any) string {
	f.t.Helper()
	return f.encode(f.header, header) + "." + f.encode(f.claims, claims)
}

// sign returns a signed token with changed claims.
func (f forge) sign(claims map[string]any) string {
	f.t.Helper()
	text := f.unsigned(nil, claims)
	sum := sha256.Sum256([]byte(text))
	one, two, err := ecdsa.Sign(rand.Reader, f.key, sum[:])
	must(f.t, err)
	var signature [64]byte
	one.FillBytes(signature[:32])
	two.FillBytes(signature[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature[:])
}

// of returns the claims about the Pod, with another UID for one kind of object.
func (f forge) of(kind, name string) map[string]any {
	f.t.Helper()
	claims, ok := f.claims["kubernetes.io"].(map[string]any)
	if !ok {
		f.t.Fatalf("claims are %v", f.claims)
	}
	claims = maps.Clone(claims)
	claims[kind] = map[string]any{"name": name, "uid": "6d1c7c0e-0000-4000-8000-000000000000"}
	return claims
}

// confused returns a token that is signed with the public key as a shared secret.
func (f forge) confused() string {
	f.t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&f.key.PublicKey)
	must(f.t, err)
	text := f.unsigned(map[string]any{"alg": "HS256"}, nil)
	mac := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// TestTokens checks that only a token of the API server for an existing Pod, with the broker's
// audience and in the right header, is accepted. All other requests are rejected and audited
// without the token.
func TestTokens(t *testing.T) {
	here, key := testenv.Signer(t)
	c, err := kubernetes.NewForConfig(here)
	must(t, err)
	everybodyMayUse(t, c)
	web := types.NamespacedName{Namespace: "tokens", Name: "web"}
	good := tokenOf(t, c, runPod(t, c, web, "web-0"))
	gone := runPod(t, c, web, "web-1")
	ofGone := tokenOf(t, c, gone)
	b, audit := newBroker(t, here, hurried())
	path := wire.TargetClusterPath("fleet", "tenant-1")
	for _, token := range []string{good, ofGone} {
		eventually(t, func() error {
			if code, said := ask(t, b, path, bearer(token)); code != http.StatusOK {
				return fmt.Errorf("a good token: code %d: %s", code, said)
			}
			return nil
		})
	}
	must(t, c.CoreV1().Pods(web.Namespace).Delete(t.Context(), gone.Name, *metav1.NewDeleteOptions(0)))
	testenv.AwaitRejection(t, here, ofGone, v1alpha1.BrokerAudience)
	elsewhere, err := kubernetes.NewForConfig(apiServer)
	must(t, err)
	ofElsewhere := tokenOf(t, elsewhere, runPod(t, elsewhere, web, "web-0"))

	f := newForge(t, key, good)
	hour := time.Hour / time.Second
	if code, said := ask(t, b, path, bearer(f.sign(nil))); code != http.StatusOK {
		t.Fatalf("what the API server's own key has signed is not accepted, so what follows says nothing: %s", said)
	}
	parts := strings.Split(good, ".")
	audit.take()
	for name, header := range map[string]http.Header{
		"another audience":              bearer(f.sign(map[string]any{"aud": []string{"https://kubernetes.default.svc"}})),
		"no audience":                   bearer(f.sign(map[string]any{"aud": nil})),
		"longer audience":               bearer(f.sign(map[string]any{"aud": []string{"keyferry.example"}})),
		"of a Pod that was deleted":     bearer(ofGone),
		"of another cluster":            bearer(ofElsewhere),
		"of another issuer":             bearer(f.sign(map[string]any{"iss": "https://elsewhere.example"})),
		"expired":                       bearer(f.sign(map[string]any{"iat": time.Now().Unix() - int64(2*hour), "nbf": time.Now().Unix() - int64(2*hour), "exp": time.Now().Unix() - int64(hour)})),
		"not yet valid":                 bearer(f.sign(map[string]any{"nbf": time.Now().Unix() + int64(hour)})),
		"of a ServiceAccount long gone": bearer(f.sign(map[string]any{"kubernetes.io": f.of("serviceaccount", "gone")})),
		"of a Pod of that name before":  bearer(f.sign(map[string]any{"kubernetes.io": f.of("pod", "web-0")})),
		"unsigned":                      bearer(parts[0] + "." + parts[1] + "."),
		"without a signature's place":   bearer(parts[0] + "." + parts[1]),
		"alg none":                      bearer(f.unsigned(map[string]any{"alg": "none"}, nil) + "."),
		"alg None, signed":              bearer(f.unsigned(map[string]any{"alg": "None"}, nil) + "." + parts[2]),
		"alg HS256 with the public key": bearer(f.confused()),
		"another's claims":              bearer(f.unsigned(nil, map[string]any{"sub": "system:serviceaccount:kube-system:default"}) + "." + parts[2]),
		"key in the header":             bearer(f.unsigned(map[string]any{"jwk": map[string]any{"kty": "oct", "k": "AA"}, "alg": "HS256"}, nil) + "." + parts[2]),
		"of two":                        {"Authorization": {"Bearer " + good, "Bearer " + good}},
		"two in one":                    bearer(good + ", Bearer " + good),
		"as basic auth":                 {"Authorization": {"Basic " + good}},
		"bare":                          {"Authorization": {good}},
		"as a proxy's":                  {"Proxy-Authorization": {"Bearer " + good}},
		"forwarded":                     {"X-Forwarded-Access-Token": {good}, "X-Remote-User": {"system:serviceaccount:tokens:web"}},
		"impersonating":                 {"Impersonate-User": {"system:serviceaccount:tokens:web"}},
		"in a cookie":                   {"Cookie": {"token=" + good}},
		"with a NUL":                    bearer(good + "\x00"),
		"with a line end":               bearer(good + "\r\nX: y"),
	} {
		t.Run(name, func(t *testing.T) {
			code, said := ask(t, b, path, header)
			if code != http.StatusUnauthorized {
				t.Errorf("code %d: %s", code, said)
			}
			line := audit.take()
			if !strings.Contains(line, `"outcome":"refused","code":401`) {
				t.Errorf("audit: %s", line)
			}
			for _, part := range []string{good, parts[1][:24], parts[2][:24]} {
				if strings.Contains(line+said, part) {
					t.Errorf("a token is in the audit or in the answer: %s %s", line, said)
				}
			}
		})
	}
}

// everybodyMayUse grants the use of all objects to all users.
func everybodyMayUse(t *testing.T, c kubernetes.Interface) {
	t.Helper()
	clusterRole(t, c, metav1.ObjectMeta{Name: "everybody-may-use"},
		rbacv1.PolicyRule{Verbs: []string{"use"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
		rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "system:authenticated"})
}
