package injector

// Pod is as much of a Pod, or of a Pod template, as injection reads.
type Pod struct {
	Metadata Metadata `json:"metadata"`
	Spec     spec     `json:"spec"`
}

// Metadata is as much of a Pod's metadata as injection and admission read.
type Metadata struct {
	Name         string            `json:"name"`
	GenerateName string            `json:"generateName"`
	Namespace    string            `json:"namespace"`
	Annotations  map[string]string `json:"annotations"`
}

type spec struct {
	ServiceAccountName string `json:"serviceAccountName"`
}

// DecodePod reads the JSON of a Pod, or of anything with its metadata and spec, such as a Pod template.
func DecodePod(raw []byte) (*Pod, error) {
	panic("being written")
}

// ServiceAccountName returns the name of the Pod's ServiceAccount, default where it names none.
func (p *Pod) ServiceAccountName() string {
	if p.Spec.ServiceAccountName == "" {
		return "default"
	}
	return p.Spec.ServiceAccountName
}
