package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// artifact is pushed under one tag.
type artifact struct {
	repository, tag string
	content         remote.Taggable
	// materials is the file with its bill of materials; empty if it has none.
	materials string
}

// artifacts returns the images and the chart of a release. It unpacks the images into work.
func (p publisher) artifacts(work string) ([]artifact, error) {
	var all []artifact
	for _, image := range []string{"keyferry", "refresher"} {
		content, err := readImage(filepath.Join(p.dir, fmt.Sprintf("image-%s_%s.oci.tar", image, p.version)), filepath.Join(work, image))
		if err != nil {
			return nil, err
		}
		materials := filepath.Join(p.dir, fmt.Sprintf("image-%s_%s.spdx.json", image, p.version))
		all = append(all, artifact{repository: image, tag: p.version, content: content, materials: materials})
	}
	version := strings.TrimPrefix(p.version, "v")
	content, err := readChart(filepath.Join(p.dir, "keyferry-"+version+".tgz"))
	if err != nil {
		return nil, err
	}
	// The chart is last: users who can pull it can pull its images. Helm writes a plus sign, which no
	// tag may have, as an underscore.
	return append(all, artifact{repository: "charts/keyferry", tag: strings.ReplaceAll(version, "+", "_"), content: content}), nil
}

// readImage reads the image of all architectures from an OCI layout in a tar file, which it unpacks
// into dir.
func readImage(file, dir string) (v1.ImageIndex, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	if err := unpack(file, dir); err != nil {
		return nil, err
	}
	root, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("reading %s: it is not an OCI layout: run make release again: %w", file, err)
	}
	manifest, err := root.IndexManifest()
	if err != nil {
		return nil, err
	}
	if n := len(manifest.Manifests); n != 1 {
		return nil, fmt.Errorf("reading %s: it has %d images, not one", file, n)
	}
	return root.ImageIndex(manifest.Manifests[0].Digest)
}

// push pushes an artifact, and returns its reference by digest. A tag that exists stays as it is.
func (p publisher) push(ctx context.Context, a artifact) (string, error) {
	tag, err := name.NewTag(p.registry + "/" + a.repository + ":" + a.tag)
	if err != nil {
		return "", err
	}
	manifest, err := a.content.RawManifest()
	if err != nil {
		return "", err
	}
	digest, _, err := v1.SHA256(strings.NewReader(string(manifest)))
	if err != nil {
		return "", err
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
	there, err := remote.Head(tag, options...)
	var answer *transport.Error
	switch {
	case err == nil && there.Digest != digest:
		return "", fmt.Errorf("the tag exists with other content, %s: published versions never change: publish a new version", there.Digest)
	case err == nil:
		p.report(false, tag.String(), "pushed")
	case !errors.As(err, &answer) || answer.StatusCode != http.StatusNotFound:
		return "", err
	default:
		if err := pushContent(tag, a.content, options); err != nil {
			return "", err
		}
		p.report(true, tag.String(), "pushed")
	}
	return tag.Digest(digest.String()).String(), nil
}

func pushContent(tag name.Tag, content remote.Taggable, options []remote.Option) error {
	switch content := content.(type) {
	case v1.ImageIndex:
		return remote.WriteIndex(tag, content, options...)
	case v1.Image:
		return remote.Write(tag, content, options...)
	default:
		return fmt.Errorf("cannot push a %T", content)
	}
}
