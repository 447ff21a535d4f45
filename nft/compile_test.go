package nft

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/hashring"
	"github.com/peervip/peervip/node"
)

// What nft prints otherwise for the same: who owns a table, and the type of a
// hash, for which nft has no word.
var (
	ownerNote = regexp.MustCompile(` # progname .*|\n\tflags owner\n`)
	hashType  = regexp.MustCompile(`((?:set|map) (?:buckets|moving)_\w+ \{\n\t\ttype)(?:of numgen inc mod \d+| \w+)`)
)

func listing(s string) string {
	return hashType.ReplaceAllString(ownerNote.ReplaceAllString(s, ""), "$1 hash")
}

func TestLibraryAppliesWhatStringPrints(t *testing.T) {
	specs := map[string]func(*Spec){
		"one VIP": func(*Spec) {},
		"many VIPs": func(s *Spec) {
			s.VIPs = append(s.VIPs, netip.MustParseAddr("10.77.0.101"), netip.MustParseAddr("10.0.0.1"))
		},
		"16384 buckets": func(s *Spec) {
			s.Layout = hashring.Layout{Buckets: 16384, Seed: 1}
			s.Services[0].Name = "a-long-name-9"
		},
		"nothing lingers, no conntrack": func(s *Spec) { s.Reassembles = true },
		"nothing lingers, on a bridge":  func(s *Spec) { s.Bridge, s.Reassembles = true, true },
		"TCP lingers":                   func(s *Spec) { s.Services[0].Linger = LingerTCP },
		"everything": func(s *Spec) {
			s.VIPs = append(s.VIPs, netip.MustParseAddr("10.77.0.101"))
			withEverything(s)
		},
		"everything, and the kernel does not see routes": func(s *Spec) {
			withEverything(s)
			s.NoRoutes = true
		},
	}
	for name, change := range specs {
		t.Run(name, func(t *testing.T) {
			s := testSpec()
			change(&s)
			rules, err := Compile(s)
			if err == nil && s.BeaconPort > 0 && s.NoRoutes == strings.Contains(rules.String(), "fib daddr") {
				t.Error("a kernel without CONFIG_NFT_FIB_INET refuses these rules, or one with it could do better")
			}
			if err != nil {
				t.Fatal(err)
			}
			byText, byLibrary := namespace(t, "a"), namespace(t, "b")
			ip(t, byText, "link add eth0 type veth peer name eth1")
			ip(t, byLibrary, "link add eth0 type veth peer name eth1")

			file := filepath.Join(t.TempDir(), "rules.nft")
			if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
				t.Fatal(err)
			}
			run(t, byText, "nft -f "+file)
			f := installed(t, byLibrary, s)
			want := listing(ruleset(t, byText))
			if diff := cmp.Diff(want, listing(ruleset(t, byLibrary))); diff != "" {
				t.Errorf("nft -f (-) and the library (+) differ:\n%s", diff)
			}
			if !strings.Contains(want, "jhash ip saddr mod") {
				t.Errorf("nft lists no hash:\n%s", want)
			}

			// The listing with elements, too, is what nft makes of the same elements.
			commit(t, f, Change{Bucket: 3, State: node.Own}, Change{Bucket: 4, State: node.Adopt}, Change{Bucket: 5, State: node.Linger})
			service := s.Services[0]
			elements := " " + bucketMapName(service) + " { 3 : goto " + stateChain(service, node.Own) + ", 4 : goto " + stateChain(service, node.Adopt)
			if service.Linger != LingerNone {
				elements += ", 5 : goto " + stateChain(service, node.Linger)
				run(t, byText, "nft add element inet peervip "+movingSet(service)+" { 4, 5 }")
			}
			if s.lists() {
				commit(t, f, Change{Bucket: 6, State: node.Yield}, Change{Bucket: 7, State: node.Wary})
				elements += ", 6 : goto " + stateChain(service, node.Yield) + ", 7 : goto " + stateChain(service, node.Wary)
				run(t, byText, "nft add element inet peervip "+movingSet(service)+" { 6, 7 }")
			}
			run(t, byText, "nft add element netdev peervip"+elements+" }")
			run(t, byText, "nft add element inet peervip"+elements+" }")
			if s.BeaconPort != 0 {
				if err := f.SetPeers([]netip.Addr{netip.MustParseAddr("10.77.0.2")}); err != nil {
					t.Fatal(err)
				}
				for _, family := range []string{"netdev", "inet"} {
					run(t, byText, "nft add element "+family+" peervip peers { 10.77.0.2 }")
				}
			}
			if s.lists() {
				client := clientIn(s, 4)
				flow := Flow{Client: netip.AddrPortFrom(client, 1234), VIP: netip.AddrPortFrom(vip, 443), Protocol: unix.IPPROTO_UDP}
				portless := Flow{Client: netip.AddrPortFrom(client, 0), VIP: netip.AddrPortFrom(vip, 0), Protocol: unix.IPPROTO_GRE}
				if _, err := f.Apply(Transaction{List: []Flow{flow, portless}}); err != nil {
					t.Fatal(err)
				}
				for _, family := range []string{"netdev", "inet"} {
					run(t, byText, fmt.Sprintf("nft add element %s peervip listed { udp . %s . 1234 . %s . 443 }", family, client, vip))
					run(t, byText, fmt.Sprintf("nft add element %s peervip listed_portless { gre . %s . %s }", family, client, vip))
				}
			}
			if diff := cmp.Diff(listing(ruleset(t, byText)), listing(ruleset(t, byLibrary))); diff != "" {
				t.Errorf("after a commit nft -f (-) and the library (+) differ:\n%s", diff)
			}
		})
	}
}

func TestCompileNamesTheWrongField(t *testing.T) {
	for want, change := range map[string]func(*Spec){
		`interface: "" is no`:                    func(s *Spec) { s.Interface = "" },
		`interface: "a-name-too-long-" is no`:    func(s *Spec) { s.Interface = "a-name-too-long-" },
		`interface: "e\"0" is no`:                func(s *Spec) { s.Interface = `e"0` },
		`cluster MAC: "01:00" is not`:            func(s *Spec) { s.ClusterMAC = s.ClusterMAC[:2] },
		`VIPs: there is none`:                    func(s *Spec) { s.VIPs = nil },
		`VIPs: 2001:db8::1 is not an IPv4`:       func(s *Spec) { s.VIPs = append(s.VIPs, netip.MustParseAddr("2001:db8::1")) },
		`VIPs: invalid IP is not an IPv4`:        func(s *Spec) { s.VIPs = append(s.VIPs, netip.Addr{}) },
		`VIPs: ::ffff:10.0.0.1 is not an IPv4`:   func(s *Spec) { s.VIPs = append(s.VIPs, netip.MustParseAddr("::ffff:10.0.0.1")) },
		`VIPs: 10.77.0.100 is there twice`:       func(s *Spec) { s.VIPs = append(s.VIPs, vip) },
		`buckets: 15 is out of range`:            func(s *Spec) { s.Layout.Buckets = 15 },
		`buckets: 16385 is out of range`:         func(s *Spec) { s.Layout.Buckets = 16385 },
		`seed: 0 would`:                          func(s *Spec) { s.Layout.Seed = 0 },
		`services: there are 0`:                  func(s *Spec) { s.Services = nil },
		`services: there are 2`:                  func(s *Spec) { s.Services = append(s.Services, Service{Name: "web"}) },
		`services: the name "Web_1": use`:        func(s *Spec) { s.Services[0].Name = "Web_1" },
		`gossip port: it is not set`:             func(s *Spec) { s.GossipPort = 0 },
		`services: the name "a; flush": use low`: func(s *Spec) { s.Services[0].Name = "a; flush" },
		`services: other: there is no Linger(3)`: func(s *Spec) { s.Services[0].Linger = 3 },
		`beacon port: 7946 is the gossip port`:   func(s *Spec) { s.BeaconPort = gossipPort },
		`lease: 500µs: the kernel takes whole`:   func(s *Spec) { withEverything(s); s.Lease = 500 * time.Microsecond },
		`lease: -1s: the kernel takes whole`:     func(s *Spec) { withEverything(s); s.Lease = -time.Second },
		`arm for: 1h0m0s: want whole`:            func(s *Spec) { withEverything(s); s.ArmFor = time.Hour },
		`lease: 1.5ms: the kernel takes whole`:   func(s *Spec) { withEverything(s); s.Lease = 1500 * time.Microsecond },
		`beacon port: it is not set, and`:        func(s *Spec) { withEverything(s); s.BeaconPort = 0 },
		`lease mark: 0 is`:                       func(s *Spec) { withEverything(s); s.LeaseMark = 0 },
	} {
		s := testSpec()
		change(&s)
		if _, err := Compile(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %s", err, want)
		}
	}
}

func TestCompiledRulesDoNotShareTheSpec(t *testing.T) {
	s := testSpec()
	rules, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	before := rules.String()
	s.VIPs[0], s.ClusterMAC[5], s.Services[0].Name = netip.MustParseAddr("10.0.0.1"), 0xff, "changed"
	if diff := cmp.Diff(before, rules.String()); diff != "" {
		t.Errorf("a changed spec changed the rules:\n%s", diff)
	}
}

// The kernel removes the hooks of a dead owner's tables in the order in which
// they were made: ingress must stop marking before the guard is all there is.
func TestIngressChainIsMadeFirst(t *testing.T) {
	rules, err := Compile(testSpec())
	if err != nil {
		t.Fatal(err)
	}
	first := rules.tables[0]
	if h := first.chains[0].hook; first.family != netdev || h == nil || h.point != ingress {
		t.Errorf("first come table %s and chain %s with hook %+v", first, first.chains[0].name, h)
	}
	last := rules.tables[len(rules.tables)-1]
	if last.name != guardName || last.owned {
		t.Errorf("the last table is %s, owned %t; want the guard, not owned", last, last.owned)
	}
}
