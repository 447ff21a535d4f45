package main

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/peervip/peervip/agent"
	"github.com/peervip/peervip/node/health"
)

func (p *parser) spec(raw rawSpec, nodeAddress netip.Addr) agent.Spec {
	s := agent.Spec{
		Revision: p.number("spec.revision", raw.Revision, 1, math.MaxInt32),
		VIPs:     p.vips(raw.VIPs, nodeAddress),
		MAC:      p.mac(raw.MAC),
		Buckets:  p.number("spec.buckets", raw.Buckets, 16, 16384),
		Seed:     uint32(raw.Seed),
		Detect:   agent.Detect{Interval: raw.Detect.Interval, Misses: raw.Detect.Misses},
	}
	if raw.Seed < 0 || raw.Seed > math.MaxUint32 {
		p.bad("spec.seed", "%d: want 0 (made from cluster.name) to %d", raw.Seed, uint32(math.MaxUint32))
	}
	p.all("spec.detect.", s.Detect.Validate(p.tick))
	s.DrainTimeout = raw.DrainTimeout
	if raw.DrainTimeout < 0 {
		p.bad("spec.drain_timeout", "%v: want 0s (cut at once) or more", raw.DrainTimeout)
	}
	s.WhenNoneHealthy = agent.NoneHealthy(p.word("spec.when_none_healthy", raw.WhenNoneHealthy,
		string(agent.ServeAnyway), string(agent.DropAll)))
	s.Services = p.services(raw.Services)
	if n := countServices(raw.Services); raw.Buckets <= 16384 {
		p.all("", agent.CheckSlots(n, raw.Buckets))
	}
	return s
}

// all takes over joined errors whose lines begin with a key.
func (p *parser) all(prefix string, err error) {
	if err == nil {
		return
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			p.all(prefix, e)
		}
		return
	}
	key, text, _ := strings.Cut(err.Error(), ": ")
	p.bad(prefix+key, "%s", text)
}

func (p *parser) vips(texts []string, nodeAddress netip.Addr) []netip.Addr {
	const key = "spec.vips"
	if len(texts) == 0 {
		p.bad(key, "required: give the address that the nodes share: in the file, with --vip or %s", envName(key))
	}
	var vips []netip.Addr
	for i, text := range texts {
		at := fmt.Sprintf("%s[%d]", key, i)
		vip := p.address(at, text)
		switch {
		case !vip.IsValid():
			continue
		case slices.Contains(vips, vip):
			p.bad(at, "%v is there twice: take one out", vip)
		case vip == nodeAddress:
			p.bad(at, "%v is node.address: a VIP must not be any node's own address", vip)
		}
		vips = append(vips, vip)
	}
	return vips
}

// mac wants one of the two modes or an address that switches carry to every node.
func (p *parser) mac(text string) string {
	const key = "spec.mac"
	if text == "multicast" || text == "unicast" {
		return text
	}
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 {
		p.bad(key, "%s: want multicast, unicast or an address like 02:bf:01:02:03:04", quoted(text))
		return text
	}
	switch {
	case slices.Max(mac) == 0 || slices.Min(mac) == 0xff:
		p.bad(key, "%s is no address of a cluster: want multicast, unicast or an address like 02:bf:01:02:03:04", mac)
	case slices.Equal(mac[:5], []byte{0x01, 0x80, 0xc2, 0x00, 0x00}) && mac[5] <= 0x0f:
		// IEEE 802.1Q, table 8-1: reserved addresses
		p.bad(key, "%s is kept by switches for themselves and never passed on: use another", mac)
	}
	return mac.String()
}

// countServices counts the services of the file, and the one that always exists.
func countServices(raw []rawService) int {
	names := map[string]bool{agent.OtherService: true}
	for _, r := range raw {
		names[r.Name] = true
	}
	return len(names)
}

// services wants at most the one service that always exists. Traffic classes of
// their own, with ports, are refused rather than ignored.
func (p *parser) services(raw []rawService) []agent.Service {
	other := agent.Service{Name: agent.OtherService, Affinity: agent.AffinityClient, Mode: agent.ModeShared, Linger: agent.LingerTCP}
	seen := false
	for i, r := range raw {
		at := fmt.Sprintf("spec.services[%d].", i)
		switch {
		case r.Name == "":
			p.bad(at+"name", "required: want %s, the service of all traffic", agent.OtherService)
			continue
		case r.Name != agent.OtherService:
			p.bad(at+"name", "%s: services of their own are not supported yet: only %s, the service of all traffic", shown(r.Name), agent.OtherService)
			continue
		case seen:
			p.bad(at+"name", "%s is there twice: take one out", r.Name)
			continue
		}
		seen = true
		if len(r.Ports) > 0 {
			p.bad(at+"ports", "%s is the service of all traffic that no service names: it has no ports: take them out", agent.OtherService)
		}
		if r.Affinity != "" {
			other.Affinity = agent.Affinity(p.supported(at+"affinity", r.Affinity, []string{"client"}, []string{"network", "connection"}))
		}
		if r.Mode != "" {
			other.Mode = agent.Mode(p.supported(at+"mode", r.Mode, []string{"shared", "single"}, []string{"disabled"}))
		}
		if other.Preempt = r.Preempt; r.Preempt && other.Mode != agent.ModeSingle {
			p.bad(at+"preempt", "true: only for mode single, in which it sends the service back to the node of the highest weight: take it out")
		}
		if r.Linger != "" {
			other.Linger = agent.Linger(p.word(at+"linger", r.Linger, "tcp", "all", "none"))
		}
		other.Health = p.health(at+"health", r.Health)
	}
	return []agent.Service{other}
}

// supported tells a word that comes later from one that means nothing.
func (p *parser) supported(key, word string, now, later []string) string {
	if slices.Contains(later, word) {
		p.bad(key, "%s is not supported yet: want %s", word, orList(now))
		return word
	}
	return p.word(key, word, now...)
}

func (p *parser) health(key string, raw []rawHealth) []health.Check {
	var checks []health.Check
	for i, r := range raw {
		check, err := health.Options(r).Parse()
		if err != nil {
			p.all(fmt.Sprintf("%s[%d].", key, i), err)
			continue
		}
		checks = append(checks, check)
	}
	return checks
}
