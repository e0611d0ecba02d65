package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/internal/expiry"
	"github.com/keyferry/keyferry/internal/use"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/providers"
)

// maxBody limits a request's body, in bytes. It is enough for a subject token with many claims.
const maxBody = 64 << 10

// exchange is a request and its result.
type exchange struct {
	start  time.Time
	client string
	// asked is the object in the request's path. named is the ClusterProfile that a TargetCluster
	// names, once it is known.
	asked use.Object
	named *use.Object
	// caller and issued are zero until they are known.
	caller caller
	issued issuer.Issued
	// expires is the expiry of the client's current credential; zero if the client does not send it.
	expires time.Time
	// unchanged reports whether the client already has this response.
	unchanged bool
}

func (b *Broker) serveCredential(w http.ResponseWriter, r *http.Request, asked use.Object) {
	x := &exchange{start: b.cfg.Now(), client: r.RemoteAddr, asked: asked}
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()

	body, err := b.credential(ctx, w, r, x)
	if err != nil && r.Context().Err() != nil {
		b.abandoned(x)
		return
	}
	if err != nil {
		refused := refusalFor(err, x.asked)
		b.refused(x, refused)
		refused.write(w)
		return
	}
	b.answered(x)
	writeCredential(w, body, x.unchanged)
}

// credential returns the body of the response. The order of the checks is part of the protocol:
// authentication, then authorization, and only then whether the object exists, so that clients
// without access cannot find out which objects exist.
func (b *Broker) credential(ctx context.Context, w http.ResponseWriter, r *http.Request, x *exchange) ([]byte, error) {
	var err error
	if x.caller, err = b.admit(ctx, r); err != nil {
		return nil, err
	}
	if err := check(x.asked); err != nil {
		return nil, err
	}
	if err := b.authorize(ctx, x.caller, x.asked); err != nil {
		return nil, err
	}
	req, err := readRequest(w, r)
	if err != nil {
		return nil, err
	}
	if req.SubjectToken != "" {
		if err := b.verifySubject(ctx, req.SubjectToken, x.caller); err != nil {
			return nil, err
		}
	}
	x.expires = b.expiresAt(r.Header)
	cluster, err := b.cluster(ctx, x)
	if err != nil {
		return nil, err
	}
	tag, err := b.issue(ctx, x, cluster, req)
	if err == nil && r.Header.Get(wire.HeaderRefused) == tag {
		b.cfg.Issuer.Refused(x.issued)
		tag, err = b.issue(ctx, x, cluster, req)
	}
	if err != nil {
		return nil, err
	}
	w.Header().Set("ETag", tag)
	if x.unchanged = !expiry.Due(b.cfg.Now(), x.issued.RefreshAt) && matches(r.Header, tag); x.unchanged {
		return nil, nil
	}
	return encode(execCredential(x.issued))
}

// issue issues a credential, and returns the ETag of the response. Issuing may take many seconds,
// so issue checks the locks again afterwards.
func (b *Broker) issue(ctx context.Context, x *exchange, cluster *v1alpha1.TargetCluster, req wire.Request) (tag string, err error) {
	x.issued, err = b.cfg.Issuer.IssueFor(ctx, cluster, providers.Request{Identity: x.caller.Identity, SubjectToken: req.SubjectToken, Expires: x.expires})
	if err != nil {
		return "", err
	}
	objects := []use.Object{x.asked}
	if x.named != nil {
		objects = append(objects, *x.named)
	}
	if err := b.checkLocks(ctx, x.caller, objects...); err != nil {
		return "", err
	}
	return b.etag(execCredential(x.issued))
}

func encode(answer wire.ExecCredential) ([]byte, error) {
	body, err := json.Marshal(answer)
	if err != nil {
		return nil, fmt.Errorf("encoding the answer: %w", err)
	}
	return body, nil
}

// cluster returns the TargetCluster to issue from. If it names a ClusterProfile, the Pod's
// ServiceAccount needs access to that, too. The credential is issued from the returned object,
// which is not read again, so the check is for the same ClusterProfile.
func (b *Broker) cluster(ctx context.Context, x *exchange) (*v1alpha1.TargetCluster, error) {
	if x.asked.IsClusterProfile() {
		return b.cfg.Issuer.ClusterProfile(ctx, x.asked.NamespacedName)
	}
	cluster, err := b.cfg.Issuer.TargetCluster(ctx, x.asked.NamespacedName)
	if err != nil || cluster.Spec.ClusterProfile == nil {
		return cluster, err
	}
	named := use.ClusterProfile(types.NamespacedName(*cluster.Spec.ClusterProfile))
	x.named = &named
	if err := b.authorize(ctx, x.caller, named); err != nil {
		return nil, err
	}
	return cluster, nil
}

// check rejects invalid names before they are used in a SubjectAccessReview.
func check(o use.Object) error {
	if problems := validation.IsDNS1123Label(o.Namespace); len(problems) > 0 {
		return badRequest(fmt.Sprintf("the path names the namespace %q, which is not valid: %s", o.Namespace, problems[0]))
	}
	if problems := validation.IsDNS1123Subdomain(o.Name); len(problems) > 0 {
		return badRequest(fmt.Sprintf("the path names the %s %q, which is not valid: %s", o.Kind, o.Name, problems[0]))
	}
	return nil
}

// expiresAt returns the expiry of the client's current credential by the broker's clock.
func (b *Broker) expiresAt(header http.Header) time.Time {
	seconds, err := strconv.ParseUint(header.Get(wire.HeaderExpiresIn), 10, 31)
	if err != nil {
		return time.Time{} // only a hint: without it, the request is served as usual
	}
	return b.cfg.Now().Add(time.Duration(seconds) * time.Second)
}

// readRequest decodes the body: at most one JSON object with known fields only. An empty body is an
// empty request.
func readRequest(w http.ResponseWriter, r *http.Request) (wire.Request, error) {
	var req wire.Request
	if r.ContentLength > maxBody {
		return req, tooLarge()
	}
	if t := r.Header.Get("Content-Type"); t != "" {
		if media, _, err := mime.ParseMediaType(t); err != nil || media != "application/json" {
			return req, unsupportedMediaType(t)
		}
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&req)
	if errors.Is(err, io.EOF) {
		return req, nil
	}
	if err == nil {
		if _, err = decoder.Token(); errors.Is(err, io.EOF) {
			return req, nil
		}
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return req, tooLarge()
	}
	// The decoder's error is not returned: it may quote the body, which may contain a token.
	return req, badRequest(`the body must be one JSON object, {} or {"subjectToken": "…"}, without other fields`)
}

// execCredential returns the response for an issued credential.
func execCredential(issued issuer.Issued) wire.ExecCredential {
	answer := wire.ExecCredential{
		APIVersion: wire.APIVersion,
		Kind:       wire.Kind,
		Spec: wire.Spec{Cluster: wire.Cluster{
			Server:                   issued.Endpoint.Server,
			TLSServerName:            issued.Endpoint.TLSServerName,
			CertificateAuthorityData: issued.Endpoint.CertificateAuthority,
			ProxyURL:                 issued.Endpoint.ProxyURL,
			Config: wire.Config{
				Namespace:   issued.Namespace,
				IssuedAt:    issued.IssuedAt.UTC(),
				RefreshAt:   issued.RefreshAt.UTC(),
				Delivery:    string(issued.Delivery),
				ClusterUID:  issued.ClusterUID,
				SystemRoots: issued.Endpoint.SystemRoots,
			},
		}},
	}
	if issued.InPod != nil {
		// The response has no times: no credential was issued. All replicas must return the same
		// response, or the Pod would run its plugin for nothing.
		answer.Spec.Cluster.Config.IssuedAt, answer.Spec.Cluster.Config.RefreshAt = time.Time{}, time.Time{}
		answer.Spec.Cluster.Config.PluginInPod = true
		answer.Spec.Cluster.Config.PluginConfig = issued.InPod.Config
		return answer
	}
	answer.Status = wire.Status{
		ExpirationTimestamp:   issued.NotAfter.UTC(),
		Token:                 issued.Token,
		ClientCertificateData: string(issued.ClientCertificate),
		ClientKeyData:         string(issued.ClientKey),
	}
	return answer
}

// etag returns the ETag of a response. It hashes the whole response; the credential has high
// entropy, so the hash reveals nothing about it. The CA certificates of a system are large: their
// own hash replaces them, which is not computed again for each request.
func (b *Broker) etag(answer wire.ExecCredential) (string, error) {
	if cluster := &answer.Spec.Cluster; cluster.Config.SystemRoots {
		cluster.CertificateAuthorityData = b.systemRoots.of(cluster.CertificateAuthorityData)
	}
	body, err := encode(answer)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(body)
	return `"` + hex.EncodeToString(sum[:]) + `"`, nil
}

// digest caches the hash of the last data.
type digest struct{ last atomic.Pointer[hashed] }

type hashed struct{ data, sum []byte }

// of returns the hash of data. The caller must not change data afterwards.
func (d *digest) of(data []byte) []byte {
	if last := d.last.Load(); last != nil && len(data) > 0 && len(last.data) == len(data) && &last.data[0] == &data[0] {
		return last.sum
	}
	sum := sha256.Sum256(data)
	d.last.Store(&hashed{data, sum[:]})
	return sum[:]
}

// matches reports whether the client already has the response with this ETag.
func matches(header http.Header, tag string) bool {
	for _, list := range header.Values("If-None-Match") {
		for have := range strings.SplitSeq(list, ",") {
			if strings.TrimPrefix(strings.TrimSpace(have), "W/") == tag {
				return true
			}
		}
	}
	return false
}

func writeCredential(w http.ResponseWriter, body []byte, unchanged bool) {
	w.Header().Set("Cache-Control", "no-store")
	if unchanged {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	// An error means that the client has disconnected.
	_, _ = w.Write(body) //nolint:gosec // JSON that json.Marshal has escaped
}
