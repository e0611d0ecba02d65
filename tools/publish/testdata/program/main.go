// Program takes the place of Keyferry's programs in a release for tests. It has one dependency, and starts and builds fast.
package main

import (
	"fmt"

	"sigs.k8s.io/yaml"
)

func main() {
	out, err := yaml.Marshal(map[string]string{"program": "stand-in"})
	fmt.Println(string(out), err)
}
