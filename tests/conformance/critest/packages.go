// Package critest holds the versions of critest and of all that it is built of.
//
// critest's own package (cri-tools/cmd/critest) is made of tests alone, which nobody can import; these are
// what it imports, so that "go mod tidy" keeps them.  Nothing of ours gets into the executable:
//
//	go test -c -o build/critest sigs.k8s.io/cri-tools/cmd/critest
package critest

import (
	_ "github.com/onsi/ginkgo/v2"
	_ "github.com/onsi/gomega"

	_ "sigs.k8s.io/cri-tools/pkg/benchmark"
	_ "sigs.k8s.io/cri-tools/pkg/common"
	_ "sigs.k8s.io/cri-tools/pkg/framework"
	_ "sigs.k8s.io/cri-tools/pkg/validate"
	_ "sigs.k8s.io/cri-tools/pkg/version"
)
