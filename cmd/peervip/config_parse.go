package main

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/peervip/peervip/agent"
)

// maxSocketPath is what fits into a unix socket's address with its closing zero
// (unix(7)).
const maxSocketPath = 107

// maxInterfaceName is ALTIFNAMSIZ without the closing zero: a longer name than IFNAMSIZ
// allows may be an alternative one, and the agent then says which is the right one.
const maxInterfaceName = 127

// parser collects what is wrong while it makes final values of raw ones.
type parser struct {
	tick   time.Duration // of the kernel's clock
	faults []keyError
}

func (p *parser) bad(key, format string, args ...any) {
	p.faults = append(p.faults, keyError{key, fmt.Sprintf(format, args...)})
}

// parseConfig checks the values and makes the final ones. It asks for the host
// name only if it needs it, and reads the key file; else it is pure.
func parseConfig(raw rawConfig, hostname func() (string, error), tick time.Duration) (agent.Config, []keyError) {
	p := &parser{tick: tick}
	c := agent.Config{
		Name:      p.nodeName(raw.Node.Name, hostname),
		Interface: p.interfaceName(raw.Node.Interface),
		Address:   p.nodeAddress(raw.Node.Address),
		Weight:    p.number("node.weight", raw.Node.Weight, 1, 1000),
		StateDir:  p.absolute("node.state_dir", raw.Node.StateDir),
		Cluster:   p.name("cluster.name", raw.Cluster.Name),
		Insecure:  raw.Cluster.Insecure,
		Port:      uint16(p.number("cluster.port", raw.Cluster.Port, 1, 65535)),
	}
	c.BeaconPort = uint16(p.number("cluster.beacon_port", raw.Cluster.BeaconPort, 1, 65535))
	if raw.Cluster.BeaconPort == raw.Cluster.Port {
		p.bad("cluster.beacon_port", "%d is cluster.port too: both are UDP ports: give them different numbers", raw.Cluster.BeaconPort)
	}
	c.Join = p.join(raw.Cluster.Join, c.Port)
	c.Keys = p.keys(raw.Cluster)
	c.Spec = p.spec(raw.Spec, c.Address)
	c.Socket = p.absolute("control.socket", raw.Control.Socket)
	if len(c.Socket) > maxSocketPath {
		p.bad("control.socket", "%d bytes long: a unix socket's path has at most %d", len(c.Socket), maxSocketPath)
	}
	if raw.HTTP.Listen != "" {
		p.bad("http.listen", "metrics and dashboard are not supported yet: leave it out")
	}
	if raw.Hooks.OnChange != "" {
		p.bad("hooks.on_change", "hooks are not supported yet: leave it out")
	}
	c.LogLevel = p.logLevel(raw.Log.Level)
	c.LogFormat = p.word("log.format", raw.Log.Format, "text", "json")
	return c, p.faults
}

func (p *parser) nodeName(name string, hostname func() (string, error)) string {
	const key = "node.name"
	if name != "" {
		return p.name(key, name)
	}
	name, err := hostname()
	if err != nil {
		p.bad(key, "not set, and the host name cannot be had: %v: set it, with --name or %s", err, envName(key))
	} else if !isName(name) {
		p.bad(key, "not set, and the host name %s is none: want 1 to 63 letters, digits, dots, dashes or underscores: set it, with --name or %s", quoted(name), envName(key))
	}
	return name
}

// isName is the rule for names of nodes and clusters: what fits in a host name's
// label or file name, and in a line of a table.
func isName(name string) bool {
	return len(name) >= 1 && len(name) <= 63 && !strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	})
}

func (p *parser) name(key, name string) string {
	if !isName(name) {
		p.bad(key, "%s: want 1 to 63 letters, digits, dots, dashes or underscores", quoted(name))
	}
	return name
}

func (p *parser) interfaceName(name string) string {
	const key = "node.interface"
	switch {
	case name == "":
		p.bad(key, "required: name the network interface that carries the VIPs: in the file, with --interface or %s", envName(key))
	case name == "lo":
		p.bad(key, "lo reaches no other node: name the network interface that carries the VIPs")
	case len(name) > maxInterfaceName || name == "." || name == ".." ||
		strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r == ':' || r == 0x7f }):
		p.bad(key, "%s is no name of an interface: see `ip link`", quoted(name))
	}
	return name
}

func (p *parser) nodeAddress(text string) netip.Addr {
	if text == "" {
		return netip.Addr{}
	}
	return p.address("node.address", text)
}

// address wants an IPv4 address that one machine can have.
func (p *parser) address(key, text string) netip.Addr {
	address, err := netip.ParseAddr(text)
	switch {
	case err != nil && strings.Contains(text, "/"):
		p.bad(key, "%s: want an address without the length of its network", quoted(text))
	case err != nil:
		p.bad(key, "%s is no IP address", quoted(text))
	case !address.Is4():
		p.bad(key, "%s: IPv6 is not supported yet: use an IPv4 address", address.WithZone(""))
	case address.IsUnspecified(), address == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		p.bad(key, "%s is no address of a machine", address)
	case address.IsLoopback():
		p.bad(key, "%s is a loopback address: no other machine reaches it", address)
	case address.IsMulticast():
		p.bad(key, "%s is a multicast address: want one of a machine", address)
	default:
		return address
	}
	return netip.Addr{}
}

func (p *parser) number(key string, n, low, high int) int {
	if n < low || n > high {
		p.bad(key, "%d: want %d to %d", n, low, high)
		return low
	}
	return n
}

func (p *parser) absolute(key, path string) string {
	if !filepath.IsAbs(path) {
		p.bad(key, "%s: want an absolute path, one that begins with /", quoted(path))
	}
	return filepath.Clean(path)
}

func (p *parser) word(key, word string, known ...string) string {
	for _, k := range known {
		if word == k {
			return word
		}
	}
	p.bad(key, "%s: want %s", quoted(word), orList(known))
	return word
}

func orList(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

func (p *parser) logLevel(text string) slog.Level {
	var level slog.Level
	switch p.word("log.level", text, "debug", "info", "warn", "error") {
	case "debug":
		level = slog.LevelDebug
	case "warn":
		level = slog.LevelWarn
	case "error":
		level = slog.LevelError
	}
	return level
}

// join makes HOST:PORT of each seed.
func (p *parser) join(seeds []string, defaultPort uint16) []string {
	var all []string
	for i, seed := range seeds {
		host, port, ok := splitSeed(seed, defaultPort)
		if !ok {
			p.bad(fmt.Sprintf("cluster.join[%d]", i), "%s: want HOST or HOST:PORT (an IPv6 address with a port: [2001:db8::1]:%d)", quoted(seed), defaultPort)
			continue
		}
		all = append(all, net.JoinHostPort(host, port))
	}
	return all
}

func splitSeed(seed string, defaultPort uint16) (host, port string, ok bool) {
	port = strconv.Itoa(int(defaultPort))
	bare := seed
	if strings.HasPrefix(seed, "[") && strings.HasSuffix(seed, "]") {
		bare = seed[1 : len(seed)-1]
	}
	if address, err := netip.ParseAddr(bare); err == nil {
		return address.String(), port, !address.IsUnspecified() && !address.IsMulticast()
	}
	host = seed
	if strings.Contains(seed, ":") {
		var err error
		if host, port, err = net.SplitHostPort(seed); err != nil {
			return "", "", false
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", "", false
	}
	if address, err := netip.ParseAddr(host); err == nil {
		return host, port, !address.IsUnspecified() && !address.IsMulticast()
	}
	return host, port, isHostName(host)
}

// isHostName is generous: the resolver has the last word.
func isHostName(host string) bool {
	return len(host) >= 1 && len(host) <= 253 && !strings.HasPrefix(host, "-") && !strings.HasPrefix(host, ".") &&
		!strings.ContainsFunc(host, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
		})
}
