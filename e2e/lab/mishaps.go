package lab

import (
	"fmt"
	"os/exec"
	"strings"

	"github.com/vishvananda/netlink"
)

// What befalls a node from within, by an administrator's hand or a driver's.

// FlushRuleset does to the node what an administrator's `nft flush ruleset` does.
func (n *Node) FlushRuleset() error {
	_, err := n.NS.Run("nft", "flush", "ruleset")
	return err
}

// DeleteTable removes a table of the node's packet filter.
func (n *Node) DeleteTable(family, name string) error {
	_, err := n.NS.Run("nft", "delete", "table", family, name)
	return err
}

// firewall is a host firewall of somebody who has not read the manual: it lets in
// the services and gossip, and does not know of beacons.
var firewall = fmt.Sprintf(`table inet firewall
delete table inet firewall
table inet firewall {
 chain input {
  type filter hook input priority filter; policy drop
  ct state established,related accept
  iifname lo accept
  meta l4proto icmp accept
  tcp dport { %d, %d, %d } accept
  udp dport { %d, %d } accept
 }
}
`, WebPort, TalkPort, GossipPort, EchoPort, GossipPort)

// Firewall loads a host firewall on the node that drops beacons, on either
// medium, and passes everything else that the lab does.
func (n *Node) Firewall() error {
	return n.NS.Do(func() error {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(firewall)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("loading a firewall on %s: %w: %s", n.Name, err, out)
		}
		return nil
	})
}

// NoFirewall removes it.
func (n *Node) NoFirewall() error { return n.DeleteTable("inet", "firewall") }

// DeleteInterface takes the node's interface away, as the end of a driver does.
func (n *Node) DeleteInterface() error {
	return n.onInterface(netlink.LinkDel)
}

// MakeInterface makes it anew, with the same name, MAC and address.
func (n *Node) MakeInterface() error { return n.plug() }

// RemoveAddress removes the node's address from its interface.
func (n *Node) RemoveAddress() error {
	return n.onInterface(func(link netlink.Link) error { return netlink.AddrDel(link, ifaddr(n.Addr)) })
}

// RestoreAddress puts it back.
func (n *Node) RestoreAddress() error {
	return n.onInterface(func(link netlink.Link) error { return netlink.AddrAdd(link, ifaddr(n.Addr)) })
}

func (n *Node) onInterface(do func(netlink.Link) error) error {
	err := n.NS.Do(func() error {
		link, err := netlink.LinkByName(nodeLink)
		if err != nil {
			return err
		}
		return do(link)
	})
	if err != nil {
		return fmt.Errorf("%s of %s: %w", nodeLink, n.Name, err)
	}
	return nil
}
