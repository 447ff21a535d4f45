package node

import (
	"testing"

	"github.com/peervip/peervip/hashring"
)

// What a node of another spec has is not known, and not none.
func TestWhatForeignNodesHaveIsUnknown(t *testing.T) {
	d := activeDesk(t, map[string]hashring.Set{"b": setOf(16)})
	d.step(PeerAlive{Incarnation: Incarnation{"c", 7}, SpecDigest: 2, SpecRevision: 1})
	for _, n := range d.core.Snapshot().Nodes {
		if n.Unknown != (n.Name == "c") {
			t.Errorf("%s is unknown: %t", n.Name, n.Unknown)
		}
	}
}
