package load_test

import (
	"testing"

	"go.uber.org/goleak"
)

// The backend runs until its process ends.
func TestMain(m *testing.M) {
	const load = "github.com/openprivatelink/openprivatelink/proxy/bench/load."
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction(load+"Backend"), goleak.IgnoreAnyFunction(load+"(*server).run"), goleak.IgnoreAnyFunction(load+"echoDatagrams"))
}
