// Package ownaddresses finds the addresses of this cluster that no target may have: those of its
// API server, and those of Keyferry's own Services and Pods.
package ownaddresses

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/endpoint"
)

// period is the longest delay until a new Pod of Keyferry is known.
const period = 30 * time.Second

// apiServer is the name of the Service and the EndpointSlice that API servers create.
var apiServer = client.ObjectKey{Namespace: "default", Name: "kubernetes"}

// Reader reads the addresses.
type Reader struct {
	reader    client.Reader
	namespace string
	own       *endpoint.Own
	// service and servers are the last addresses of the Service and of the API servers behind it.
	service []netip.Addr
	servers []netip.AddrPort
}

// New returns a Reader that sets own. namespace is Keyferry's namespace; it is empty outside a
// cluster, where Keyferry has no Services and Pods. The client must be allowed to list Services and
// Pods in namespace, and to get the Service and the EndpointSlice default/kubernetes.
func New(reader client.Reader, namespace string, own *endpoint.Own) *Reader {
	return &Reader{reader: reader, namespace: namespace, own: own}
}

// Read reads the addresses once and sets them.
func (r *Reader) Read(ctx context.Context) error {
	if err := r.readAPIServer(ctx); err != nil {
		return fmt.Errorf("reading the addresses of this cluster's API server: %w", err)
	}
	found := addresses{all: slices.Clone(r.service), ports: slices.Clone(r.servers)}
	found.add(os.Getenv("KUBERNETES_SERVICE_HOST"))
	if r.namespace != "" {
		if err := found.read(ctx, r.reader, r.namespace); err != nil {
			return fmt.Errorf("reading the addresses of Keyferry's own Services and Pods: %w", err)
		}
	}
	r.own.Set(found.all, found.ports)
	return nil
}

// readAPIServer reads the addresses of API servers. If there are none, it keeps the last addresses:
// while an API server starts, there may be no Service or an empty EndpointSlice.
func (r *Reader) readAPIServer(ctx context.Context) error {
	var service corev1.Service
	var slice discoveryv1.EndpointSlice
	for _, object := range []client.Object{&service, &slice} {
		if err := client.IgnoreNotFound(r.reader.Get(ctx, apiServer, object)); err != nil {
			return err
		}
	}
	var found addresses
	for _, address := range service.Spec.ClusterIPs {
		found.add(address)
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
	if len(found.all) > 0 {
		r.service = found.all
	}
	if len(found.ports) > 0 {
		r.servers = found.ports
	}
	return nil
}

// Follow returns a function that reads the addresses periodically until its context is done. If
// reading fails, the last addresses stay.
func (r *Reader) Follow(log logr.Logger) func(context.Context) error {
	return func(ctx context.Context) error {
		ticker := time.NewTicker(period)
		defer ticker.Stop()
		for {
			// Read immediately: a controller may become the leader days after its start.
			if err := r.Read(ctx); err != nil && ctx.Err() == nil {
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

// add adds an address. It ignores other values, such as the ClusterIP None.
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
		a.addService(&services.Items[i])
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

// addService adds the addresses of a Service. Its external addresses, which other Services or a
// node may share, are added only with the Service's ports.
func (a *addresses) addService(service *corev1.Service) {
	for _, address := range service.Spec.ClusterIPs {
		a.add(address)
	}
	external := slices.Clone(service.Spec.ExternalIPs)
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		external = append(external, ingress.IP)
	}
	for _, address := range external {
		for _, port := range service.Spec.Ports {
			a.addPort(address, port.Port)
		}
	}
}

// addPod adds the addresses of a Pod. Addresses of its node, which the Pod shares with other
// programs, are added only with the Pod's ports.
func (a *addresses) addPod(pod *corev1.Pod) {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return // the Pod has ended, and its addresses may belong to another Pod
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
