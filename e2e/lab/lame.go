package lab

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ownerTable holds the buckets and the lease. It is an owner table: the kernel lets nobody
// change it but the socket that has made it, which is the agent's.
const ownerTable = "peervip"

// RefuseChanges has the node's kernel refuse (EMSGSIZE) every change of more than a few
// buckets, taken or given, until the function that it returns is called or the
// agent ends. What the kernel has stands, and the lease is prolonged, armed and dropped as
// before.
//
// It takes the send buffer from the agent's netlink socket, by a duplicate of that
// (pidfd_getfd(2)).
func (n *Node) RefuseChanges() (undo func() error, err error) {
	room := func(bytes int) func(int) error {
		return func(socket int) error {
			return unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, bytes)
		}
	}
	if err := n.asOwner(room(0)); err != nil { // the kernel leaves 4608 bytes (SOCK_MIN_SNDBUF)
		return nil, fmt.Errorf("taking the room for changes from the agent of %s: %w", n.Name, err)
	}
	pid := n.PID()
	return func() error {
		if n.PID() != pid {
			return nil // the socket has gone with the agent
		}
		if err := n.asOwner(room(64 << 20)); err != nil {
			return fmt.Errorf("giving the agent of %s its room for changes back: %w", n.Name, err)
		}
		return nil
	}, nil
}

// asOwner calls f, in the node's namespace, with a duplicate of the agent's socket that
// owns the table.
func (n *Node) asOwner(f func(socket int) error) error {
	pid := n.PID()
	if pid == 0 {
		return fmt.Errorf("the agent of %s does not run", n.Name)
	}
	return n.NS.Do(func() error {
		inode, err := ownersInode()
		if err != nil {
			return err
		}
		number, err := descriptor(pid, inode)
		if err != nil {
			return err
		}
		process, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return fmt.Errorf("opening process %d: %w", pid, err)
		}
		defer unix.Close(process)
		socket, err := unix.PidfdGetfd(process, number, 0)
		if err != nil {
			return fmt.Errorf("duplicating descriptor %d of process %d: %w", number, pid, err)
		}
		defer unix.Close(socket)
		return f(socket)
	})
}

// tableOwner is NFTA_TABLE_OWNER of include/uapi/linux/netfilter/nf_tables.h.
const tableOwner = 7

// ownersInode is the inode of the netlink socket that owns the table.
func ownersInode() (string, error) {
	tables, err := nftDump(unix.NFT_MSG_GETTABLE)
	if err != nil {
		return "", fmt.Errorf("listing tables: %w", err)
	}
	port := uint32(0)
	for _, table := range tables {
		owner := nlfind(table, tableOwner)
		if string(nlfind(table, unix.NFTA_TABLE_NAME)) == string(nulled(ownerTable)) && len(owner) == 4 {
			port = binary.BigEndian.Uint32(owner)
		}
	}
	list, err := os.ReadFile("/proc/thread-self/net/netlink")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(list)) {
		// sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
		f := strings.Fields(line)
		if len(f) == 10 && f[1] == fmt.Sprint(unix.NETLINK_NETFILTER) && f[2] == fmt.Sprint(port) {
			return f[9], nil
		}
	}
	return "", fmt.Errorf("no socket owns the table %s", ownerTable)
}

// descriptor is the number by which the process has the socket.
func descriptor(pid int, inode string) (int, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && target == "socket:["+inode+"]" {
			return strconv.Atoi(e.Name())
		}
	}
	return 0, fmt.Errorf("process %d does not have socket %s", pid, inode)
}
