package node

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/peervip/peervip/hashring"
)

// Flow names a flow of a protocol without connections, UDP above all: nothing in
// its packets tells two nodes which of them it belongs to, only a list does.
type Flow struct {
	Protocol    uint8          // IANA
	Client, VIP netip.AddrPort // port 0 where the protocol has none
}

// FlowList is a list of flows; as text, base64url of 14 bytes for each of IPv4.
type FlowList []Flow

// SlotFlows are the listed flows of one slot.
type SlotFlows struct {
	Slot  Slot     `json:"slot"`
	Flows FlowList `json:"flows"`
}

// Listing is a list that a node keeps: the slots on which it lingers and of which
// there are listed flows. It goes on with those; whoever has one of the slots must
// leave them to it. What is listed of a slot under one ID never changes; under 0 there
// is nothing yet, and all flows without connections must be left to it.
type Listing struct {
	ID    uint64       `json:"id"`
	Slots hashring.Set `json:"slots"`
}

// listToCome is the ID of a list that is still being made.
const listToCome = 0

// Keeping says whose listing it is, and which version of the keeper's statement
// shows it.
type Keeping struct {
	Keeper  Incarnation `json:"keeper"`
	Version uint64      `json:"version"`
	Listing
}

// ListAsk asks a keeper for what it has listed of the slots.
type ListAsk struct {
	ID    uint64       `json:"id"`
	Slots hashring.Set `json:"slots"`
}

// Lists answers: what the sender has listed under the ID of these slots, whole. One
// ListAsk may be answered in several parts.
type Lists struct {
	ID    uint64      `json:"id"`
	Slots []SlotFlows `json:"slots"`
}

// MaxListed is the most flows that a node keeps by lists at a time. The others move
// at once, as they would without lists. Each listed flow adds some 15 us to the time
// in which new flows without connections wait.
const MaxListed = 8192

// listsPart is how many flows go into one message, some 40 KB, and so the most that
// are listed of one slot: a message must fit a datagram where gossip does not reach.
const listsPart = 2048

// MarshalText writes for each flow: protocol, bytes of an address, client's address
// and port, VIP's address and port.
func (l FlowList) MarshalText() ([]byte, error) {
	var raw []byte
	for _, f := range l {
		client, vip := f.Client.Addr().AsSlice(), f.VIP.Addr().AsSlice()
		if len(client) != len(vip) || len(client) == 0 {
			return nil, fmt.Errorf("a flow from %s to %s", f.Client, f.VIP)
		}
		raw = append(raw, f.Protocol, byte(len(client)))
		raw = binary.BigEndian.AppendUint16(append(raw, client...), f.Client.Port())
		raw = binary.BigEndian.AppendUint16(append(raw, vip...), f.VIP.Port())
	}
	return base64.RawURLEncoding.AppendEncode(nil, raw), nil
}

// UnmarshalText reads what MarshalText writes.
func (l *FlowList) UnmarshalText(text []byte) error {
	raw, err := base64.RawURLEncoding.AppendDecode(nil, text)
	if err != nil {
		return fmt.Errorf("decoding a list of flows: %w", err)
	}
	var list FlowList
	for len(raw) > 0 {
		f, rest, err := cutFlow(raw)
		if err != nil {
			return fmt.Errorf("decoding a list of flows: %w", err)
		}
		list, raw = append(list, f), rest
	}
	*l = list
	return nil
}

func cutFlow(raw []byte) (f Flow, rest []byte, err error) {
	if len(raw) < 2 {
		return f, nil, errors.New("it is cut short")
	}
	size := int(raw[1])
	if size != 4 && size != 16 {
		return f, nil, fmt.Errorf("an address of %d bytes", size)
	}
	if len(raw) < 2+2*(size+2) {
		return f, nil, errors.New("it is cut short")
	}
	end := func(b []byte) netip.AddrPort {
		addr, _ := netip.AddrFromSlice(b[:size])
		return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[size:]))
	}
	f = Flow{Protocol: raw[0], Client: end(raw[2:]), VIP: end(raw[2+size+2:])}
	return f, raw[2+2*(size+2):], nil
}

// parts splits lists of one ID into messages.
func (l Lists) parts() []*Message {
	var all []*Message
	part, flows := &Lists{ID: l.ID}, 0
	for _, s := range l.Slots {
		if flows > 0 && flows+len(s.Flows) > listsPart {
			all = append(all, &Message{Lists: part})
			part, flows = &Lists{ID: l.ID}, 0
		}
		part.Slots, flows = append(part.Slots, s), flows+len(s.Flows)
	}
	if len(part.Slots) > 0 {
		all = append(all, &Message{Lists: part})
	}
	return all
}
