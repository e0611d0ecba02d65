package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"sigs.k8s.io/yaml"
)

// The media types of a chart: https://helm.sh/docs/topics/registries/#helm-chart-manifest
const (
	chartConfigType  types.MediaType = "application/vnd.cncf.helm.config.v1+json"
	chartContentType types.MediaType = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
)

// chart is a Helm chart as an OCI artifact: Chart.yaml, as JSON, is its configuration, and the
// archive its only layer.
type chart struct {
	config   []byte
	archive  v1.Layer
	manifest []byte
}

// readChart reads an archive of a chart. As helm push does, it writes parts of Chart.yaml into the
// manifest; but no time, so the same chart has the same digest.
func readChart(file string) (v1.Image, error) {
	archive, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	description, err := chartFile(archive)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	c := chart{archive: static.NewLayer(archive, chartContentType)}
	if c.config, err = yaml.YAMLToJSON(description); err != nil {
		return nil, fmt.Errorf("reading Chart.yaml of %s: %w", file, err)
	}
	var about struct{ Name, Version, Description, Home string }
	if err := json.Unmarshal(c.config, &about); err != nil {
		return nil, fmt.Errorf("reading Chart.yaml of %s: %w", file, err)
	}
	layer, err := partial.Descriptor(c.archive)
	if err != nil {
		return nil, err
	}
	digest, size, err := v1.SHA256(bytes.NewReader(c.config))
	if err != nil {
		return nil, err
	}
	c.manifest, err = json.Marshal(v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		Config:        v1.Descriptor{MediaType: chartConfigType, Digest: digest, Size: size},
		Layers:        []v1.Descriptor{*layer},
		Annotations: map[string]string{
			"org.opencontainers.image.title":       about.Name,
			"org.opencontainers.image.version":     about.Version,
			"org.opencontainers.image.description": about.Description,
			"org.opencontainers.image.url":         about.Home,
			"org.opencontainers.image.source":      "https://" + repository,
			"org.opencontainers.image.licenses":    "Apache-2.0",
		},
	})
	if err != nil {
		return nil, err
	}
	return partial.CompressedToImage(c)
}

// chartFile returns the content of Chart.yaml.
func chartFile(archive []byte) ([]byte, error) {
	unzipped, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return nil, err
	}
	for r := tar.NewReader(unzipped); ; {
		header, err := r.Next()
		if err != nil {
			return nil, fmt.Errorf("looking for Chart.yaml: %w", err)
		}
		if dir, file := path.Split(header.Name); file == "Chart.yaml" && path.Dir(path.Clean(dir)) == "." {
			return io.ReadAll(r)
		}
	}
}

func (c chart) RawConfigFile() ([]byte, error) { return c.config, nil }

func (c chart) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

func (c chart) RawManifest() ([]byte, error) { return c.manifest, nil }

func (c chart) LayerByDigest(digest v1.Hash) (partial.CompressedLayer, error) {
	if own, err := c.archive.Digest(); err != nil || own != digest {
		return nil, fmt.Errorf("the chart has no layer %s", digest)
	}
	return c.archive, nil
}
