// Package hashring says which bucket a client hashes to and which node owns
// each bucket: pure functions of their arguments, the same on every node and
// every machine. It knows nothing of views, kernels or the network.
package hashring
