package injector

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Whether a Pod is injected is decided by its content: what Keyferry would add is encoded as JSON,
// and the Pod must have all of it. So new fields that Keyferry adds need no code here.

// object is a decoded JSON object.
type object = map[string]any

// decodeObject returns nil if raw is not a JSON object.
func decodeObject(raw []byte) object {
	var decoded object
	if len(raw) == 0 || json.Unmarshal(raw, &decoded) != nil {
		return nil
	}
	return decoded
}

// encodeObject returns the JSON object of a container or volume.
func encodeObject(value any) object {
	raw, err := json.Marshal(value)
	if err != nil {
		panic(err) // resources have been parsed before, and everything else is strings and numbers
	}
	return decodeObject(raw)
}

// carries reports whether have contains everything in wanted. Objects may have more members, such
// as the API server's defaults. Lists must not have more elements.
func carries(have, wanted any) bool {
	switch wanted := wanted.(type) {
	case object:
		have, ok := have.(object)
		if !ok {
			return false
		}
		for name, value := range wanted {
			switch {
			case carries(have[name], value):
			case name == "drop" && dropsAll(have[name]):
			default:
				return false
			}
		}
		return true
	case []any:
		have, ok := have.([]any)
		return ok && slices.EqualFunc(have, wanted, carries)
	default:
		return have == wanted
	}
}

// dropsAll reports whether a list of dropped capabilities includes ALL. OpenShift adds further
// capabilities to the list.
func dropsAll(capabilities any) bool {
	list, _ := capabilities.([]any)
	return slices.Contains(list, any("ALL"))
}

// restoreContainer adds operations for each member of one of Keyferry's containers that differs
// from wanted, and returns the names of these members. It keeps what other webhooks have added,
// such as mounts. explicit reports whether the Pod itself names a resource.
func restoreContainer(ops *operations, path string, have, wanted object, explicit func(kind, name string) bool) (restored []string) {
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		value, differs := restoreMember(name, have[name], wanted[name], explicit)
		if !differs {
			continue
		}
		ops.add(path+"/"+name, value)
		restored = append(restored, name)
	}
	return restored
}

// restoreMember returns the value that a member of a container should have, and whether it differs.
func restoreMember(name string, have, wanted any, explicit func(kind, name string) bool) (value any, differs bool) {
	switch name {
	case "image":
		return wanted, !isSameImage(have, wanted)
	case "imagePullPolicy":
		return wanted, have == nil // the admission plugin AlwaysPullImages changes it
	case "resources":
		return restoreResources(have, wanted, explicit)
	case "env":
		return restoreList(have, wanted, "name")
	case "ports":
		return restoreList(have, wanted, "name")
	case "volumeMounts":
		return restoreList(have, wanted, "mountPath")
	case "lifecycle", "securityContext":
		return restoreMembers(have, wanted)
	default:
		return wanted, !carries(have, wanted)
	}
}

// restoreMembers merges the members of wanted into an object that may have more members.
func restoreMembers(have, wanted any) (value any, differs bool) {
	if carries(have, wanted) {
		return nil, false
	}
	merged := cloneObject(have)
	for name, value := range cloneObject(wanted) {
		if !carries(merged[name], value) {
			merged[name] = value
		}
	}
	return merged, true
}

// restoreList merges the elements of wanted into a list that may have more elements. Two elements
// are the same if their values of key are equal.
func restoreList(have, wanted any, key string) (value any, differs bool) {
	had, _ := have.([]any)
	all, _ := wanted.([]any)
	merged := make([]any, 0, len(had)+len(all))
	missing := slices.Clone(all)
	for _, element := range had {
		isSame := func(e any) bool { return valueOf(e, key) == valueOf(element, key) }
		if i := slices.IndexFunc(missing, isSame); i >= 0 {
			if !carries(element, missing[i]) {
				element, differs = missing[i], true
			}
			missing = slices.Delete(missing, i, i+1)
		} else if slices.ContainsFunc(all, isSame) {
			differs = true // if several variables have one name, the last one wins
			continue
		}
		merged = append(merged, element)
	}
	return append(merged, missing...), differs || len(missing) > 0
}

func valueOf(element any, name string) any {
	members, _ := element.(object)
	return members[name]
}

// restoreResources adds the resources that are not set. A LimitRange, an autoscaler or the platform
// may have changed the others, except for those that the Pod names in its annotation: these are
// restored.
func restoreResources(have, wanted any, explicit func(kind, name string) bool) (value any, differs bool) {
	merged := cloneObject(have)
	isSet := func(name string) bool {
		return valueOf(valueOf(have, "limits"), name) != nil || valueOf(valueOf(have, "requests"), name) != nil
	}
	for _, kind := range []string{"limits", "requests"} {
		amounts := cloneObject(merged[kind])
		for name, amount := range cloneObject(valueOf(wanted, kind)) {
			if named := explicit(kind, name); named && !isSameQuantity(amounts[name], amount) || !named && !isSet(name) {
				amounts[name], differs = amount, true
			}
		}
		if len(amounts) > 0 {
			merged[kind] = amounts
		}
	}
	return merged, differs
}

// cloneObject returns a copy of value, or an empty object if value is not an object.
func cloneObject(value any) object {
	members, _ := value.(object)
	clone := make(object, len(members)+1)
	maps.Copy(clone, members)
	return clone
}

func isSameQuantity(one, another any) bool {
	parse := func(value any) (resource.Quantity, bool) {
		raw, err := json.Marshal(value)
		var quantity resource.Quantity
		return quantity, value != nil && err == nil && !absurd.Match(raw) && json.Unmarshal(raw, &quantity) == nil
	}
	a, ok := parse(one)
	b, also := parse(another)
	return ok && also && a.Cmp(b) == 0
}

// isSameImage reports whether two images are the same except for the registry, or except that a tag
// was resolved to a digest: other webhooks rewrite images to pull them through mirrors. Name, tag
// and digest must not contradict each other.
func isSameImage(one, another any) bool {
	a, _ := one.(string)
	b, _ := another.(string)
	nameA, tagA, digestA := splitImage(a)
	nameB, tagB, digestB := splitImage(b)
	agree := func(a, b string) bool { return a == "" || b == "" || a == b }
	return nameA == nameB && agree(tagA, tagB) && agree(digestA, digestB)
}

// splitImage returns the last part of an image's path, its tag and its digest.
func splitImage(image string) (name, tag, digest string) {
	image, digest, _ = strings.Cut(image, "@")
	name, tag, _ = strings.Cut(image[strings.LastIndexByte(image, '/')+1:], ":")
	return name, tag, digest
}
