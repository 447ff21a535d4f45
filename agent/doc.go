// Package agent is the shell around the pure core: it feeds node.Core with what
// gossip, the interface, the health checks, the kernel and the operator say, and
// carries out what the core decides. It decides nothing about buckets itself.
package agent
