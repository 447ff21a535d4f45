package agent

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/peervip/peervip/node/link"
)

// letters seal messages for peers whom gossip does not reach, though beacons do: they
// take the way of unicast beacons. The layout of one:
//
//	0   4  magic, another than that of beacons
//	4   1  format
//	5   12 nonce, random
//	17     the message under AES-256-GCM; the head and the cluster's name are
//	       authenticated with it
//
// A letter that comes twice, or late, is like any message that does.
type letters struct {
	known  []byte        // what is authenticated without being in the sealed part
	seals  []cipher.AEAD // the first seals, all open
	opened []byte        // room for what is opened
}

const (
	letterMagic  = "pvul"
	letterFormat = 1
	letterHead   = len(letterMagic) + 1 + letterNonce
	letterNonce  = 12
)

var (
	// errNoLetter is for what does not even claim to be one.
	errNoLetter     = errors.New("this is no letter")
	errLetterFormat = errors.New("a letter is too short, or of another format")
	errOtherKey     = errors.New("a letter is sealed with none of the cluster's keys")
)

// newLetters makes the keys out of those of the cluster. Without any (an insecure
// cluster) the key is all zeros, which proves only that the bytes are whole.
func newLetters(cluster string, keys Keyring) (*letters, error) {
	l := &letters{known: append(append([]byte(letterMagic), letterFormat), cluster...), opened: make([]byte, link.MaxLetter)}
	if len(keys) == 0 {
		keys = Keyring{make([]byte, sha256.Size)}
	}
	for _, key := range keys {
		derived, err := hkdf.Key(sha256.New, key, nil, "peervip letter", sha256.Size)
		if err != nil {
			return nil, fmt.Errorf("deriving the key for letters: %w", err)
		}
		block, err := aes.NewCipher(derived)
		if err != nil {
			return nil, fmt.Errorf("making the cipher of letters: %w", err)
		}
		seal, err := cipher.NewGCM(block)
		if err != nil {
			return nil, fmt.Errorf("making the cipher of letters: %w", err)
		}
		l.seals = append(l.seals, seal)
	}
	return l, nil
}

// seal makes a letter of a message.
func (l *letters) seal(message []byte) []byte {
	head := append([]byte(letterMagic), letterFormat)
	nonce := make([]byte, letterNonce)
	rand.Read(nonce)
	letter := append(head, nonce...)
	return l.seals[0].Seal(letter, nonce, message, l.known)
}

// open returns the message of a letter. It is for one goroutine, and makes no garbage of
// what somebody without the key sends, of whom many may come.
func (l *letters) open(letter []byte) ([]byte, error) {
	if !bytes.HasPrefix(letter, []byte(letterMagic)) {
		return nil, errNoLetter
	}
	if len(letter) < letterHead || letter[len(letterMagic)] != letterFormat {
		return nil, errLetterFormat
	}
	nonce := letter[letterHead-letterNonce : letterHead]
	for _, seal := range l.seals {
		message, err := seal.Open(l.opened[:0], nonce, letter[letterHead:], l.known)
		if err == nil {
			return bytes.Clone(message), nil
		}
	}
	return nil, errOtherKey
}
