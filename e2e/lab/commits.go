package lab

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// BucketCommit is a bucket's new state in a node's kernel.
type BucketCommit struct {
	// At is when the kernel began to announce the transaction, which it does once it is
	// made.
	At     time.Duration
	By     NodeID
	Bucket int
	// Was and Is are "own", "adopt" or "linger", and "" when the node has nothing to do
	// with the bucket.
	Was, Is string
}

func accepts(state string) bool { return state == "own" || state == "adopt" }

// Takes says whether the node begins to take new flows of the bucket, Releases
// whether it ends to.
func (c BucketCommit) Takes() bool    { return accepts(c.Is) && !accepts(c.Was) }
func (c BucketCommit) Releases() bool { return accepts(c.Was) && !accepts(c.Is) }

// CommitRecorder notes what becomes of the buckets of the agents' default service,
// as the nodes' kernels tell all who listen (`nft monitor`). The agents know nothing
// of it. It should listen before they start, to know what the buckets' states were.
type CommitRecorder struct {
	lab  *Lab
	done atomic.Bool
	once sync.Once
	wg   sync.WaitGroup

	mu     sync.Mutex
	told   []announcement
	failed []error
}

// announcement is what a kernel said, and when.
type announcement struct {
	at   time.Duration
	by   NodeID
	text []byte
}

// The agents' map of the default service's buckets (`nft list ruleset`).
const (
	bucketsTable = "peervip"
	bucketsMap   = "buckets_other"
)

// RecordCommits listens in each node that has power, until Stop or the end of the
// lab.
func (l *Lab) RecordCommits() (*CommitRecorder, error) {
	r := &CommitRecorder{lab: l}
	for _, n := range l.Nodes {
		if n.NS == nil {
			continue
		}
		fd, err := listenToNFT(n.NS)
		if err != nil {
			r.Stop()
			return nil, fmt.Errorf("listening to the packet filter of %s: %w", n.Name, err)
		}
		r.wg.Go(func() { r.listen(fd, n.ID()) })
	}
	l.onClose(r.Stop)
	return r, nil
}

const (
	// recordPatience is how often a listener looks whether it should end.
	recordPatience = 100 * time.Millisecond
	recordPause    = 300 * time.Microsecond
)

func listenToNFT(ns *Namespace) (fd int, err error) {
	err = ns.Do(func() error {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		return err
	})
	if err != nil {
		return -1, err
	}
	patience := unix.NsecToTimeval(int64(recordPatience))
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, manyDatagrams),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_NFTABLES),
	)
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// listen only keeps what it hears: to read it has time later. A transaction is
// announced in pieces, in the middle of the agent's system call, and to be woken for
// each of them would make that longer: what comes soon after the first is left for a
// moment.
func (r *CommitRecorder) listen(fd int, by NodeID) {
	defer keepTime()()
	defer unix.Close(fd)
	buf := make([]byte, 1<<20)
	for wait := 0; !r.done.Load(); {
		n, _, err := unix.Recvfrom(fd, buf, wait)
		now := r.lab.Now()
		switch err {
		case nil:
			r.note(announcement{now, by, slices.Clone(buf[:n])}, nil)
			if wait == 0 {
				nap(recordPause)
			}
			wait = unix.MSG_DONTWAIT
		case unix.EAGAIN, unix.EINTR:
			wait = 0
		default: // ENOBUFS: something was missed
			r.note(announcement{}, fmt.Errorf("listening to the packet filter of %s: %w", nodeName(int(by)-1), err))
		}
	}
}

func (r *CommitRecorder) note(a announcement, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.failed = append(r.failed, err)
		return
	}
	r.told = append(r.told, a)
}

// Stop ends the listening. What was heard stays.
func (r *CommitRecorder) Stop() {
	r.once.Do(func() { r.done.Store(true) })
	r.wg.Wait()
}

// Commits returns what the kernels announced in the window, in the order of time.
func (r *CommitRecorder) Commits(w Window) ([]BucketCommit, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := errors.Join(r.failed...); err != nil {
		return nil, err
	}
	books := map[NodeID]*commitBook{}
	var commits []BucketCommit
	for _, a := range r.told {
		book := books[a.by]
		if book == nil {
			book = &commitBook{states: map[int]string{}, pending: map[int]string{}}
			books[a.by] = book
		}
		for _, c := range book.read(a.text, a.at) {
			if c.By = a.by; c.At >= w.From && c.At < w.To {
				commits = append(commits, c)
			}
		}
	}
	slices.SortStableFunc(commits, func(a, b BucketCommit) int { return cmp.Compare(a.At, b.At) })
	return commits, nil
}

// commitBook keeps what one kernel has said of the map of buckets at ingress.
type commitBook struct {
	states  map[int]string // of the buckets, as committed
	pending map[int]string // of the transaction whose announcement has no end yet
	began   time.Duration  // that announcement
}

// read reads netlink messages (include/uapi/linux/netfilter/nf_tables.h) and returns
// what they commit. A bucket that changes its state is deleted and added, and the new
// generation's number ends the transaction.
func (b *commitBook) read(text []byte, at time.Duration) []BucketCommit {
	const header, nfgenmsg = unix.SizeofNlMsghdr, 4
	var commits []BucketCommit
	for len(text) >= header+nfgenmsg {
		length := int(binary.NativeEndian.Uint32(text))
		if length < header+nfgenmsg || length > len(text) {
			break
		}
		kind := int(binary.NativeEndian.Uint16(text[4:])) - unix.NFNL_SUBSYS_NFTABLES<<8
		body := text[header:length]
		text = text[min(nlAlign(length), len(text)):]
		switch family := body[0]; {
		case kind == unix.NFT_MSG_NEWGEN:
			for bucket, is := range b.pending {
				if was := b.states[bucket]; was != is {
					b.states[bucket] = is
					commits = append(commits, BucketCommit{At: b.began, Bucket: bucket, Was: was, Is: is})
				}
			}
			clear(b.pending)
		case family == unix.NFPROTO_NETDEV && (kind == unix.NFT_MSG_NEWSETELEM || kind == unix.NFT_MSG_DELSETELEM):
			if len(b.pending) == 0 {
				b.began = at
			}
			b.elements(body[nfgenmsg:], kind == unix.NFT_MSG_NEWSETELEM)
		}
	}
	return commits
}

// elements reads a list of elements that were added or deleted.
func (b *commitBook) elements(text []byte, added bool) {
	list := attributes(text)
	if cString(list[unix.NFTA_SET_ELEM_LIST_TABLE]) != bucketsTable || cString(list[unix.NFTA_SET_ELEM_LIST_SET]) != bucketsMap {
		return
	}
	eachAttribute(list[unix.NFTA_SET_ELEM_LIST_ELEMENTS], func(_ int, element []byte) {
		is := attributes(element)
		key := attributes(is[unix.NFTA_SET_ELEM_KEY])[unix.NFTA_DATA_VALUE]
		if len(key) != 4 {
			return
		}
		state := ""
		if added { // the verdict goes to the chain of a state and service
			verdict := attributes(attributes(is[unix.NFTA_SET_ELEM_DATA])[unix.NFTA_DATA_VERDICT])
			state, _, _ = strings.Cut(cString(verdict[unix.NFTA_VERDICT_CHAIN]), "_")
		}
		b.pending[int(binary.NativeEndian.Uint32(key))] = state
	})
}

func nlAlign(n int) int { return (n + unix.NLA_ALIGNTO - 1) &^ (unix.NLA_ALIGNTO - 1) }

func cString(b []byte) string { return strings.TrimRight(string(b), "\x00") }

// eachAttribute calls do for each netlink attribute; what is cut short is left out.
func eachAttribute(b []byte, do func(kind int, value []byte)) {
	for len(b) >= unix.SizeofNlAttr {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofNlAttr || length > len(b) {
			return
		}
		do(int(binary.NativeEndian.Uint16(b[2:])&attributeKind), b[unix.SizeofNlAttr:length])
		b = b[min(nlAlign(length), len(b)):]
	}
}

func attributes(b []byte) map[int][]byte {
	found := map[int][]byte{}
	eachAttribute(b, func(kind int, value []byte) { found[kind] = value })
	return found
}

// attributeKind is what an attribute's type has besides flags (NLA_TYPE_MASK).
const attributeKind = 1<<14 - 1
