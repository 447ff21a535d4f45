package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Keepalived is keepalived on each node of a lab without agents: the same address,
// held by one node at a time (VRRP). It is measured beside peervip.
type Keepalived struct {
	lab     *Lab
	running []*process
}

// ErrNoKeepalived says that the program is not installed.
var ErrNoKeepalived = errors.New("keepalived is not installed")

// keepalivedLimit is how long keepalived may take for anything: an election with
// adverts of 1 s takes 4 s.
const keepalivedLimit = 20 * time.Second

// StartKeepalived starts it with so much time between adverts. Below a second that
// takes VRRP version 3. All are backups that stay so while a master is heard.
func (l *Lab) StartKeepalived(adverts time.Duration) (*Keepalived, error) {
	program, err := exec.LookPath("keepalived")
	if err != nil {
		return nil, ErrNoKeepalived
	}
	k := &Keepalived{lab: l}
	l.onClose(k.stop)
	for _, n := range l.Nodes {
		file := filepath.Join(n.Dir, "keepalived.conf")
		if err := os.WriteFile(file, keepalivedConfig(n, adverts), 0o644); err != nil {
			return nil, fmt.Errorf("configuring keepalived on %s: %w", n.Name, err)
		}
		log, err := os.Create(filepath.Join(n.Dir, "keepalived.log"))
		if err != nil {
			return nil, fmt.Errorf("logging keepalived on %s: %w", n.Name, err)
		}
		cmd := exec.Command(program, "--dont-fork", "--log-console", "--vrrp", "--use-file", file,
			"--pid", filepath.Join(n.Dir, "keepalived.pid"), "--vrrp_pid", filepath.Join(n.Dir, "vrrp.pid"))
		cmd.Stdout, cmd.Stderr = log, log
		p, err := startProcess(n.NS, cmd)
		log.Close() // the child has its own descriptor
		if err != nil {
			return nil, fmt.Errorf("starting keepalived on %s: %w", n.Name, err)
		}
		k.running = append(k.running, p)
	}
	return k, nil
}

func keepalivedConfig(n *Node, adverts time.Duration) []byte {
	version := 2
	if adverts < time.Second {
		version = 3
	}
	return fmt.Appendf(nil, `global_defs {
	router_id %s
	vrrp_version %d
}
vrrp_instance lab {
	state BACKUP
	nopreempt
	interface %s
	virtual_router_id 77
	priority %d
	advert_int %g
	virtual_ipaddress {
		%s/%d dev %s
	}
}
`, n.Name, version, nodeLink, 200-n.Index, adverts.Seconds(), VIP, prefixLen, nodeLink)
}

// Failover takes down the port of the node that has the address, until another one
// answers every source, and returns what the sources saw. Then it puts the cable back.
func (k *Keepalived) Failover(ctx context.Context, talkers *Talkers) (TalkReport, error) {
	active, err := k.active(ctx, talkers, 0)
	if err != nil {
		return TalkReport{}, err
	}
	w := Window{From: k.lab.Now()}
	if err := active.Unplug(); err != nil {
		return TalkReport{}, err
	}
	if _, err := k.active(ctx, talkers, active.ID()); err != nil {
		return TalkReport{}, err
	}
	if err := sleep(ctx, 500*time.Millisecond); err != nil {
		return TalkReport{}, err
	}
	w.To = k.lab.Now()
	r := talkers.Report(w, active)
	if err := active.Plug(); err != nil {
		return r, err
	}
	return r, sleep(ctx, 1500*time.Millisecond) // until it listens again
}

// active waits until one node answers all sources, and not the one that should not.
func (k *Keepalived) active(ctx context.Context, talkers *Talkers, not NodeID) (node *Node, err error) {
	ctx, cancel := context.WithTimeout(ctx, keepalivedLimit)
	defer cancel()
	from := k.lab.Now()
	err = Poll(ctx, func() error {
		now := k.lab.Now()
		r := talkers.Report(Window{max(from, now-100*time.Millisecond), now}, nil)
		for _, n := range k.lab.Nodes {
			if n.ID() != not && r.Sources[n.ID()] == len(k.lab.Sources) && r.Answers[n.ID()] > 0 {
				node = n
				return nil
			}
		}
		return fmt.Errorf("no node has the address of keepalived: sources by node: %v", r.Sources)
	})
	return node, err
}

// stop ends keepalived and its children, and waits for them.
func (k *Keepalived) stop() {
	for _, p := range k.running {
		p.signal(unix.SIGTERM)
	}
	for _, p := range k.running {
		select {
		case <-p.done:
		case <-time.After(5 * time.Second):
			unix.Kill(-p.pid(), unix.SIGKILL) // its process group: it leads one
			<-p.done
		}
	}
}
