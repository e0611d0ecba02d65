package credentials

import (
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/metrics"
)

// measures are what is measured of CredentialRequests.
type measures struct {
	ready, issuedAt, ends *prometheus.GaugeVec
	issued                *prometheus.CounterVec
}

func newMeasures(registerer prometheus.Registerer) (measures, error) {
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"request"})
	}
	m := measures{
		ready:    gauge("keyferry_credentialrequest_ready", "1 if the CredentialRequest's condition Ready is True, else 0. There is no value while a lock denies the credential."),
		issuedAt: gauge("keyferry_credentialrequest_issued_timestamp_seconds", "Time at which the credential in the CredentialRequest's Secret was issued."),
		ends:     gauge("keyferry_credentialrequest_expiration_timestamp_seconds", "Time at which the credential in the CredentialRequest's Secret expires."),
		issued: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyferry_credentialrequest_issues_total",
			Help: "Requests for a credential of a CredentialRequest, by outcome (issued, refused, locked).",
		}, []string{"outcome"}),
	}
	return m, metrics.Register(registerer, m.ready, m.issuedAt, m.ends, m.issued)
}

func (m measures) set(request *v1alpha1.CredentialRequest, status v1alpha1.CredentialRequestStatus) {
	name := client.ObjectKeyFromObject(request).String()
	switch c := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady); {
	case c != nil && c.Status == metav1.ConditionTrue:
		m.ready.WithLabelValues(name).Set(1)
	case c != nil && c.Reason == v1alpha1.ReasonLocked:
		m.ready.DeleteLabelValues(name)
	default:
		m.ready.WithLabelValues(name).Set(0)
	}
	setTime(m.issuedAt, name, status.IssuedAt)
	setTime(m.ends, name, status.ExpirationTimestamp)
}

// setTime leaves out what is not known.
func setTime(gauge *prometheus.GaugeVec, name string, at *metav1.Time) {
	if at == nil {
		gauge.DeleteLabelValues(name)
		return
	}
	gauge.WithLabelValues(name).Set(float64(at.Unix()))
}

func (m measures) forget(name types.NamespacedName) {
	for _, gauge := range []*prometheus.GaugeVec{m.ready, m.issuedAt, m.ends} {
		gauge.DeleteLabelValues(name.String())
	}
}
