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
	// maxBody bounds a review: an object is at most 3 MiB to the API server, and an update holds the
	// old one, too.
	maxBody = 7 << 20
	// maxPatience is how long the API server waits for a webhook at most.
	maxPatience = 30 * time.Second
)

// answer is what a review comes to.
type answer struct {
	patch    []injector.Operation
	warnings []string
	reason   string // for metrics and logs, CamelCase
}

// denial is an answer that refuses. Its message is for the user: it names what is wrong and the
// mend.
type denial struct {
	code    int32
	status  metav1.StatusReason
	reason  string // for metrics and logs, CamelCase
	message string
}

func (d *denial) Error() string { return d.message }

// invalid refuses an object because of what it says.
func invalid(reason, format string, args ...any) *denial {
	return &denial{http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, reason, fmt.Sprintf(format, args...)}
}

// forbidden refuses an object because of who it is for.
func forbidden(reason, format string, args ...any) *denial {
	return &denial{http.StatusForbidden, metav1.StatusReasonForbidden, reason, fmt.Sprintf(format, args...)}
}

// reviewer answers a review. An error that is no denial means that the answer could not be found;
// that refuses, too.
type reviewer func(context.Context, *request) (answer, error)

// serve makes an HTTP handler of a reviewer. Whatever happens in it, the API server gets an answer
// that says so.
func (h *Handler) serve(webhook string, review reviewer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		limit := patience(r)
		// A client that dawdles must not hold a connection for ever. (An error means a writer without
		// deadlines, as in tests.)
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(start.Add(min(limit, h.bodyTimeout)))
		_ = control.SetWriteDeadline(start.Add(limit))

		release, status, err := h.reserve(r, start.Add(min(limit, h.bodyTimeout)))
		if err != nil {
			h.measures.requests.WithLabelValues(webhook, "failed", "BadRequest").Inc()
			w.Header().Set("Retry-After", "1")
			http.Error(w, err.Error(), status)
			return
		}
		defer release()
		memory := h.takeScratch()
		defer h.giveBack(memory)
		memory.body.Grow(int(r.ContentLength) + bytes.MinRead)
		request, status, err := decodeReview(http.MaxBytesReader(w, r.Body, maxBody), memory)
		if err != nil {
			h.measures.requests.WithLabelValues(webhook, "failed", "BadRequest").Inc()
			http.Error(w, err.Error(), status)
			return
		}
		// The context of a request ends with the server's; but what is under way when the server is told
		// to stop is still answered.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), limit*9/10)
		defer cancel()
		log := h.Log.WithValues("webhook", webhook, "kind", request.kind, "namespace", request.namespace, "name", request.name, "uid", request.uid)
		given, err := recovered(ctx, log, request, review)
		response, outcome, reason := respond(log, given, err, memory)
		response.UID = request.uid

		w.Header().Set("Content-Type", "application/json")
		err = json.NewEncoder(w).Encode(admissionv1.AdmissionReview{
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

// reserve waits until the body of a request may be held, and returns what ends that. With an error
// comes the HTTP status for it.
func (h *Handler) reserve(r *http.Request, deadline time.Time) (release func(), status int, err error) {
	switch {
	case r.ContentLength < 0:
		return nil, http.StatusLengthRequired, errors.New("reading AdmissionReview: the request has no Content-Length")
	case r.ContentLength > maxBody:
		return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("reading AdmissionReview: %d bytes are more than %d", r.ContentLength, maxBody)
	}
	ctx, cancel := context.WithDeadline(r.Context(), deadline)
	defer cancel()
	if release, err = h.bodies.Take(ctx, serving.Host(r.RemoteAddr), r.ContentLength); err != nil {
		return nil, http.StatusTooManyRequests, fmt.Errorf("reading AdmissionReview: %w", err)
	}
	return release, 0, nil
}

// patience is how long the API server waits for this answer: it says so in the query.
func patience(r *http.Request) time.Duration {
	for parameter := range strings.SplitSeq(r.URL.RawQuery, "&") {
		if value, ok := strings.CutPrefix(parameter, "timeout="); ok {
			if limit, err := time.ParseDuration(value); err == nil && limit > 0 && limit <= maxPatience {
				return limit
			}
		}
	}
	return maxPatience
}

// recovered makes an error of a panic: one request that trips over a defect must not end those that
// are under way beside it.
func recovered(ctx context.Context, log logr.Logger, request *request, review reviewer) (given answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			log.Error(err, "recovered from a panic", "stack", string(debug.Stack()))
		}
	}()
	return review(ctx, request)
}

// respond makes a response of what a reviewer returned, with the patch in memory, and says what it
// was for metrics.
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
		fmt.Sprintf("keyferry cannot tell now whether this may be admitted: %v: try again, and see the log of the webhook if it stays so", err), nil), "failed", "Error"
}

func refuse(code int32, reason metav1.StatusReason, message string, warnings []string) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{
		Warnings: warnings,
		Result:   &metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message},
	}
}
