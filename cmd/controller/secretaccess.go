package main

import (
	"errors"

	"github.com/spf13/pflag"
	"k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/keyferry/keyferry/controller/secretaccess"
	"github.com/keyferry/keyferry/internal/lean"
)

// secretAccessOptions are those of access to Secrets by labels of namespaces.
type secretAccessOptions struct {
	labels          map[string]string
	serviceAccounts []string
}

func (o *secretAccessOptions) addFlags(flags *pflag.FlagSet) {
	flags.StringToStringVar(&o.labels, "secret-access-labels", nil, "labels of the namespaces in which the controller allows Keyferry to read Secrets; empty: no namespaces")
	flags.StringSliceVar(&o.serviceAccounts, "secret-access-service-accounts", nil, "ServiceAccounts of Keyferry's namespace that may read Secrets in the namespaces of --secret-access-labels")
}

func (o *secretAccessOptions) check() error {
	if (len(o.labels) > 0) != (len(o.serviceAccounts) > 0) {
		return errors.New("--secret-access-labels and --secret-access-service-accounts need each other: set both flags or none")
	}
	return nil
}

// namespaceTransform returns the transform for the cache of namespaces. Their labels are needed
// only if they allow something.
func (o *secretAccessOptions) namespaceTransform() cache.TransformFunc {
	if len(o.labels) > 0 {
		return lean.MetadataAndLabels
	}
	return lean.Metadata
}

// addSecretAccess keeps the RoleBindings in namespaces with the labels.
func addSecretAccess(mgr ctrl.Manager, o options) error {
	if len(o.secretAccess.labels) == 0 {
		return nil
	}
	bindings, err := secretaccess.New(secretaccess.Config{
		Client:          mgr.GetClient(),
		Live:            mgr.GetAPIReader(),
		Labels:          o.secretAccess.labels,
		Namespace:       o.namespace,
		ServiceAccounts: o.secretAccess.serviceAccounts,
	})
	if err != nil {
		return err
	}
	return bindings.SetupWithManager(mgr)
}
