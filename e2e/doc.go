// Package e2e proves peervip end to end: agents as processes on the nodes of a
// lab, clients that measure, and the faults that may befall a node. It asserts
// what must hold, within generous bounds of time; how fast it is, the benchmarks
// say. Everything is in its tests.
package e2e
