package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// takesNew says whether a node takes new flows of a bucket in the state.
func takesNew(state string) bool { return state == "own" || state == "adopt" }

// The agents' map of the default service's buckets: `nft list map netdev peervip
// buckets_other`.
const (
	bucketsTable = "peervip"
	bucketsMap   = "buckets_other"
)

// askForBuckets is the message that asks for all elements of the map or, with a bucket,
// for its alone.
func askForBuckets(flags netlink.HeaderFlags, bucket *int) (m netlink.Message, err error) {
	attributes := netlink.NewAttributeEncoder()
	attributes.String(unix.NFTA_SET_ELEM_LIST_TABLE, bucketsTable)
	attributes.String(unix.NFTA_SET_ELEM_LIST_SET, bucketsMap)
	if bucket != nil {
		attributes.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list *netlink.AttributeEncoder) error {
			list.Nested(unix.NFTA_LIST_ELEM, func(element *netlink.AttributeEncoder) error {
				element.Nested(unix.NFTA_SET_ELEM_KEY, func(key *netlink.AttributeEncoder) error {
					key.Uint32(unix.NFTA_DATA_VALUE, uint32(*bucket))
					return nil
				})
				return nil
			})
			return nil
		})
	}
	body, err := attributes.Encode()
	m.Header.Type = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETSETELEM
	m.Header.Flags = flags
	m.Data = append([]byte{unix.NFPROTO_NETDEV, unix.NFNETLINK_V0, 0, 0}, body...)
	return m, err
}

// bucketStates asks a node's kernel for the states of all buckets that have one: "own",
// "adopt" or "linger".
func (n *Node) bucketStates() (map[int]string, error) {
	states := map[int]string{}
	err := n.NS.Do(func() error {
		conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
		if err != nil {
			return err
		}
		defer conn.Close()
		ask, err := askForBuckets(netlink.Request|netlink.Dump, nil)
		if err != nil {
			return err
		}
		answers, err := conn.Execute(ask)
		for _, m := range answers {
			err = errors.Join(err, readBuckets(m, states))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("asking the packet filter of %s for its buckets: %w", n.Name, err)
	}
	return states, nil
}

// readBuckets adds the states of the buckets that a kernel's answer lists: elements
// whose verdict goes to a chain that is named after a state. Attributes are those of
// include/uapi/linux/netfilter/nf_tables.h.
func readBuckets(m netlink.Message, states map[int]string) error {
	if len(m.Data) < 4 { // struct nfgenmsg
		return fmt.Errorf("an answer of %d bytes", len(m.Data))
	}
	elements, err := attribute(m.Data[4:], unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	if err != nil {
		return err
	}
	list, err := netlink.NewAttributeDecoder(elements)
	if err != nil {
		return err
	}
	for list.Next() {
		key, errKey := attribute(list.Bytes(), unix.NFTA_SET_ELEM_KEY, unix.NFTA_DATA_VALUE)
		chain, errChain := attribute(list.Bytes(), unix.NFTA_SET_ELEM_DATA, unix.NFTA_DATA_VERDICT, unix.NFTA_VERDICT_CHAIN)
		if err := errors.Join(errKey, errChain); err != nil {
			return err
		}
		if len(key) != 4 {
			return fmt.Errorf("a bucket of %d bytes", len(key))
		}
		state, _, _ := strings.Cut(string(chain), "_")
		states[int(binary.NativeEndian.Uint32(key))] = state
	}
	return list.Err()
}

// attribute goes down a path of attributes in attributes, by the first one of each type;
// nil: there is none.
func attribute(in []byte, path ...uint16) ([]byte, error) {
	for _, want := range path {
		list, err := netlink.NewAttributeDecoder(in)
		if err != nil {
			return nil, err
		}
		in = nil
		for in == nil && list.Next() {
			if list.Type() == want {
				in = list.Bytes()
			}
		}
		if list.Err() != nil || in == nil {
			return nil, list.Err()
		}
	}
	return in, nil
}

// bucketProbe asks a node's kernel for one bucket, with the least that there is to do.
type bucketProbe struct {
	node    *Node
	bucket  int
	socket  int
	request []byte
	answer  []byte
}

func (n *Node) probeBucket(bucket int) (p *bucketProbe, err error) {
	p = &bucketProbe{node: n, bucket: bucket, socket: -1, answer: make([]byte, 4096)}
	ask, err := askForBuckets(netlink.Request, &bucket)
	ask.Header.Length = uint32(unix.SizeofNlMsghdr + len(ask.Data))
	if err == nil {
		p.request, err = ask.MarshalBinary()
	}
	if err == nil {
		err = n.NS.Do(func() (err error) {
			p.socket, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
			return err
		})
	}
	if err != nil {
		return nil, p.failed(err)
	}
	return p, nil
}

func (p *bucketProbe) close() error { return unix.Close(p.socket) }

func (p *bucketProbe) failed(err error) error {
	return fmt.Errorf("asking the packet filter of %s for bucket %d: %w", p.node.Name, p.bucket, err)
}

// takes says whether the node takes new flows of the bucket.
func (p *bucketProbe) takes() (bool, error) {
	if err := unix.Sendto(p.socket, p.request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false, p.failed(err)
	}
	n, _, err := unix.Recvfrom(p.socket, p.answer, 0)
	if err != nil {
		return false, p.failed(err)
	}
	var m netlink.Message
	if err := m.UnmarshalBinary(p.answer[:n]); err != nil {
		return false, p.failed(err)
	}
	if m.Header.Type == netlink.Error && len(m.Data) >= 4 {
		err := unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
		if err == unix.ENOENT { // the node has nothing to do with it
			return false, nil
		}
		return false, p.failed(err)
	}
	states := map[int]string{}
	if err := readBuckets(m, states); err != nil {
		return false, p.failed(err)
	}
	return takesNew(states[p.bucket]), nil
}
