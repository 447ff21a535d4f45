package hashring_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/e2e/lab"
	"github.com/peervip/peervip/hashring"
)

// kernelQuestion is an nft jhash expression that the kernel is asked to compute
// for every packet of one family, and this package's answer.
type kernelQuestion struct {
	family, expr string // "ip" or "ip6"; what is hashed
	layout       hashring.Layout
	answer       func(client netip.AddrPort, l hashring.Layout) int
}

// The addresses that all packets are sent to.
var kernelTargets = map[string]netip.Addr{
	"ip":  netip.MustParseAddr("127.0.0.1"),
	"ip6": netip.IPv6Loopback(),
}

// kernelQuestions asks for clients under many seeds and numbers of buckets, and
// for keys of other lengths under one each.
func kernelQuestions() []kernelQuestion {
	var questions []kernelQuestion
	for _, seed := range []uint32{1, 1 << 31, 1<<32 - 1, randomSeed(), randomSeed(), randomSeed()} {
		for _, m := range []int{hashring.MinBuckets, 1000, 1024, hashring.MaxBuckets, randomBuckets()} {
			l := hashring.Layout{Buckets: m, Seed: seed}
			questions = append(questions,
				kernelQuestion{"ip", "ip saddr", l, clientBucket},   // 4 bytes
				kernelQuestion{"ip6", "ip6 saddr", l, clientBucket}) // 16
		}
	}
	l := hashring.Layout{Buckets: randomBuckets(), Seed: randomSeed()}
	return append(questions,
		kernelQuestion{"ip", "ip saddr . udp sport", l, flowBucket},               // 8
		kernelQuestion{"ip6", "ip6 saddr . udp sport", l, flowBucket},             // 20
		kernelQuestion{"ip", "ip saddr . ip daddr . udp sport", l, pairBucket},    // 12
		kernelQuestion{"ip6", "ip6 saddr . ip6 daddr . udp sport", l, pairBucket}) // 36
}

func randomSeed() uint32 { return rand.Uint32N(1<<32-1) + 1 }

func randomBuckets() int {
	return hashring.MinBuckets + rand.IntN(hashring.MaxBuckets-hashring.MinBuckets+1)
}

func clientBucket(client netip.AddrPort, l hashring.Layout) int { return l.Bucket(client.Addr()) }

// flowBucket hashes address and port; the kernel pads the port with zeros.
func flowBucket(client netip.AddrPort, l hashring.Layout) int {
	key := append(client.Addr().AsSlice(), 0, 0, 0, 0)
	binary.BigEndian.PutUint16(key[len(key)-4:], client.Port())
	return hashring.Scale(hashring.Jhash(key, l.Seed), l.Buckets)
}

// pairBucket hashes source and destination address and the source port.
func pairBucket(client netip.AddrPort, l hashring.Layout) int {
	target := kernelTargets["ip"]
	if client.Addr().Is6() {
		target = kernelTargets["ip6"]
	}
	key := append(client.Addr().AsSlice(), target.AsSlice()...)
	key = append(key, 0, 0, 0, 0)
	binary.BigEndian.PutUint16(key[len(key)-4:], client.Port())
	return hashring.Scale(hashring.Jhash(key, l.Seed), l.Buckets)
}

// The live kernel decides: packets from random addresses go over the loopback of
// a namespace, whose ingress hook notes in sets what nft's jhash makes of them.
func TestBucketIsTheLiveKernels(t *testing.T) {
	const clients = 400
	ns, err := lab.NewNamespace(lab.UniquePrefix() + "a")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	}()

	questions := kernelQuestions()
	if _, err := ns.Run("nft", kernelScript(questions, clients)); err != nil {
		t.Fatal(err)
	}

	sources := map[string]map[netip.Addr]uint16{
		"ip":  randomClients(4, clients),
		"ip6": randomClients(16, clients),
	}
	for family, target := range kernelTargets {
		err := ns.Do(func() error { return sendFrom(sources[family], target) })
		if err != nil {
			t.Fatal(err)
		}
	}

	compared := 0
	for i, q := range questions {
		want := map[netip.Addr]int{}
		for addr, port := range sources[q.family] {
			want[addr] = q.answer(netip.AddrPortFrom(addr, port), q.layout)
		}
		got := waitForAnswers(t, ns, i, len(want))
		if !maps.Equal(got, want) {
			for addr := range want {
				if got[addr] != want[addr] {
					t.Errorf("jhash %s mod %d seed %#x of %s: the kernel says %d, we say %d",
						q.expr, q.layout.Buckets, q.layout.Seed, addr, got[addr], want[addr])
				}
			}
			t.Fatalf("the kernel noted %d addresses of %d", len(got), len(want))
		}
		compared += len(want)
	}
	t.Logf("%d buckets of %d questions are the kernel's", compared, len(questions))
}

// kernelScript is a ruleset for lo that adds what it hashes of each packet to
// question i's set s<i>, as (source address, bucket).
func kernelScript(questions []kernelQuestion, clients int) string {
	var sets, rules strings.Builder
	for i, q := range questions {
		fmt.Fprintf(&sets, "add set netdev asked s%d { typeof %s saddr . meta mark; flags dynamic; size %d; }\n", i, q.family, 4*clients)
		fmt.Fprintf(&rules, "add rule netdev asked in meta mark set jhash %s mod %d seed %#x update @s%d { %s saddr . meta mark }\n",
			q.expr, q.layout.Buckets, q.layout.Seed, i, q.family)
	}
	return "add table netdev asked\n" + sets.String() +
		"add chain netdev asked in { type filter hook ingress device lo priority 0; }\n" +
		"add rule netdev asked in meta l4proto != udp accept\n" + // ICMP errors about them
		rules.String()
}

// randomClients returns that many random addresses, none of them special to a
// raw socket, each with a port.
func randomClients(bytes, count int) map[netip.Addr]uint16 {
	clients := map[netip.Addr]uint16{}
	for len(clients) < count {
		raw := make([]byte, bytes)
		for i := range raw {
			raw[i] = byte(rand.Uint32())
		}
		addr, _ := netip.AddrFromSlice(raw)
		if addr.IsUnspecified() || addr.Is4In6() {
			continue
		}
		clients[addr] = uint16(rand.Uint32())
	}
	return clients
}

// sendFrom sends an empty UDP datagram from each of the addresses and ports to
// the target, IP headers included (raw(7), IPPROTO_RAW).
func sendFrom(sources map[netip.Addr]uint16, target netip.Addr) error {
	domain, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: target.As16()})
	if target.Is4() {
		domain, to = unix.AF_INET, &unix.SockaddrInet4{Addr: target.As4()}
	}
	fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return fmt.Errorf("opening a raw socket: %w", err)
	}
	defer unix.Close(fd)
	for addr, port := range sources {
		if err := unix.Sendto(fd, rawDatagram(addr, target, port), 0, to); err != nil {
			return fmt.Errorf("sending from %s to %s: %w", addr, target, err)
		}
	}
	return nil
}

// rawDatagram is an empty UDP datagram (RFC 768) in an IPv4 or IPv6 packet; the
// kernel fills in IPv4's length and checksum.
func rawDatagram(from, to netip.Addr, port uint16) []byte {
	const udpSize, hops = 8, 64
	var p []byte
	if from.Is4() {
		p = []byte{0x45, 19: 0}
		p[8], p[9] = hops, unix.IPPROTO_UDP
		copy(p[12:], from.AsSlice())
		copy(p[16:], to.AsSlice())
	} else {
		p = []byte{0x60, 39: 0}
		p[5], p[6], p[7] = udpSize, unix.IPPROTO_UDP, hops
		copy(p[8:], from.AsSlice())
		copy(p[24:], to.AsSlice())
	}
	p = binary.BigEndian.AppendUint16(p, port)
	p = binary.BigEndian.AppendUint16(p, 9) // discard
	p = binary.BigEndian.AppendUint16(p, udpSize)
	return binary.BigEndian.AppendUint16(p, 0)
}

// waitForAnswers reads the set of question i until it has that many elements,
// and returns its buckets by address.
func waitForAnswers(t *testing.T, ns *lab.Namespace, i, count int) map[netip.Addr]int {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		out, err := ns.Run("nft", "-j", "list", "set", "netdev", "asked", fmt.Sprintf("s%d", i))
		if err != nil {
			t.Fatal(err)
		}
		answers, err := parseAnswers(out)
		if err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		if len(answers) >= count || time.Now().After(deadline) {
			return answers
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func parseAnswers(listing string) (map[netip.Addr]int, error) {
	var doc struct {
		Nftables []struct {
			Set struct {
				Elem []struct{ Concat []json.RawMessage }
			}
		}
	}
	if err := json.Unmarshal([]byte(listing), &doc); err != nil {
		return nil, err
	}
	answers := map[netip.Addr]int{}
	for _, object := range doc.Nftables {
		for _, elem := range object.Set.Elem {
			if len(elem.Concat) != 2 {
				return nil, fmt.Errorf("an element of %d parts", len(elem.Concat))
			}
			var addr netip.Addr
			var bucket int
			if err := json.Unmarshal(elem.Concat[0], &addr); err != nil {
				return nil, err
			}
			if err := json.Unmarshal(elem.Concat[1], &bucket); err != nil {
				return nil, err
			}
			if other, twice := answers[addr]; twice && other != bucket {
				return nil, fmt.Errorf("%s has the buckets %d and %d", addr, other, bucket)
			}
			answers[addr] = bucket
		}
	}
	return answers, nil
}
