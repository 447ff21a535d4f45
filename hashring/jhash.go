package hashring

import (
	"encoding/binary"
	"math/bits"
)

// jhashInit is JHASH_INITVAL of the kernel's include/linux/jhash.h.
const jhashInit = 0xdeadbeef

// Jhash returns what jhash() of the Linux kernel (include/linux/jhash.h, which
// is Bob Jenkins' lookup3) returns for key on a little-endian machine. It is
// the hash behind the jhash expression of nft (net/netfilter/nft_hash.c), so
// long as seed is not 0: for a seed of 0 the kernel picks a random one.
func Jhash(key []byte, seed uint32) uint32 {
	a := jhashInit + uint32(len(key)) + seed
	b, c := a, a
	for len(key) > 12 {
		a += binary.LittleEndian.Uint32(key)
		b += binary.LittleEndian.Uint32(key[4:])
		c += binary.LittleEndian.Uint32(key[8:])
		a, b, c = jhashMix(a, b, c)
		key = key[12:]
	}
	if len(key) == 0 {
		return c
	}
	// The rest counts as if zeros followed it up to 12 bytes.
	var last [12]byte
	copy(last[:], key)
	a += binary.LittleEndian.Uint32(last[:])
	b += binary.LittleEndian.Uint32(last[4:])
	c += binary.LittleEndian.Uint32(last[8:])
	return jhashFinal(a, b, c)
}

// jhashMix is __jhash_mix of jhash.h.
func jhashMix(a, b, c uint32) (uint32, uint32, uint32) {
	a, c = (a-c)^bits.RotateLeft32(c, 4), c+b
	b, a = (b-a)^bits.RotateLeft32(a, 6), a+c
	c, b = (c-b)^bits.RotateLeft32(b, 8), b+a
	a, c = (a-c)^bits.RotateLeft32(c, 16), c+b
	b, a = (b-a)^bits.RotateLeft32(a, 19), a+c
	c, b = (c-b)^bits.RotateLeft32(b, 4), b+a
	return a, b, c
}

// jhashFinal is __jhash_final of jhash.h.
func jhashFinal(a, b, c uint32) uint32 {
	c = (c ^ b) - bits.RotateLeft32(b, 14)
	a = (a ^ c) - bits.RotateLeft32(c, 11)
	b = (b ^ a) - bits.RotateLeft32(a, 25)
	c = (c ^ b) - bits.RotateLeft32(b, 16)
	a = (a ^ c) - bits.RotateLeft32(c, 4)
	b = (b ^ a) - bits.RotateLeft32(a, 14)
	return (c ^ b) - bits.RotateLeft32(b, 24)
}

// Scale maps a hash to 0..n-1 as the kernel's reciprocal_scale() does
// (include/linux/math.h): hash*n divided by 2^32. It is what nft's `jhash ...
// mod n` means; no remainder is taken. n must be above 0 and fit in 32 bits.
func Scale(hash uint32, n int) int {
	return int(uint64(hash) * uint64(uint32(n)) >> 32)
}
