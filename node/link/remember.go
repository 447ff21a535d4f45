package link

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Changes are settings of the host that are still to be put back: by this life of
// the node, or by a later one.
type Changes struct {
	// Host is the boot of the kernel, and the network namespace, in which they were
	// made. Anywhere else they mean nothing.
	Host     string    `json:"host"`
	Settings []Setting `json:"settings"`
}

// Setting is one of net.ipv4.conf that was changed.
type Setting struct {
	Where string `json:"where"` // "all", or the interface's name
	Key   string `json:"key"`
	Index int    `json:"index"` // the interface's; 0: all
	Found int    `json:"found"`
	Set   int    `json:"set"`
}

// hostID tells this boot and the calling thread's network namespace from all others.
// The kernel gives a namespace's cookie away once only (net/core/net_namespace.c).
func hostID() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("reading the boot's id: %w", err)
	}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("opening a socket: %w", err)
	}
	cookie, err := unix.GetsockoptUint64(socket, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err = errors.Join(err, unix.Close(socket)); err != nil {
		return "", fmt.Errorf("reading the network namespace's cookie: %w", err)
	}
	return fmt.Sprintf("%s/%d", strings.TrimSpace(string(boot)), cookie), nil
}

// recall takes over what an earlier life has changed on this host, as far as it is
// still as that life has made it: what somebody has changed since is what he wants,
// and what belonged to an interface went with it.
func (l *Link) recall(here device) {
	host, err := hostID()
	if err != nil {
		l.log.Warn("what is changed on this host cannot be remembered: an agent that is killed leaves its sysctls", "error", err)
		l.config.Remember = nil
		return
	}
	if l.kept.Host = host; l.config.Changes.Host != host {
		return
	}
	l.kept.Settings = l.config.Changes.Settings
	for _, old := range l.kept.Settings {
		s := &sysctl{where: old.Where, key: old.Key, want: old.Set, note: l.noted, index: old.Index, changed: true, found: old.Found}
		if on := here; old.Where != "all" {
			if old.Where != l.config.Interface {
				on, err = readDevice(old.Where)
			}
			if err != nil {
				continue
			}
			if on.index != old.Index { // it went, or has another name now
				if s.where = nameOf(old.Index); s.where == "" {
					continue
				}
			}
		}
		if now, err := s.read(); err != nil || now != old.Set {
			continue
		}
		if mine := l.sysctl(s.where, s.key); mine != nil && mine.want == s.want {
			mine.index, mine.changed, mine.found = s.index, true, s.found
		} else {
			l.stale = append(l.stale, s)
		}
	}
}

// sysctl is the hold of that setting, or nil.
func (l *Link) sysctl(where, key string) *sysctl {
	for _, h := range l.holds {
		if s, ok := h.(*sysctl); ok && s.where == where && s.key == key {
			return s
		}
	}
	return nil
}

// noted is called before a setting is changed. The caller holds l.mu.
func (l *Link) noted(s *sysctl) {
	l.log.Info("changing a setting of this host; a clean stop puts it back", "setting", s, "from", s.found, "to", s.want)
	l.remember()
}

// remember has what is changed kept for a later life, if that is news. The caller
// holds l.mu.
func (l *Link) remember() {
	if l.config.Remember == nil {
		return
	}
	changes := Changes{Host: l.kept.Host, Settings: []Setting{}}
	add := func(s *sysctl) {
		if s.changed {
			changes.Settings = append(changes.Settings, Setting{Where: s.where, Key: s.key, Index: s.index, Found: s.found, Set: s.want})
		}
	}
	for _, h := range l.holds {
		switch h := h.(type) {
		case *sysctl:
			add(h)
		case *segmentMates:
			for _, s := range h.settings {
				add(s)
			}
		}
	}
	for _, s := range l.stale {
		add(s)
	}
	if slices.Equal(changes.Settings, l.kept.Settings) {
		return
	}
	if err := l.config.Remember(changes); err != nil {
		if l.forgetful == nil {
			l.log.Warn("what is changed on this host is not remembered: an agent that is killed now leaves its sysctls", "error", err)
		}
		l.forgetful = err
		return
	}
	l.kept, l.forgetful = changes, nil
}

// LeftUp reports whether Open found a VIP up that an earlier life has left, for its
// flows to go on.
func (l *Link) LeftUp() bool { return l.leftUp }

// Discard takes back what an earlier life has left and this one has no use for: VIPs
// that are no longer configured, settings of another interface.
func (l *Link) Discard() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.discard()
}

// discard is Discard for who holds l.mu.
func (l *Link) discard() error {
	addresses, err := readAddresses()
	errs := []error{err}
	for _, a := range addresses {
		if a.isOurs() && !slices.Contains(l.config.VIPs, a.addr) {
			l.log.Info("removing from lo what was a VIP in an earlier run", "address", a.addr)
			errs = append(errs, (&vipOnLo{a.addr}).release())
		}
	}
	for _, s := range l.stale {
		errs = append(errs, s.release())
	}
	l.remember()
	return errors.Join(errs...)
}
