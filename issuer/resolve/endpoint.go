package resolve

import (
	"errors"
	"fmt"

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
		TLSServerName:        e.TLSServerName,
		ProxyURL:             e.ProxyURL,
	}
}

// checkEndpoint returns the endpoint with a normalised server, or an *InvalidError. source says where those fields come
// from that the spec does not have; it is empty if they come from nowhere.
func (r *Resolver) checkEndpoint(e endpoint.Endpoint, source string) (endpoint.Endpoint, error) {
	if e.Server == "" && source == "" {
		return e, &InvalidError{Reason: ReasonInvalidEndpoint,
			Message: "spec.endpoint.server: this type of access does not say where the target is: set it, and certificateAuthorityData"}
	}
	checked, err := r.cfg.Policy.Check(e)
	if wrong, ok := errors.AsType[*endpoint.Error](err); ok {
		where := fmt.Sprintf("spec.endpoint.%s", wrong.Field)
		if source != "" {
			where += ", or that of " + source
		}
		return e, &InvalidError{Reason: wrong.Reason, Message: where + ": " + wrong.Error()}
	}
	return checked, nil
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
	if at.CheckAuthority() == nil {
		return nil
	}
	return &InvalidError{Reason: ReasonNoCertificateAuthority,
		Message: "Pods verify the server by a certificate authority, and there is none: set spec.endpoint.certificateAuthorityData"}
}

// invalid returns the *InvalidError of an error that wraps an *endpoint.Error and names the object and the field.
func invalid(err error) error {
	reason := ReasonInvalidEndpoint
	if wrong, ok := errors.AsType[*endpoint.Error](err); ok {
		reason = wrong.Reason
	}
	return &InvalidError{Reason: reason, Message: err.Error()}
}
