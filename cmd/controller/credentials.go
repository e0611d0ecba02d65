package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"
	ctrl "sigs.k8s.io/controller-runtime"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/keyferry/keyferry/controller/credentials"
	"github.com/keyferry/keyferry/controller/credentials/secretwatch"
	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/issuer"
)

// credentialOptions are those of CredentialRequests.
type credentialOptions struct {
	namespaces        []string
	maxConcurrent     int
	revocationTimeout time.Duration
	maxLife           time.Duration
}

func (o *credentialOptions) addFlags(flags *pflag.FlagSet) {
	flags.StringSliceVar(&o.namespaces, "credential-request-namespaces", nil, "namespaces whose CredentialRequests the controller serves; the controller needs permissions on Secrets in these namespaces")
	flags.IntVar(&o.maxConcurrent, "max-concurrent-credential-requests", 16, "limit of CredentialRequests that are reconciled at the same time")
	flags.DurationVar(&o.revocationTimeout, "revocation-timeout", 10*time.Minute, "time after which the controller stops trying to revoke an unused credential; if a target is unreachable, the deletion of a CredentialRequest takes this time")
	flags.DurationVar(&o.maxLife, "max-credential-lifetime", 0, "longest time until the controller renews the credential in a Secret, even if the credential expires later; 0: no limit")
}

func (o *credentialOptions) check() error {
	switch {
	case o.maxConcurrent < 1:
		return fmt.Errorf("--max-concurrent-credential-requests is %d: it must be at least 1", o.maxConcurrent)
	case o.revocationTimeout <= 0:
		return fmt.Errorf("--revocation-timeout is %s: it must be positive", o.revocationTimeout)
	case o.maxLife < 0:
		return fmt.Errorf("--max-credential-lifetime is %s: it must not be negative", o.maxLife)
	}
	return nil
}

// addCredentialRequests keeps the Secrets of CredentialRequests.
func addCredentialRequests(mgr ctrl.Manager, o options, credentialIssuer *issuer.Issuer, findLock locks.Find, audit logr.Logger) error {
	api, err := kubernetes.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return err
	}
	secrets, err := secretwatch.New(api, o.credentials.namespaces)
	if err != nil {
		return err
	}
	requests, err := credentials.New(credentials.Config{
		Client:            mgr.GetClient(),
		Reader:            mgr.GetAPIReader(),
		Secrets:           secrets,
		Issuer:            credentialIssuer,
		FindLock:          findLock,
		Events:            mgr.GetEventRecorder(name),
		Metrics:           ctrlmetrics.Registry,
		Audit:             audit,
		Concurrency:       o.credentials.maxConcurrent,
		Timeout:           3 * o.targetTimeout,
		RevocationTimeout: o.credentials.revocationTimeout,
		MaxLife:           o.credentials.maxLife,
	})
	if err != nil {
		return err
	}
	return errors.Join(mgr.Add(secrets), requests.SetupWithManager(mgr, secrets.Notify))
}
