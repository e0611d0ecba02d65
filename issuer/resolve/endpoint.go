package resolve

import (
	"errors"
	"slices"
	"strings"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/endpoint"
)

func specEndpoint(cluster *v1alpha1.TargetCluster) endpoint.Endpoint {
	e := cluster.Spec.Endpoint
	if e == nil {
		return endpoint.Endpoint{}
	}
	return endpoint.Endpoint{
		Server:               e.Server,
		CertificateAuthority: e.CertificateAuthorityData,
		SystemRoots:          e.WellKnownCACertificates == v1alpha1.WellKnownCACertificatesSystem,
		TLSServerName:        e.TLSServerName,
		ProxyURL:             e.ProxyURL,
	}
}

// origin is an object that has an endpoint, or a part of one.
type origin struct {
	endpoint.Endpoint
	// object names it; empty is the TargetCluster itself.
	object string
	// public is set if the system's CA certificates count where no origin has a CA. The type of a
	// ClusterProfile's cluster is client-go's, and means that.
	public bool
}

// endpoints are the origins of one endpoint. Of each field, the first origin that has it counts.
type endpoints []origin

func (e endpoints) merged() endpoint.Endpoint {
	var merged endpoint.Endpoint
	for _, o := range e {
		merged = merged.Or(o.Endpoint)
	}
	if !merged.Has(endpoint.FieldCertificateAuthority) {
		merged.SystemRoots = slices.ContainsFunc(e, func(o origin) bool { return o.public })
	}
	return merged
}

// field names a field and the object that it comes from. A field that no object has is named in the
// spec.
func (e endpoints) field(field endpoint.Field) string {
	i := slices.IndexFunc(e, func(o origin) bool { return o.Has(field) })
	if i < 0 || e[i].object == "" {
		return "spec.endpoint." + string(field)
	}
	return e[i].object + ": " + field.Kubeconfig()
}

// check returns the merged endpoint with a normalised server, or an *InvalidError.
func (r *Resolver) check(e endpoints) (endpoint.Endpoint, error) {
	at := e.merged()
	if at.Server == "" {
		return at, &InvalidError{Reason: ReasonInvalidEndpoint, Message: e.noServer()}
	}
	checked, err := r.cfg.Policy.Check(at)
	if wrong, ok := errors.AsType[*endpoint.Error](err); ok {
		return at, &InvalidError{Reason: wrong.Reason, Message: e.field(wrong.Field) + ": " + wrong.Error()}
	}
	return checked, nil
}

// noServer returns the message about a server that no origin has.
func (e endpoints) noServer() string {
	var others []string
	for _, o := range e {
		if o.object != "" {
			others = append(others, o.object)
		}
	}
	if len(others) == 0 {
		return "spec.endpoint.server: is empty, and this access type does not provide the endpoint of the target: set it, and certificateAuthorityData or wellKnownCACertificates"
	}
	return "spec.endpoint.server: is empty, and so is the server of " + strings.Join(others, " and ") + ": set one of them"
}

// deliver returns how a Pod gets to a checked endpoint, and why, or an *InvalidError.
func deliver(requested v1alpha1.Delivery, at endpoint.Endpoint, certificate bool) (v1alpha1.Delivery, string, error) {
	delivery, reason, err := endpoint.Deliver(endpoint.Delivery(requested), at, certificate)
	if err != nil {
		return v1alpha1.Delivery(delivery), "", invalid(err)
	}
	return v1alpha1.Delivery(delivery), reason, nil
}

// checkAuthority returns an *InvalidError if Pods have nothing to verify the server by.
func checkAuthority(at endpoint.Endpoint) error {
	if at.Has(endpoint.FieldCertificateAuthority) {
		return nil
	}
	return &InvalidError{Reason: ReasonNoCertificateAuthority,
		Message: "Pods need a CA to verify the server: set spec.endpoint.certificateAuthorityData, " +
			"or wellKnownCACertificates: System if a public CA has issued the server's certificate"}
}

// invalid returns the *InvalidError of an error that wraps an *endpoint.Error and names the object
// and the field.
func invalid(err error) error {
	reason := ReasonInvalidEndpoint
	if wrong, ok := errors.AsType[*endpoint.Error](err); ok {
		reason = wrong.Reason
	}
	return &InvalidError{Reason: reason, Message: err.Error()}
}

// systemRoots returns the system's CA certificates, or an *InvalidError.
func (r *Resolver) systemRoots() ([]byte, error) {
	roots, err := r.cfg.SystemRoots()
	if err != nil {
		return nil, &InvalidError{Reason: ReasonNoCertificateAuthority, Message: err.Error()}
	}
	return roots, nil
}
