// Package ownaddresses finds the addresses of this cluster that no target may have: those of its
// API server, and those of Keyferry's own Services and Pods.
package ownaddresses

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/endpoint"
)

// period is how late a new Pod of Keyferry's may be noticed.
const period = 30 * time.Second

// The EndpointSlice that API servers write themselves.
const (
	apiServerNamespace = "default"
	apiServerSlice     = "kubernetes"
)

// Read reads the addresses into own. namespace is Keyferry's; empty outside of a cluster, where
// there are no Services and Pods. The reader needs the right to list Services and Pods there, and
// to get the EndpointSlice default/kubernetes.
func Read(ctx context.Context, reader client.Reader, namespace string, own *endpoint.Own) error {
	var found addresses
	found.add(os.Getenv("KUBERNETES_SERVICE_HOST"))
	var slice discoveryv1.EndpointSlice
	// An API server with another way to publish its addresses may have no such EndpointSlice.
	err := reader.Get(ctx, client.ObjectKey{Namespace: apiServerNamespace, Name: apiServerSlice}, &slice)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("reading the addresses of this cluster's API server: %w", err)
	}
	for _, e := range slice.Endpoints {
		for _, address := range e.Addresses {
			for _, port := range slice.Ports {
				if port.Port != nil {
					found.addPort(address, *port.Port)
				}
			}
		}
	}
	if namespace != "" {
		if err := found.read(ctx, reader, namespace); err != nil {
			return fmt.Errorf("reading the addresses of Keyferry's own Services and Pods: %w", err)
		}
	}
	own.Set(found.all, found.ports)
	return nil
}

// Follow returns what reads the addresses again and again, until its context ends. If that fails,
// the last ones stay.
func Follow(reader client.Reader, namespace string, own *endpoint.Own, log logr.Logger) func(context.Context) error {
	return func(ctx context.Context) error {
		ticker := time.NewTicker(period)
		defer ticker.Stop()
		for {
			// At once: a controller that begins to lead may have waited for days.
			if err := Read(ctx, reader, namespace, own); err != nil && ctx.Err() == nil {
				log.Error(err, "own addresses not read")
			}
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
			}
		}
	}
}

type addresses struct {
	all   []netip.Addr
	ports []netip.AddrPort
}

// add ignores what is no address, such as the ClusterIP None.
func (a *addresses) add(address string) {
	if addr, err := netip.ParseAddr(address); err == nil {
		a.all = append(a.all, addr)
	}
}

func (a *addresses) addPort(address string, port int32) {
	if addr, err := netip.ParseAddrPort(net.JoinHostPort(address, strconv.Itoa(int(port)))); err == nil {
		a.ports = append(a.ports, addr)
	}
}

func (a *addresses) read(ctx context.Context, reader client.Reader, namespace string) error {
	var services corev1.ServiceList
	if err := reader.List(ctx, &services, client.InNamespace(namespace)); err != nil {
		return err
	}
	for i := range services.Items {
		for _, address := range services.Items[i].Spec.ClusterIPs {
			a.add(address)
		}
	}
	var pods corev1.PodList
	if err := reader.List(ctx, &pods, client.InNamespace(namespace)); err != nil {
		return err
	}
	for i := range pods.Items {
		a.addPod(&pods.Items[i])
	}
	return nil
}

// addPod adds the addresses of a Pod; those of its node, which other programs share, with the Pod's
// ports only.
func (a *addresses) addPod(pod *corev1.Pod) {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return // the network may have given its addresses to another Pod
	}
	for _, ip := range pod.Status.PodIPs {
		if !pod.Spec.HostNetwork {
			a.add(ip.IP)
			continue
		}
		for _, c := range pod.Spec.Containers {
			for _, port := range c.Ports {
				a.addPort(ip.IP, port.ContainerPort)
			}
		}
	}
}
