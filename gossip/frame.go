package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A message between two nodes is one byte of kind and the rest:
//
//	1 goodbye   length of the name (uvarint), name; length of the Meta, Meta
//	2 payloads  each of some Sends: length (uvarint), bytes
//
// memberlist knows who left and who died, but does not tell its user (it never
// sets Node.State), so the leaving node says it itself. The Meta shows which of its lives
// has ended: a goodbye can be recorded, and sent again by anybody.
type frameKind uint8

const (
	frameGoodbye  frameKind = 1
	framePayloads frameKind = 2
)

func payloadsFrame(payloads ...[]byte) []byte {
	b := []byte{byte(framePayloads)}
	for _, p := range payloads {
		b = append(binary.AppendUvarint(b, uint64(len(p))), p...)
	}
	return b
}

func goodbyeFrame(name string, meta []byte) []byte {
	b := binary.AppendUvarint([]byte{byte(frameGoodbye)}, uint64(len(name)))
	b = append(b, name...)
	return append(binary.AppendUvarint(b, uint64(len(meta))), meta...)
}

// parseFrame splits a message into its kind and its parts: the payloads, or the name
// of who leaves and its Meta, which earlier versions did not say. They share b's memory.
// What follows them is ignored: a later version may say more.
func parseFrame(b []byte) (kind frameKind, parts [][]byte, err error) {
	if len(b) == 0 {
		return 0, nil, errors.New("empty message")
	}
	kind, rest := frameKind(b[0]), b[1:]
	if kind != frameGoodbye && kind != framePayloads {
		return 0, nil, fmt.Errorf("message of unknown kind %d", kind)
	}
	for len(parts) == 0 || len(rest) > 0 && (kind == framePayloads || len(parts) == 1) {
		n, size := binary.Uvarint(rest)
		if size <= 0 || n > uint64(len(rest)-size) {
			return 0, nil, fmt.Errorf("message of kind %d and %d bytes is cut short", kind, len(b))
		}
		parts, rest = append(parts, rest[size:size+int(n)]), rest[size+int(n):]
	}
	return kind, parts, nil
}
