package node

import "github.com/cespare/xxhash/v2"

// Wish is what an operator wants of a node, told to any node. It is kept by
// every member until the node that it names says that it has dealt with it, so a
// wish for a node that is down is not lost.
type Wish struct {
	Node string `json:"node"`
	// Stamp orders the wishes for one node; the highest is the one that counts.
	Stamp uint64 `json:"stamp"`
	// Origin is the node where the operator said it; it hears the verdict.
	Origin string   `json:"origin"`
	Want   WishKind `json:"want"`
	// Force drains even the last node that serves.
	Force bool `json:"force,omitempty"`
	// Weight is the new weight, for WantWeight.
	Weight int `json:"weight,omitempty"`
}

// WishKind is what is wanted.
type WishKind string

// What an operator can want of any node.
const (
	WantDrain  WishKind = "drain"
	WantResume WishKind = "resume"
	WantWeight WishKind = "weight"
)

// Verdict is the named node's word on a wish, told to its origin. An empty
// Refused means that the wish was obeyed.
type Verdict struct {
	Stamp   uint64 `json:"stamp"`
	Refused string `json:"refused,omitempty"`
}

// nextStamp is a stamp above the last one: a count, and below it a trace of the
// origin, so that two operators who wish at the same moment on two nodes get
// different stamps.
func nextStamp(last uint64, origin string) uint64 {
	return (last>>16+1)<<16 | xxhash.Sum64String(origin)&0xffff
}
