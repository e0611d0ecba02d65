// Package audit compares the rights that somebody has with those that the API server's audit log
// shows in use.
package audit

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
)

// Right is one thing that a user may do, in whatever namespace.
type Right struct {
	User, Verb, Group, Resource string
	// Name is that of the only object that it is about, empty if it is about all.
	Name string
}

func (r Right) String() string {
	resource := r.Resource
	if r.Group != "" {
		resource += "." + r.Group
	}
	if r.Name != "" {
		resource += "/" + r.Name
	}
	return fmt.Sprintf("%s: %s %s", r.User, r.Verb, resource)
}

// Rights are those that rules give to a user, in a fixed order.
func Rights(user string, rules []rbacv1.PolicyRule) []Right {
	var rights []Right
	for _, rule := range rules {
		names := rule.ResourceNames
		if len(names) == 0 {
			names = []string{""}
		}
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					for _, name := range names {
						rights = append(rights, Right{User: user, Verb: verb, Group: group, Resource: resource, Name: name})
					}
				}
			}
		}
	}
	slices.SortFunc(rights, func(a, b Right) int { return cmp.Compare(a.String(), b.String()) })
	return slices.Compact(rights)
}

// Request is a line of an audit log.
type Request struct {
	Verb string `json:"verb"`
	URI  string `json:"requestURI"`
	User struct {
		Name string `json:"username"`
	} `json:"user"`
	// ObjectRef is zero for what is no resource, such as /version.
	ObjectRef struct {
		Group       string `json:"apiGroup"`
		Resource    string `json:"resource"`
		Subresource string `json:"subresource"`
		Namespace   string `json:"namespace"`
		Name        string `json:"name"`
	} `json:"objectRef"`
	ResponseStatus struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
	Annotations map[string]string `json:"annotations"`
	Time        time.Time         `json:"requestReceivedTimestamp"`
}

// Forbidden says that the user had no right to it.
func (r Request) Forbidden() bool { return r.Annotations["authorization.k8s.io/decision"] == "forbid" }

// IssuedCredential is the id of the ServiceAccount token that the request brought, empty if it
// brought none.
func (r Request) IssuedCredential() string {
	return r.Annotations["authentication.kubernetes.io/issued-credential-id"]
}

// uses says whether the request needs the right.
func (r Request) uses(right Right) bool {
	resource := r.ObjectRef.Resource
	if r.ObjectRef.Subresource != "" {
		resource += "/" + r.ObjectRef.Subresource
	}
	return r.User.Name == right.User && r.Verb == right.Verb && r.ObjectRef.Group == right.Group && resource == right.Resource &&
		(right.Name == "" || r.ObjectRef.Name == right.Name)
}

// Parse reads a log. What was asked before since is left out.
func Parse(log []byte, since time.Time) ([]Request, error) {
	var requests []Request
	for line := range bytes.Lines(log) {
		var r Request
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("an audit log holds %.80q: %w", line, err)
		}
		if !r.Time.Before(since) {
			requests = append(requests, r)
		}
	}
	return requests, nil
}

// Unused returns the rights that no request needed.
func Unused(rights []Right, requests []Request) []Right {
	return slices.DeleteFunc(slices.Clone(rights), func(right Right) bool {
		return slices.ContainsFunc(requests, func(r Request) bool { return r.uses(right) })
	})
}

// Denied returns the requests of users, by the prefix of their names, that they had no right to.
func Denied(prefix string, requests []Request) []Request {
	return slices.DeleteFunc(slices.Clone(requests), func(r Request) bool {
		return !strings.HasPrefix(r.User.Name, prefix) || !r.Forbidden()
	})
}
