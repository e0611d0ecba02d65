package main

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
)

const (
	release   = "keyferry"
	namespace = "keyferry-system"
	// prometheusOperator is the API without which there are no monitors.
	prometheusOperator = "monitoring.coreos.com/v1"
)

// options is what a rendering depends on besides the chart. Zero values are those of an
// installation without any.
type options struct {
	// values is YAML.
	values string
	// release is the name of the release.
	release string
	// version is the version of Keyferry; empty is the chart's appVersion.
	version string
	// kubernetes is the version of the cluster.
	kubernetes string
	// apis are those that the cluster has besides Kubernetes' own.
	apis []string
}

// rendering is what each template gave, by its path in the chart.
type rendering map[string]string

// templates returns the templates that give objects, sorted.
func (r rendering) templates() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(r)), func(template string) bool {
		return path.Ext(template) != ".yaml" || strings.TrimSpace(r[template]) == ""
	})
}

// render renders the chart in dir, after its values were checked against its schema.
func render(dir string, o options) (rendering, error) {
	chart, err := loader.LoadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the chart: %w", err)
	}
	if o.version != "" {
		chart.Metadata.AppVersion = o.version
	}
	values, err := common.ReadValues([]byte(o.values))
	if err != nil {
		return nil, fmt.Errorf("reading values: %w", err)
	}
	capabilities := common.DefaultCapabilities.Copy()
	capabilities.APIVersions = append(capabilities.APIVersions, o.apis...)
	if o.kubernetes != "" {
		version, err := common.ParseKubeVersion(o.kubernetes)
		if err != nil {
			return nil, fmt.Errorf("reading the version of Kubernetes: %w", err)
		}
		capabilities.KubeVersion = *version
	}
	if o.release == "" {
		o.release = release
	}
	all, err := util.ToRenderValues(chart, values, common.ReleaseOptions{Name: o.release, Namespace: namespace, Revision: 1, IsInstall: true}, capabilities)
	if err != nil {
		return nil, err
	}
	rendered, err := engine.Render(chart, all)
	if err != nil {
		return nil, err
	}
	short := rendering{}
	for template, text := range rendered {
		short[strings.TrimPrefix(template, chart.Name()+"/templates/")] = text
	}
	return short, nil
}
