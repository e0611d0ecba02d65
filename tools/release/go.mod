module github.com/keyferry/keyferry/tools/release

go 1.26.0

require (
	github.com/spdx/tools-golang v0.5.7
	sigs.k8s.io/yaml v1.6.0
)

require (
	github.com/anchore/go-struct-converter v0.1.0 // indirect
	go.yaml.in/yaml/v2 v2.4.2 // indirect
)
