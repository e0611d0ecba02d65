package webhook

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// probePeriod is short, because a node with an old version may join at any time.
	probePeriod = 5 * time.Minute
	// probeRetry is the period until the first result. Until then the webhook is not ready.
	probeRetry = 5 * time.Second
	// nodePage limits the memory for a list of nodes, which includes all their images.
	nodePage = 200
)

// Probe detects whether the cluster supports a feature. The version of the API server is not
// enough, because feature gates control the features in the API server and in each kubelet.
type Probe struct {
	// Feature to look for: EnvFromFile or ImageVolume.
	Feature Feature
	// Client reads from and writes to the API server directly, without a cache.
	Client client.Client
	// Namespace is the namespace of the dry run: the webhook's own.
	Namespace string
	// Log gets a line when the result changes.
	Log logr.Logger

	last atomic.Pointer[ability]
}

// ability is the result of a probe. If lack is empty, the cluster supports the feature.
type ability struct{ lack string }

// Able reports the result of the last successful probe. It returns false before the first.
func (p *Probe) Able() bool {
	last := p.last.Load()
	return last != nil && last.lack == ""
}

// Ready is a readiness check. It fails until the first probe has succeeded.
func (p *Probe) Ready(*http.Request) error {
	if p.last.Load() == nil {
		return fmt.Errorf("the webhook has not detected yet whether this cluster supports the feature %s (the flag --%s overrides the detection)", p.Feature.Name, p.Feature.Name)
	}
	return nil
}

// Start probes until ctx is done. It implements manager.Runnable.
func (p *Probe) Start(ctx context.Context) error {
	err := wait.PollUntilContextCancel(ctx, probeRetry, true, func(ctx context.Context) (bool, error) {
		p.probe(ctx)
		return p.last.Load() != nil, nil
	})
	if err != nil {
		return nil // ctx is done
	}
	wait.JitterUntilWithContext(ctx, p.probe, probePeriod, 0.2, true)
	return nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable. Every replica probes.
func (*Probe) NeedLeaderElection() bool { return false }

// Collector returns a gauge with the result: 1 if the feature is supported.
func (p *Probe) Collector() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "keyferry_admission_" + strings.ReplaceAll(p.Feature.Name, "-", "_"),
		Help: p.Feature.help,
	}, func() float64 {
		if p.Able() {
			return 1
		}
		return 0
	})
}

// probe probes once. If it fails, the last result stays.
func (p *Probe) probe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	lack, err := p.Lack(ctx)
	if err != nil {
		p.Log.Error(err, "probing for a feature of this cluster", "feature", p.Feature.Name)
		return
	}
	if last := p.last.Swap(&ability{lack}); last == nil || last.lack != lack {
		p.Log.Info("probed for a feature of this cluster", "feature", p.Feature.Name, "able", lack == "", "lack", lack)
	}
}

// Lack probes once, and returns what the cluster lacks; empty if it supports the feature.
func (p *Probe) Lack(ctx context.Context) (string, error) {
	if lack, err := p.serverLack(ctx); lack != "" || err != nil {
		return lack, err
	}
	return p.nodeLack(ctx)
}

// serverLack creates an object as a dry run. The API server drops fields that it does not support,
// and rejects values that it does not support. The object is a PodTemplate, which is validated like
// a Pod: the permission to create a PodTemplate does not allow to run anything.
func (p *Probe) serverLack(ctx context.Context) (string, error) {
	probe := &corev1.PodTemplate{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, GenerateName: "keyferry-probe-"},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app.kubernetes.io/name": "keyferry-probe"}},
			Spec:       p.Feature.use(),
		},
	}
	err := p.Client.Create(ctx, probe, client.DryRunAll)
	switch {
	case apierrors.IsInvalid(err):
		return "the API server rejects a Pod that uses the feature: " + err.Error(), nil
	case err != nil:
		return "", fmt.Errorf("creating a PodTemplate in namespace %s as a dry run: %w", p.Namespace, err)
	}
	return p.Feature.dropped(&probe.Template.Spec), nil
}

// nodeLack returns what the first Linux node lacks that does not support the feature.
func (p *Probe) nodeLack(ctx context.Context) (string, error) {
	seen := false
	for next := ""; ; {
		var nodes corev1.NodeList
		if err := p.Client.List(ctx, &nodes, client.MatchingLabels{corev1.LabelOSStable: "linux"}, client.Limit(nodePage), client.Continue(next)); err != nil {
			return "", fmt.Errorf("listing nodes: %w", err)
		}
		for i := range nodes.Items {
			seen = true
			if lack := p.Feature.nodeLack(&nodes.Items[i]); lack != "" {
				return "node " + nodes.Items[i].Name + " " + lack, nil
			}
		}
		if next = nodes.Continue; next == "" {
			break
		}
	}
	if !seen {
		return "there is no Linux node", nil
	}
	return "", nil
}
