package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/peervip/peervip/gossip"
	"github.com/peervip/peervip/node"
)

// meta is what a node announces with its membership. It must fit gossip.MaxMeta.
type meta struct {
	FormatMin    int    `json:"fmin"`
	FormatMax    int    `json:"fmax"`
	BeaconMin    int    `json:"bmin,omitempty"` // formats of beacons; 0: only the first
	BeaconMax    int    `json:"bmax,omitempty"`
	Nonce        uint64 `json:"nonce"`
	BeaconPort   uint16 `json:"beacon"`
	SpecRevision int    `json:"rev"`
	SpecDigest   string `json:"spec"`
}

func (c Config) meta(nonce uint64) meta {
	return meta{
		FormatMin: node.FormatMin, FormatMax: node.FormatMax, BeaconMin: node.BeaconMin, BeaconMax: node.BeaconMax,
		Nonce: nonce, BeaconPort: c.BeaconPort,
		SpecRevision: c.Spec.Revision, SpecDigest: c.Spec.Digest(),
	}
}

func (m meta) encode() []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("encoding metadata of our own: %v", err))
	}
	return b
}

// peerAlive turns a member's metadata into the core's event.
func peerAlive(m gossip.Member) (node.PeerAlive, error) {
	var said meta
	if err := json.Unmarshal(m.Meta, &said); err != nil {
		return node.PeerAlive{}, badMeta(m.Name, err)
	}
	if said.FormatMax < node.FormatMin || said.FormatMin > node.FormatMax {
		return node.PeerAlive{}, fmt.Errorf("%s speaks formats %d to %d, this program %d to %d: run versions that are nearer to each other",
			m.Name, said.FormatMin, said.FormatMax, node.FormatMin, node.FormatMax)
	}
	said.BeaconMin, said.BeaconMax = max(said.BeaconMin, 1), max(said.BeaconMax, 1)
	if said.BeaconMax < node.BeaconMin || said.BeaconMin > node.BeaconMax {
		return node.PeerAlive{}, fmt.Errorf("%s reads the formats %d to %d of beacons, this program %d to %d: run versions that are nearer to each other",
			m.Name, said.BeaconMin, said.BeaconMax, node.BeaconMin, node.BeaconMax)
	}
	addr := m.Addr.Addr().Unmap()
	if !addr.Is4() {
		return node.PeerAlive{}, fmt.Errorf("%s is at %s, and only IPv4 is spoken here: give it an IPv4 address in node.address", m.Name, addr)
	}
	if said.Nonce == 0 {
		return node.PeerAlive{}, badMeta(m.Name, errors.New("it has no boot nonce"))
	}
	digest, err := parseDigest(said.SpecDigest)
	if err != nil {
		return node.PeerAlive{}, badMeta(m.Name, err)
	}
	return node.PeerAlive{
		Incarnation: node.Incarnation{Name: m.Name, Nonce: said.Nonce}, Address: addr.String(),
		SpecRevision: said.SpecRevision, SpecDigest: digest,
		Reads: node.Formats{Message: uint8(min(said.FormatMax, 255)), Beacon: uint8(min(said.BeaconMax, 255))},
	}, nil
}

func badMeta(name string, err error) error {
	return fmt.Errorf("what %s announces cannot be read (%w): is it a peervip of another version?", name, err)
}

// digest is Digest as a number.
func (s Spec) digest() uint64 {
	d, err := parseDigest(s.Digest())
	if err != nil {
		panic(fmt.Sprintf("reading a digest of our own: %v", err))
	}
	return d
}

func parseDigest(text string) (uint64, error) {
	digest, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("spec digest %q: %w", text, err)
	}
	return digest, nil
}

// exchange is what two nodes tell each other whole, at the join and now and then.
type exchange struct {
	Name     string            `json:"name"`
	Spec     json.RawMessage   `json:"spec"`
	Messages []json.RawMessage `json:"messages"`
}

func encodeExchange(name string, spec Spec, messages []*node.Message) []byte {
	text, err := json.Marshal(spec)
	if err != nil {
		panic(fmt.Sprintf("encoding a spec of our own: %v", err))
	}
	x := exchange{Name: name, Spec: text}
	for _, m := range messages {
		x.Messages = append(x.Messages, m.Encode())
	}
	b, err := json.Marshal(x)
	if err != nil {
		panic(fmt.Sprintf("encoding a state exchange of our own: %v", err))
	}
	return b
}

// toldExchange is what could be read of an exchange.
type toldExchange struct {
	name     string
	spec     *Spec // nil: it cannot be read
	messages []*node.Message
	unread   error // why that is not all; nil: it is
}

// decodeExchange reads what another node tells. One of a later version may tell
// more than this program can read; the rest is told all the same.
func decodeExchange(b []byte) (toldExchange, error) {
	var x exchange
	if err := json.Unmarshal(b, &x); err != nil {
		return toldExchange{}, fmt.Errorf("decoding a state exchange: %w", err)
	}
	if x.Name == "" {
		return toldExchange{}, errors.New("decoding a state exchange: it names no sender")
	}
	told := toldExchange{name: x.Name, spec: new(Spec)}
	if err := json.Unmarshal(x.Spec, told.spec); err != nil {
		told.spec, told.unread = nil, fmt.Errorf("decoding the spec of %s: %w", x.Name, err)
	}
	for _, raw := range x.Messages {
		m, err := node.Decode(raw)
		if err != nil {
			told.unread = errors.Join(told.unread, err)
			continue
		}
		told.messages = append(told.messages, m)
	}
	return told, nil
}
