package clientcertificate

import (
	"fmt"
	"strings"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/keyferry/keyferry/providers"
)

// maxMessage is the length to which another's message is repeated.
const maxMessage = 400

// verdict is what has become of a request.
type verdict int

const (
	waiting verdict = iota
	issued
	refused
)

// judge says what has become of a request, and, unless it was issued, in a sentence why.
func judge(r *cmapi.CertificateRequest) (verdict, string) {
	conditions := map[cmapi.CertificateRequestConditionType]cmapi.CertificateRequestCondition{}
	for _, c := range r.Status.Conditions {
		conditions[c.Type] = c
	}
	is := func(c cmapi.CertificateRequestConditionType) bool {
		return conditions[c].Status == cmmeta.ConditionTrue
	}
	ready := conditions[cmapi.CertificateRequestConditionReady]
	switch {
	case is(cmapi.CertificateRequestConditionInvalidRequest):
		return refused, "the issuer finds it invalid: " + quote(conditions[cmapi.CertificateRequestConditionInvalidRequest])
	case is(cmapi.CertificateRequestConditionDenied):
		return refused, "it was denied: " + quote(conditions[cmapi.CertificateRequestConditionDenied])
	case ready.Status == cmmeta.ConditionTrue && len(r.Status.Certificate) > 0:
		return issued, ""
	case ready.Reason == cmapi.CertificateRequestReasonFailed, ready.Reason == cmapi.CertificateRequestReasonDenied:
		return refused, "it failed: " + quote(ready)
	case !is(cmapi.CertificateRequestConditionApproved):
		return waiting, "waits for approval: check cert-manager's approver, or run cmctl approve"
	case ready.Message != "":
		return waiting, "is approved and waits for its issuer: " + quote(ready)
	}
	return waiting, "is approved and waits for its issuer, which has not answered: check whether the issuer exists"
}

// quote repeats what cert-manager, or an issuer, says.
func quote(c cmapi.CertificateRequestCondition) string {
	return short(c.Reason + ": " + c.Message)
}

// short makes of another's text one that can be shown, in one line.
func short(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "…"
	}
	return text
}

// failure tells from an error of the API server of this cluster what kind of failure it is.
func failure(err error, doing string) error {
	message := short(err.Error())
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w: %s: the API server of this cluster does not have the resource CertificateRequest: install cert-manager and its CRDs", providers.ErrNotFound, doing)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: %s: %s: if Keyferry lacks the permission, add the namespace to the chart value secretAccess.namespaces, or give it the labels of secretAccess.namespaceLabels. If it is Keyferry's own namespace, move the TargetCluster to another namespace", providers.ErrRefused, doing, message)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return fmt.Errorf("%w: %s: %s", providers.ErrRefused, doing, message)
	}
	seconds, _ := apierrors.SuggestsClientDelay(err)
	return providers.Unavailable(time.Duration(seconds)*time.Second, fmt.Errorf("%s: %s", doing, message))
}
