package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/serving"
)

const (
	// maxBody limits a review, in bytes: the API server limits an object to 3 MiB, and an update
	// contains the old object, too.
	maxBody = 7 << 20
	// maxRequestTimeout is the longest time that an API server waits for a webhook.
	maxRequestTimeout = 30 * time.Second
)

// answer is the result of a review that allows the request.
type answer struct {
	patch    []injector.Operation
	warnings []string
	reason   string // for metrics and logs, CamelCase
}

// denial is a review's error that denies the request. The message is for the user: it names the
// problem and the fix.
type denial struct {
	code    int32
	status  metav1.StatusReason
	reason  string // for metrics and logs, CamelCase
	message string
}

func (d *denial) Error() string { return d.message }

// invalid denies an object because of its content.
func invalid(reason, format string, args ...any) *denial {
	return &denial{http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, reason, fmt.Sprintf(format, args...)}
}

// forbidden denies an object because of missing permissions.
func forbidden(reason, format string, args ...any) *denial {
	return &denial{http.StatusForbidden, metav1.StatusReasonForbidden, reason, fmt.Sprintf(format, args...)}
}

// reviewer reviews a request. An error that is not a denial means that the review failed; the
// request is denied, too.
type reviewer func(context.Context, *request) (answer, error)

// serve returns an HTTP handler for a reviewer. The API server gets a response even if the reviewer
// fails or panics.
func (h *Handler) serve(webhook string, review reviewer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		limit := requestTimeout(r)
		// A slow client must not hold a connection for ever. (An error means a writer without deadlines,
		// as in tests.)
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(start.Add(min(limit, h.bodyTimeout)))
		_ = control.SetWriteDeadline(start.Add(limit))

		release, status, err := h.reserve(r, start.Add(min(limit, h.bodyTimeout)))
		if err != nil {
			h.fail(w, webhook, status, err)
			return
		}
		defer release()
		memory := h.takeScratch(r.ContentLength + requestMemory)
		defer h.putScratch(memory)
		memory.body.Grow(int(r.ContentLength) + bytes.MinRead)
		request, status, err := decodeReview(http.MaxBytesReader(w, r.Body, maxBody), memory)
		if err != nil {
			h.fail(w, webhook, status, err)
			return
		}
		request.held = reservation{budget: h.memory, address: serving.Host(r.RemoteAddr), bytes: requestMemory}
		defer request.held.release()
		// The context of a request is done when the server stops. The request is still answered.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), limit*9/10)
		defer cancel()
		log := h.Log.WithValues("webhook", webhook, "kind", request.kind, "namespace", request.namespace, "name", request.name, "uid", request.uid)
		given, err := recovered(ctx, log, request, review)
		if errors.Is(err, errNoMemory) {
			h.fail(w, webhook, http.StatusTooManyRequests, err)
			return
		}
		response, outcome, reason := respond(log, given, err, memory)
		response.UID = request.uid

		w.Header().Set("Content-Type", "application/json")
		encoder := json.NewEncoder(w)
		encoder.SetEscapeHTML(false) // it would make a < six times as long
		err = encoder.Encode(admissionv1.AdmissionReview{
			TypeMeta: metav1.TypeMeta{APIVersion: reviewVersion, Kind: reviewKind},
			Response: response,
		})
		if err != nil {
			log.Error(err, "writing answer")
		}
		h.measures.requests.WithLabelValues(webhook, outcome, reason).Inc()
		h.measures.duration.WithLabelValues(webhook).Observe(time.Since(start).Seconds())
	})
}

// fail answers a request that is not reviewed. Before the webhook answers 429, it has done nothing,
// and the API server repeats the request.
func (h *Handler) fail(w http.ResponseWriter, webhook string, status int, err error) {
	h.measures.requests.WithLabelValues(webhook, "failed", "BadRequest").Inc()
	if status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "1")
	}
	http.Error(w, err.Error(), status)
}

// errNoMemory means that other requests use the memory that a review needs.
var errNoMemory = errors.New("reviewing the request")

// reserve waits until there is memory for the body of a request and for the review of a small Pod.
// release returns the memory. With an error, reserve returns the HTTP status.
func (h *Handler) reserve(r *http.Request, deadline time.Time) (release func(), status int, err error) {
	switch {
	case r.ContentLength < 0:
		return nil, http.StatusLengthRequired, errors.New("reading AdmissionReview: the request has no Content-Length")
	case r.ContentLength > maxBody:
		return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("reading AdmissionReview: the body has %d bytes, but at most %d are allowed", r.ContentLength, maxBody)
	}
	ctx, cancel := context.WithDeadline(r.Context(), deadline)
	defer cancel()
	if release, err = h.memory.Take(ctx, serving.Host(r.RemoteAddr), r.ContentLength+requestMemory); err != nil {
		return nil, http.StatusTooManyRequests, fmt.Errorf("reading AdmissionReview: %w", err)
	}
	return release, 0, nil
}

// reservation is the memory that a request holds for the review of a Pod until it is answered.
type reservation struct {
	budget   *serving.Budget
	address  string
	bytes    int
	releases []func()
}

// grow makes the reservation large enough for a Pod that needs this number of bytes, or returns
// errNoMemory. The Pods of a request are reviewed one after the other.
func (h *reservation) grow(bytes int) error {
	if bytes <= h.bytes {
		return nil
	}
	release, err := h.budget.TryTake(h.address, int64(bytes-h.bytes))
	if err != nil {
		return fmt.Errorf("%w: %w", errNoMemory, err)
	}
	h.bytes, h.releases = bytes, append(h.releases, release)
	return nil
}

// release returns the memory by which the reservation has grown.
func (h *reservation) release() {
	for _, release := range h.releases {
		release()
	}
}

// requestTimeout returns how long the API server waits for the response. The API server sends it in
// the query.
func requestTimeout(r *http.Request) time.Duration {
	for parameter := range strings.SplitSeq(r.URL.RawQuery, "&") {
		if value, ok := strings.CutPrefix(parameter, "timeout="); ok {
			if limit, err := time.ParseDuration(value); err == nil && limit > 0 && limit <= maxRequestTimeout {
				return limit
			}
		}
	}
	return maxRequestTimeout
}

// recovered calls review and turns a panic into an error: a bug in one request must not end the
// others.
func recovered(ctx context.Context, log logr.Logger, request *request, review reviewer) (given answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			log.Error(err, "recovered from a panic", "stack", string(debug.Stack()))
		}
	}()
	return review(ctx, request)
}

// respond returns the response to a review, with the patch in memory, and its outcome and reason
// for metrics.
func respond(log logr.Logger, given answer, err error, memory *scratch) (response *admissionv1.AdmissionResponse, outcome, reason string) {
	response = &admissionv1.AdmissionResponse{Allowed: true, Warnings: given.warnings}
	if err == nil && len(given.patch) > 0 {
		patchType := admissionv1.PatchTypeJSONPatch
		response.PatchType = &patchType
		err = memory.encoder.Encode(given.patch)
		response.Patch = memory.patch.Bytes()
	}
	if err == nil {
		if len(given.warnings) > 0 {
			log.Info("allowed with warnings", "reason", given.reason, "warnings", given.warnings)
		} else {
			log.V(1).Info("allowed", "reason", given.reason)
		}
		return response, "allowed", given.reason
	}
	if denied, ok := errors.AsType[*denial](err); ok {
		log.Info("denied", "reason", denied.reason, "message", denied.message)
		return refuse(denied.code, denied.status, denied.message, given.warnings), "denied", denied.reason
	}
	log.Error(err, "answering admission request")
	return refuse(http.StatusInternalServerError, metav1.StatusReasonInternalError,
		fmt.Sprintf("keyferry failed to review the request: %v: try again; if the error persists, see the log of keyferry-webhook", err), nil), "failed", "Error"
}

func refuse(code int32, reason metav1.StatusReason, message string, warnings []string) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{
		Warnings: warnings,
		Result:   &metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message},
	}
}
