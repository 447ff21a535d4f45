package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"

	"golang.org/x/sys/unix"
)

// What of nfnetlink the lab speaks by itself: to list what the kernel has in an owner
// table, and to send what only its owner may.

// nlattr is a netlink attribute. Its parts are bytes, or attributes.
func nlattr(kind uint16, parts ...[]byte) []byte {
	a := make([]byte, unix.NLA_HDRLEN)
	for _, part := range parts {
		a = append(a, part...)
	}
	binary.NativeEndian.PutUint16(a, uint16(len(a)))
	binary.NativeEndian.PutUint16(a[2:], kind)
	return aligned(a)
}

// nlmessage is a netlink message.
func nlmessage(kind, flags uint16, parts ...[]byte) []byte {
	m := make([]byte, unix.NLMSG_HDRLEN)
	for _, part := range parts {
		m = append(m, part...)
	}
	binary.NativeEndian.PutUint32(m, uint32(len(m)))
	binary.NativeEndian.PutUint16(m[4:], kind)
	binary.NativeEndian.PutUint16(m[6:], flags)
	return aligned(m)
}

// nftMessage is one of a batch, to the packet filter.
func nftMessage(family byte, kind, flags uint16, attrs ...[]byte) []byte {
	parts := append([][]byte{nfhead(family, 0)}, attrs...)
	return nlmessage(unix.NFNL_SUBSYS_NFTABLES<<8|kind, unix.NLM_F_REQUEST|flags, parts...)
}

// nftSend sends the messages as one transaction. Without NLM_F_ACK in any of them the
// kernel answers nothing, unless it refuses.
func nftSend(socket int, messages ...[]byte) error {
	bound := nfhead(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	batch := nlmessage(unix.NFNL_MSG_BATCH_BEGIN, unix.NLM_F_REQUEST, bound)
	for _, m := range messages {
		batch = append(batch, m...)
	}
	batch = append(batch, nlmessage(unix.NFNL_MSG_BATCH_END, unix.NLM_F_REQUEST, bound)...)
	return unix.Sendto(socket, batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// nftRefused returns the kernel's refusal of what was sent by the socket, if there is one.
func nftRefused(socket int) error {
	answer := make([]byte, 1<<12)
	n, _, err := unix.Recvfrom(socket, answer, unix.MSG_DONTWAIT)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil
	case err != nil:
		return err
	case n < unix.NLMSG_HDRLEN+4:
		return errors.New("a netlink message is cut short")
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(answer[unix.NLMSG_HDRLEN:])))
}

// setElements are messages that add such elements to a set, or delete them.
func setElements(family byte, kind, flags uint16, table, set string, elements [][]byte) (messages [][]byte) {
	for some := range slices.Chunk(elements, elementsAtOnce) {
		messages = append(messages, nftMessage(family, kind, flags,
			nlattr(unix.NFTA_SET_ELEM_LIST_TABLE, nulled(table)), nlattr(unix.NFTA_SET_ELEM_LIST_SET, nulled(set)),
			nlattr(unix.NFTA_SET_ELEM_LIST_ELEMENTS, some...)))
	}
	return messages
}

// elementsAtOnce fit into a message: its list is an attribute of at most 64 KB.
const elementsAtOnce = 1000

// nfhead begins the content of an nfnetlink message (struct nfgenmsg).
func nfhead(family byte, resource uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
}

// nfheadSize is its size.
const nfheadSize = 4

func nulled(s string) []byte { return append([]byte(s), 0) }

func aligned(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }

// nlattrs are the attributes in the bytes, by kind.
func nlattrs(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.NLA_HDRLEN {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.NLA_HDRLEN || size > len(b) {
				return
			}
			kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(kind, b[unix.NLA_HDRLEN:size]) {
				return
			}
			b = b[min(len(b), (size+3)&^3):]
		}
	}
}

// nlfind is the first attribute of that kind; nil: there is none.
func nlfind(b []byte, kind uint16) []byte {
	for k, value := range nlattrs(b) {
		if k == kind {
			return value
		}
	}
	return nil
}

// nftDump lists objects of the packet filter of the calling thread's network namespace,
// those that match the attributes. Each is returned as its attributes.
func nftDump(kind uint16, match ...[]byte) ([][]byte, error) {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	defer unix.Close(socket)
	parts := append([][]byte{nfhead(unix.NFPROTO_NETDEV, 0)}, match...)
	request := nlmessage(unix.NFNL_SUBSYS_NFTABLES<<8|kind, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, parts...)
	if err := unix.Sendto(socket, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	var found [][]byte
	for buffer := make([]byte, 1<<16); ; {
		n, _, err := unix.Recvfrom(socket, buffer, 0)
		if err != nil {
			return nil, err
		}
		for rest := buffer[:n]; len(rest) >= unix.NLMSG_HDRLEN; {
			size := int(binary.NativeEndian.Uint32(rest))
			if size < unix.NLMSG_HDRLEN || size > len(rest) {
				return nil, errors.New("a netlink message is cut short")
			}
			content := rest[unix.NLMSG_HDRLEN:size]
			switch binary.NativeEndian.Uint16(rest[4:]) {
			case unix.NLMSG_DONE:
				return found, nil
			case unix.NLMSG_ERROR:
				return nil, unix.Errno(-int32(binary.NativeEndian.Uint32(content)))
			}
			found = append(found, append([]byte(nil), content[nfheadSize:]...))
			rest = rest[min(len(rest), (size+3)&^3):]
		}
	}
}
