package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/e2e/cluster"
)

// describeTarget puts the kubeconfig by which Keyferry gets in into a Secret, and applies the
// TargetCluster that names it.
func describeTarget(ctx context.Context, pair *cluster.Pair) error {
	kubeconfig, err := accessKubeconfig(ctx, pair.Target)
	if err != nil {
		return err
	}
	api, err := pair.Management.Client()
	if err != nil {
		return err
	}
	secret := &corev1.Secret{Data: map[string][]byte{"kubeconfig": kubeconfig}}
	secret.Namespace, secret.Name = "fleet", "tenant-1"
	if err := api.Create(ctx, secret); apierrors.IsAlreadyExists(err) {
		err = api.Update(ctx, secret)
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	for _, sample := range []string{"targetcluster-fixed.yaml", "use.yaml"} {
		if err := applySample(ctx, pair.Management, sample); err != nil {
			return err
		}
	}
	return until(ctx, time.Minute, func() error {
		tc := &unstructured.Unstructured{}
		tc.SetAPIVersion("keyferry.dev/v1alpha1")
		tc.SetKind("TargetCluster")
		if err := api.Get(ctx, client.ObjectKeyFromObject(secret), tc); err != nil {
			return err
		}
		return reachable(tc)
	})
}

// reachable returns what the TargetCluster says is amiss.
func reachable(tc *unstructured.Unstructured) error {
	conditions, _, err := unstructured.NestedSlice(tc.Object, "status", "conditions")
	if err != nil {
		return err
	}
	for _, entry := range conditions {
		condition, ok := entry.(map[string]any)
		if ok && condition["type"] == "Reachable" {
			if condition["status"] == "True" {
				return nil
			}
			return fmt.Errorf("TargetCluster fleet/%s is not reachable: %v", tc.GetName(), condition["message"])
		}
	}
	return fmt.Errorf("TargetCluster fleet/%s says nothing yet", tc.GetName())
}

// accessKubeconfig is a kubeconfig with the token that target-rbac.yaml asks for, and the target's
// address for the management cluster.
func accessKubeconfig(ctx context.Context, target *cluster.Cluster) ([]byte, error) {
	api, err := target.Client()
	if err != nil {
		return nil, err
	}
	secret := &corev1.Secret{}
	err = until(ctx, time.Minute, func() error {
		if err := api.Get(ctx, client.ObjectKey{Namespace: "robots", Name: "keyferry-token"}, secret); err != nil {
			return err
		}
		if len(secret.Data[corev1.ServiceAccountTokenKey]) == 0 {
			return errors.New("the target has not yet issued the token of robots/keyferry")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	internal, err := clientcmd.BuildConfigFromFlags("", target.InternalKubeconfig)
	if err != nil {
		return nil, err
	}
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["target"] = &clientcmdapi.Cluster{Server: internal.Host, CertificateAuthorityData: secret.Data[corev1.ServiceAccountRootCAKey]}
	cfg.AuthInfos["keyferry"] = &clientcmdapi.AuthInfo{Token: string(secret.Data[corev1.ServiceAccountTokenKey])}
	cfg.Contexts["target"] = &clientcmdapi.Context{Cluster: "target", AuthInfo: "keyferry"}
	cfg.CurrentContext = "target"
	return clientcmd.Write(*cfg)
}

// until tries each half second until it succeeds, or returns the last failure when the time is up.
func until(ctx context.Context, timeout time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-ticker.C:
		}
	}
}
