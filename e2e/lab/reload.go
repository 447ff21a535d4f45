package lab

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// reloadTable is the firewall that is loaded again and again.
	reloadTable = "reloaded"
	// reloadElements make each load take some milliseconds, in which the kernel lets
	// nobody else change rules.
	reloadElements = 4000
)

// ReloadFirewall loads a firewall on the node, which drops nothing, again and again
// without a pause, until stop is called or the lab closes: as programs do that react to
// each other's changes. Each time the ruleset has another generation.
func (n *Node) ReloadFirewall() (stop func() error) {
	var ended atomic.Bool
	failed := make(chan error, 1)
	go func() {
		failed <- n.NS.Do(func() error {
			socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
			if err != nil {
				return err
			}
			defer unix.Close(socket)
			if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 1<<20); err != nil {
				return err
			}
			for load := firewallLoad(); !ended.Load(); {
				if err := nftSend(socket, load...); err != nil {
					return err
				}
				if err := nftRefused(socket); err != nil {
					return err
				}
			}
			return nftSend(socket, nftMessage(unix.NFPROTO_INET, unix.NFT_MSG_DELTABLE, 0, nlattr(unix.NFTA_TABLE_NAME, nulled(reloadTable))))
		})
	}()
	stop = sync.OnceValue(func() error {
		ended.Store(true)
		if err := <-failed; err != nil {
			return fmt.Errorf("reloading a firewall of %s: %w", n.Name, err)
		}
		return nil
	})
	n.lab.onClose(func() { stop() })
	return stop
}

// firewallLoad are the messages of one load: the old table goes, and a new one comes.
func firewallLoad() [][]byte {
	const set = "hosts"
	table := nlattr(unix.NFTA_TABLE_NAME, nulled(reloadTable))
	number := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	messages := [][]byte{
		nftMessage(unix.NFPROTO_INET, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, table),
		nftMessage(unix.NFPROTO_INET, unix.NFT_MSG_DELTABLE, 0, table),
		nftMessage(unix.NFPROTO_INET, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, table),
		nftMessage(unix.NFPROTO_INET, unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE,
			nlattr(unix.NFTA_SET_TABLE, nulled(reloadTable)), nlattr(unix.NFTA_SET_NAME, nulled(set)),
			nlattr(unix.NFTA_SET_KEY_LEN, number(4)), nlattr(unix.NFTA_SET_ID, number(1))),
	}
	var hosts [][]byte
	for i := range uint32(reloadElements) {
		hosts = append(hosts, nlattr(unix.NFTA_LIST_ELEM, nlattr(unix.NFTA_SET_ELEM_KEY, nlattr(unix.NFTA_DATA_VALUE, number(0xcb007100+i)))))
	}
	return append(messages, setElements(unix.NFPROTO_INET, unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, reloadTable, set, hosts)...)
}
