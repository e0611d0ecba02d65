package clientcertificate

import (
	"context"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const (
	// A request that nobody asked for again within this time is given up.
	askedWithin = 10 * time.Minute
	// One that a process left when it ended is known by its age: since it was decided on, and its own
	// process would have taken it; or since it was made, if nobody decided.
	takenWithin   = 10 * time.Minute
	decidedWithin = 24 * time.Hour

	// How often a namespace is looked through, for how long, and how many are removed then, at most.
	sweepEvery   = 10 * time.Minute
	sweepTimeout = 3 * time.Second
	sweepAtMost  = 50
	sweepPage    = 500
)

// sweep removes from a namespace, now and then, requests that are of no more use. That it fails
// matters to nobody.
func (r *Requests) sweep(ctx context.Context, namespace string) {
	now := r.now()
	if !r.due(namespace, now) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	for _, q := range r.forget(now) {
		r.delete(ctx, q)
	}
	left := sweepAtMost
	options := metav1.ListOptions{Limit: sweepPage, LabelSelector: labels.Set{labelManagedBy: managedBy, labelPurpose: purpose}.String()}
	for {
		page, err := r.api.CertificateRequests(namespace).List(ctx, options)
		if err != nil {
			return
		}
		for i := range page.Items {
			found := &page.Items[i]
			if !abandoned(found, now) {
				continue
			}
			r.delete(ctx, &request{namespace: namespace, name: found.Name, uid: found.UID})
			if left--; left == 0 {
				return
			}
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return
		}
	}
}

// due reports whether a namespace is to be swept, and takes it that it is.
func (r *Requests) due(namespace string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last, ok := r.swept[namespace]; ok && now.Sub(last) < sweepEvery {
		return false
	}
	r.swept[namespace] = now
	return true
}

// forget returns requests of this process that nobody waits for any more, and holds them no longer.
func (r *Requests) forget(now time.Time) []*request {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []*request
	for id, q := range r.held {
		if now.Sub(q.asked) > askedWithin && len(all) < sweepAtMost {
			all = append(all, q)
			delete(r.held, id)
		}
	}
	return all
}

// abandoned reports whether the maker of a request would have taken or given it up by now.
func abandoned(r *cmapi.CertificateRequest, now time.Time) bool {
	last := r.CreationTimestamp.Time
	if verdict, _ := judge(r); verdict == waiting {
		return now.Sub(last) > decidedWithin
	}
	for _, c := range r.Status.Conditions {
		if c.LastTransitionTime != nil && c.LastTransitionTime.After(last) {
			last = c.LastTransitionTime.Time
		}
	}
	return now.Sub(last) > takenWithin
}
