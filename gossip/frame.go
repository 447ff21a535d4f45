package gossip

import (
	"encoding/binary"
	"fmt"
)

// A message between two nodes is one byte of kind and the rest:
//
//	0 payload   the bytes of Send
//	1 goodbye   length of the name (uvarint), name
//
// memberlist knows who left and who died, but does not tell its user (it never
// sets Node.State), so the leaving node says it itself.
type frameKind uint8

const (
	framePayload frameKind = iota
	frameGoodbye
)

func payloadFrame(payload []byte) []byte {
	return append([]byte{byte(framePayload)}, payload...)
}

func goodbyeFrame(name string) []byte {
	b := binary.AppendUvarint([]byte{byte(frameGoodbye)}, uint64(len(name)))
	return append(b, name...)
}

// parseFrame splits a message into its kind and, for a payload, the payload, for
// a goodbye, the name of who leaves. The result shares b's memory. What follows a
// goodbye's name is ignored: a later version may say more.
func parseFrame(b []byte) (frameKind, []byte, error) {
	if len(b) == 0 {
		return 0, nil, fmt.Errorf("empty message")
	}
	kind, rest := frameKind(b[0]), b[1:]
	switch kind {
	case framePayload:
		return kind, rest, nil
	case frameGoodbye:
		n, size := binary.Uvarint(rest)
		if size <= 0 || n > uint64(len(rest)-size) {
			return 0, nil, fmt.Errorf("goodbye of %d bytes is cut short", len(b))
		}
		return kind, rest[size : size+int(n)], nil
	default:
		return 0, nil, fmt.Errorf("message of unknown kind %d", kind)
	}
}
