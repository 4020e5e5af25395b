package reconcile

import (
	"testing"

	"github.com/openprivatelink/openprivatelink/domain"
	"github.com/openprivatelink/openprivatelink/proxy"
)

// There are words for every reason that the engine gives.
func TestReasonsHaveWords(t *testing.T) {
	for _, r := range []string{
		proxy.ReasonOpen, proxy.ReasonClosed, proxy.ReasonReset, proxy.ReasonIdle, proxy.ReasonRevoked, proxy.ReasonReplaced, proxy.ReasonRemoved,
		proxy.ReasonUnhealthy, proxy.ReasonShutdown, proxy.ReasonFull, proxy.ReasonGroup, proxy.ReasonGate, proxy.ReasonNoServer, proxy.ReasonConnect,
		proxy.ReasonCPS, proxy.ReasonMaxConnections, proxy.ReasonPorts,
	} {
		if why := (domain.Flow{Reason: r}).Why(); why == r {
			t.Errorf("%q has no words", r)
		}
	}
}
