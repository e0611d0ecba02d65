package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// report is a line of output.
type report struct {
	Time time.Time `json:"time"`
	// Client says what this program is made with.
	Client string `json:"client"`
	// Requests and Failures count lists, reviews and watches since the start.
	Requests  int    `json:"requests"`
	Failures  int    `json:"failures"`
	LastError string `json:"lastError"`
	// User is whom the server takes this program for.
	User string `json:"user"`
	Host string `json:"host"`
	// TokenSHA256 is the beginning of the hash of the token of the last request.
	TokenSHA256 string   `json:"tokenSHA256"`
	Namespaces  []string `json:"namespaces"`
	// WatchEvents counts what the watches brought.
	WatchEvents int `json:"watchEvents"`
	// WatchesEnded counts watches that were open and ended.
	WatchesEnded int `json:"watchesEnded"`
	// Hearing is how many watches brought something within hearingWithin.
	Hearing int `json:"hearing"`
}

// hearingWithin is for who has something happen each second.
const hearingWithin = 3 * time.Second

// observer makes requests and keeps account of them.
type observer struct {
	clients kubernetes.Interface
	// timeout is that of a list or a review.
	timeout time.Duration

	mu     sync.Mutex
	report report
	// heard is when each watch brought something last.
	heard []time.Time
}

// loop lists at each interval and reviews every two seconds, until ctx ends.
func (o *observer) loop(ctx context.Context, interval time.Duration, out *json.Encoder) {
	lists, reviews := time.NewTicker(interval), time.NewTicker(2*time.Second)
	defer lists.Stop()
	defer reviews.Stop()
	o.review(ctx)
	o.list(ctx)
	var printed report
	for {
		if now := o.now(); changed(printed, now) || now.Time.Sub(printed.Time) >= time.Second {
			_ = out.Encode(now)
			printed = now
		}
		select {
		case <-ctx.Done():
			return
		case <-reviews.C:
			o.review(ctx)
		case <-lists.C:
			o.list(ctx)
		}
	}
}

// changed says whether a reader would want to see now, that is, more than a counter went on.
func changed(before, now report) bool {
	before.Time, before.Requests = now.Time, now.Requests
	before.WatchEvents, before.WatchesEnded, before.Hearing = now.WatchEvents, now.WatchesEnded, now.Hearing
	return !reflect.DeepEqual(before, now)
}

func (o *observer) now() report {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.report
	r.Time = time.Now()
	for _, heard := range o.heard {
		if r.Time.Sub(heard) < hearingWithin {
			r.Hearing++
		}
	}
	return r
}

// result prints the last line; it fails if anything did.
func (o *observer) result(out *json.Encoder) error {
	r := o.now()
	if err := out.Encode(r); err != nil {
		return err
	}
	if r.Failures > 0 {
		return fmt.Errorf("%d of %d requests failed, the last with: %s", r.Failures, r.Requests, r.LastError)
	}
	return nil
}

func (o *observer) list(ctx context.Context) {
	request, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	list, err := o.clients.CoreV1().Namespaces().List(request, metav1.ListOptions{})
	o.count(ctx, "listing namespaces", err, func(r *report) {
		r.Namespaces = make([]string, 0, len(list.Items))
		for i := range list.Items {
			r.Namespaces = append(r.Namespaces, list.Items[i].Name)
		}
	})
}

func (o *observer) review(ctx context.Context) {
	request, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	review, err := o.clients.AuthenticationV1().SelfSubjectReviews().Create(request, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	o.count(ctx, "asking who I am", err, func(r *report) { r.User = review.Status.UserInfo.Username })
}

// watch watches namespaces, again and again: a server ends each watch after some minutes. It is the watch with this number.
func (o *observer) watch(ctx context.Context, number int) {
	for ctx.Err() == nil {
		o.follow(ctx, number)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// follow opens a watch, and takes down what it brings until it ends.
func (o *observer) follow(ctx context.Context, number int) {
	stream, err := o.clients.CoreV1().Namespaces().Watch(ctx, metav1.ListOptions{})
	o.count(ctx, "opening a watch", err, func(*report) {})
	if err != nil {
		return
	}
	defer stream.Stop()
	for event := range stream.ResultChan() {
		if event.Type == watch.Error {
			o.count(ctx, "watching namespaces", apierrors.FromObject(event.Object), nil)
			break
		}
		if _, ok := event.Object.(*corev1.Namespace); ok {
			o.mu.Lock()
			o.report.WatchEvents++
			o.heard[number] = time.Now()
			o.mu.Unlock()
		}
	}
	o.mu.Lock()
	o.report.WatchesEnded++
	o.mu.Unlock()
}

// count keeps account of one request; success notes what it brought. What the end of the program interrupts is no failure.
func (o *observer) count(ctx context.Context, doing string, err error, success func(*report)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case err == nil:
		o.report.Requests++
		success(&o.report)
	case ctx.Err() == nil:
		o.report.Requests++
		o.report.Failures++
		o.report.LastError = fmt.Sprintf("%s: %v", doing, err)
	}
}

// tokens notes with which token each request went out.
func (o *observer) tokens(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		hash := sha256.Sum256([]byte(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")))
		o.mu.Lock()
		o.report.TokenSHA256 = hex.EncodeToString(hash[:6])
		o.mu.Unlock()
		return next.RoundTrip(r)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
