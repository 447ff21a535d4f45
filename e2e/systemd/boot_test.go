package systemd

import "testing"

// Three machines that boot at once share the address, and all clients are served.
func TestBoot(t *testing.T) {
	c := raise(t, 3)
	w := c.come(t)
	w.unharmed(t, "at rest")
	for _, m := range c.machines {
		m.says(t, "this node is active")
	}
}
