// Package systemd proves that peervip is a good service: machines with a real
// systemd as their first process, docs/peervip.service as the unit, and clients
// that measure while the machines boot, reload, restart, stop and break. It sees
// an agent as an operator does. Everything is in its tests.
package systemd
