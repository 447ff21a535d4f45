package nft

import (
	"net/netip"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/peervip/peervip/node"
)

// While a bucket moves its old owner has it in Linger and its new owner in Adopt.
// Of every packet that both see, exactly one of them accepts, and neither needs
// the other's word for it:
//
//	packet                            own     adopt                        linger
//	TCP SYN, SCTP INIT                accept  accept                       drop
//	TCP, SCTP that conntrack knows    accept  accept                       accept
//	other TCP, other SCTP             accept  drop                         drop
//	anything else                     accept  accept                       drop
//	  with LingerAll, except ICMP     accept  drop if listed, else accept  accept if listed, else drop
//
// The last row needs a list that both have. Conntrack's word would not do in its
// place: the server's next datagram makes known again whatever is not listed.
// While the list is made its old owner has the bucket in Yield: as Linger, but of the
// last row it takes what conntrack knows, and leaves alone what is on the lists of
// still older owners. And as long as a list is missing, its new owner has it in Wary:
// as Adopt, but for the last row, which is as in Linger.
//
// What does not depend on conntrack is decided where the bucket is looked up.
// The rest is tagged there with its service and state, and decided by the tag in
// a chain behind conntrack: a packet of an owned bucket pays one look at its tag
// there, and no second hash.

const (
	// After conntrack (-200) and before destination NAT (-100), which would hide
	// whom the packet came for.
	transitionPriority = -150
	// After source NAT (100): a server behind destination NAT has the VIP for its
	// source address again.
	resetPriority = 150

	tagSet         = "transitions"
	movingAtOnceIn = "moving_at_once"
	listedSet      = "listed"
	listedPortless = "listed_portless"

	counterResetsHeld = "resets_held"

	// The most flows that are listed at a time, of each kind.
	listLimit = 1 << 17

	fragmentTag tag = 0x5056 << 16    // "PV": of a datagram that ingress saw in fragments
	firstTag        = fragmentTag + 1 // and the service and state
)

// refuses says whether the service leaves packets of buckets in the state to
// another node.
func refuses(s Service, state node.State) bool { return s.Linger != LingerNone && state != node.Own }

func refusedCounter(s Service, state node.State) string { return "refused_" + stateChain(s, state) }
func knownChain(s Service, state node.State) string     { return "known_" + stateChain(s, state) }
func movingSet(s Service) string                        { return "moving_" + s.identifier() }

func tagOf(service int, state node.State) tag {
	return firstTag + tag(4*service) + map[node.State]tag{node.Adopt: 0, node.Linger: 1, node.Yield: 2, node.Wary: 3}[state]
}

// stateRules decide about packets of the service's buckets in the state.
func stateRules(s Spec, service int, state node.State) []rule {
	of := s.Services[service]
	take := rule{count(stateChain(of, state)), setPktType("host"), accept()}
	if !refuses(of, state) {
		return []rule{take}
	}
	refuse := rule{count(refusedCounter(of, state)), drop()}
	ask := rule{setTag(tagOf(service, state)), setPktType("host"), accept()}
	rules := []rule{tcpOpens(isNot).then(ask), sctpOpens(isNot).then(ask)}
	listed := func(then rule) {
		rules = append(rules, flowIn(listedSet).then(then), portlessFlowIn(listedPortless).then(then))
	}
	switch state {
	case node.Adopt:
		if of.Linger == LingerAll {
			listed(refuse)
		}
		return append(rules, take)
	case node.Wary:
		rules = append(rules, protocolIn(movingAtOnceIn).then(take))
		listed(take)
		return append(rules, refuse)
	case node.Yield:
		rules = append(rules, protocolIn(movingAtOnceIn).then(refuse))
		listed(refuse)
		return append(rules, ask)
	}
	if of.Linger == LingerAll {
		listed(take)
	}
	return append(rules, refuse)
}

func (t term) then(r rule) rule { return append(rule{t}, r...) }

// withTransitions adds the chain behind conntrack, and the one that holds back
// resets.
func withTransitions(t table, s Spec) table {
	if !s.linger() {
		return t
	}
	tags := set{name: tagSet, typ: nftables.TypeClassID}
	t.counters = append(t.counters, counterResetsHeld, counterUntracked)
	t.chains = append(t.chains,
		chain{"transition", &hook{point: prerouting, priority: transitionPriority}, append(countUntracked(s), rule{tagged(), tagVerdict(tagSet)})},
		// What a bridge has passed up where br_netfilter is on comes to no prerouting any more.
		chain{"passed_up", &hook{point: input, priority: transitionPriority}, []rule{{tagged(), tagVerdict(tagSet)}}},
		chain{"postrouting", &hook{point: postrouting, priority: resetPriority}, []rule{
			{fromVIP(s), tcpBareReset(), gotoChain("resets")},
		}})
	resets := []rule{{ctAssured(), accept()}}
	for i, service := range s.Services {
		if service.Linger == LingerNone {
			continue
		}
		m := bucketMap{name: movingSet(service), service: i, buckets: s.Layout.Buckets, set: true, chains: map[node.State]string{}}
		for _, state := range service.states() {
			if state == node.Own {
				continue
			}
			m.chains[state] = "resets"
			known := chain{knownChain(service, state), nil, knownRules(service, state)}
			t.chains = append(t.chains, known)
			is := tagOf(i, state)
			tags.elements = append(tags.elements, element{is.String(), hostUint32(uint32(is)), known.name})
		}
		t.maps = append(t.maps, m)
		resets = append(resets, rule{dstBucketIn(s, m.name), count(counterResetsHeld), drop()})
	}
	tags.size = len(tags.elements)
	t.sets = append(t.sets, tags)
	// A handshake may be caught in a move: the client's first SYN was answered by
	// the old owner and, when the answer was lost or late, the second one by the new
	// owner. The client takes one of the two, and its next segment makes no sense to
	// the other, which would reset the connection. It is kept from it until it has
	// given up its own half of the handshake.
	t.chains = append(t.chains, chain{"resets", nil, resets})
	return t
}

// knownRules decide about tagged packets: who knows the flow takes them. A flow
// that conntrack picks up with this very packet is not known. The tag has done
// its work, and the packet's priority is put back.
func knownRules(s Service, state node.State) []rule {
	take := rule{setTag(0), count(stateChain(s, state)), accept()}
	refuse := rule{count(refusedCounter(s, state)), drop()}
	if state == node.Yield {
		// A flow whose packets nobody answers is known too, and will be listed.
		return []rule{ctEstablished().then(take), protocolIn(movingAtOnceIn).then(refuse), ctConfirmed().then(take), refuse}
	}
	return []rule{ctEstablished().then(take), refuse}
}

// movingAtOnce are the protocols whose packets, but for those of known TCP
// connections and SCTP associations, go to the new owner under LingerAll too.
// Nobody loses a flow of ICMP: an echo is answered by whoever has it.
func movingAtOnce() set {
	return set{name: movingAtOnceIn, typ: nftables.TypeInetProto, elements: []element{
		{text: "icmp", key: []byte{unix.IPPROTO_ICMP}},
		{text: "tcp", key: []byte{unix.IPPROTO_TCP}},
		{text: "sctp", key: []byte{unix.IPPROTO_SCTP}},
	}}
}

// flowLists are the sets of listed flows: of protocols with ports and of others.
func flowLists() []set {
	proto, addr, port := nftables.TypeInetProto, nftables.TypeIPAddr, nftables.TypeInetService
	return []set{
		{name: listedSet, typ: nftables.MustConcatSetType(proto, addr, port, addr, port), size: listLimit},
		{name: listedPortless, typ: nftables.MustConcatSetType(proto, addr, addr), size: listLimit},
	}
}

// listedAs returns the set that a flow is listed in, and its element there. Flows
// of some protocols are not listed: conntrack's word is enough, or they move at once.
func listedAs(f Flow) (set string, key []byte, ok bool) {
	proto := []byte{f.Protocol, 0, 0, 0} // each part fills registers of 4 bytes
	switch f.Protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_SCTP, unix.IPPROTO_ICMP:
		return "", nil, false
	case unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_DCCP:
		return listedSet, concat(proto, addrPart(f.Client.Addr()), portPart(f.Client.Port()), addrPart(f.VIP.Addr()), portPart(f.VIP.Port())), true
	}
	return listedPortless, concat(proto, addrPart(f.Client.Addr()), addrPart(f.VIP.Addr())), true
}

func addrPart(a netip.Addr) []byte { return a.AsSlice() }
func portPart(p uint16) []byte     { return append(netUint16(p), 0, 0) }

func concat(parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}
