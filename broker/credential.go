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

// maxBody leaves room for a subject token with many claims.
const maxBody = 64 << 10

// exchange is one request and what became of it.
type exchange struct {
	start  time.Time
	client string
	// asked is what a credential is asked for, and named the ClusterProfile that it names, once that
	// is known.
	asked use.Object
	named *use.Object
	// caller and issued are zero until they are known.
	caller caller
	issued issuer.Issued
	// expires is when the client's present credential expires; zero if the client does not say.
	expires time.Time
	// unchanged: the answer is the one that the client has already.
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

// credential returns the answer's body. Its order is part of the contract: who asks, whether they
// may, and only then whether there is anything to be had, so that nobody learns which there are.
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

// issue has a credential issued, and returns the tag of the answer.
func (b *Broker) issue(ctx context.Context, x *exchange, cluster *v1alpha1.TargetCluster, req wire.Request) (tag string, err error) {
	x.issued, err = b.cfg.Issuer.IssueFor(ctx, cluster, providers.Request{Identity: x.caller.Identity, SubjectToken: req.SubjectToken, Expires: x.expires})
	if err != nil {
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

// cluster returns what is issued from. Where it names a ClusterProfile, the Pod's ServiceAccount
// has to have the right to that, too: it is asked about what has been read here, and nothing is
// read again to issue from it.
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

// check refuses what cannot be the name of an object before it is put into a SubjectAccessReview.
func check(o use.Object) error {
	if problems := validation.IsDNS1123Label(o.Namespace); len(problems) > 0 {
		return badRequest(fmt.Sprintf("the path names the namespace %q, which is not valid: %s", o.Namespace, problems[0]))
	}
	if problems := validation.IsDNS1123Subdomain(o.Name); len(problems) > 0 {
		return badRequest(fmt.Sprintf("the path names the %s %q, which is not valid: %s", o.Kind, o.Name, problems[0]))
	}
	return nil
}

// expiresAt is when the client's present credential expires, by the clock of this program.
func (b *Broker) expiresAt(header http.Header) time.Time {
	seconds, err := strconv.ParseUint(header.Get(wire.HeaderExpiresIn), 10, 31)
	if err != nil {
		return time.Time{} // a hint: without it, the request is answered as usual
	}
	return b.cfg.Now().Add(time.Duration(seconds) * time.Second)
}

// readRequest reads the body: at most one JSON object, of known fields. No body is an empty one.
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
	// The decoder's own words are not passed on: they may quote the body, which may hold a token.
	return req, badRequest(`the body must be one JSON object, {} or {"subjectToken": "…"}, without other fields`)
}

// execCredential is what is sent of an issue.
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
		// No times: nothing has been issued, and every replica has to give the same answer, or the Pod
		// would run its plugin in vain.
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

// etag tells answers apart. It is a hash over a credential of high entropy, hence says nothing
// about it. The CA certificates of a system are many: they count by their own hash, which is not
// computed again for each Pod and minute.
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

// digest remembers the hash of the last data that it was asked for.
type digest struct{ last atomic.Pointer[hashed] }

type hashed struct{ data, sum []byte }

// of returns the hash of data, which must not be changed afterwards.
func (d *digest) of(data []byte) []byte {
	if last := d.last.Load(); last != nil && len(data) > 0 && len(last.data) == len(data) && &last.data[0] == &data[0] {
		return last.sum
	}
	sum := sha256.Sum256(data)
	d.last.Store(&hashed{data, sum[:]})
	return sum[:]
}

// matches says whether the client has the answer with this tag.
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
	// An error here is a client that has gone; there is nobody to tell.
	_, _ = w.Write(body) //nolint:gosec // JSON that json.Marshal has escaped
}
