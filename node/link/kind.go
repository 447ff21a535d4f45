package link

import (
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// kind is what sort of interface one is, as `ip -details link` shows it, with those of its
// settings that matter. Of a plain NIC it is the zero value.
type kind struct {
	name        string
	passthru    bool // a macvlan that gets every frame
	snoops      bool // a bridge that passes multicast only to who has asked for it
	hearsAll    bool // and itself gets all of it (mcast_router 2)
	queried     bool // somebody asks who wants what, so that snooping has begun
	callsFilter bool // a bridge whose frames pass the IP filter, whatever the sysctl says
}

// Attributes of a bridge (include/uapi/linux/if_link.h).
const (
	bridgeMulticastRouter   = 22
	bridgeMulticastSnooping = 23
	bridgeMulticastQuerier  = 25
	bridgeCallIPTables      = 36
	bridgeQuerierState      = 47

	macvlanMode         = 1
	macvlanModePassthru = 8
)

// readKind reads the attribute IFLA_LINKINFO.
func readKind(info []byte) (kind, error) {
	if len(info) == 0 {
		return kind{}, nil
	}
	attributes, err := nl.ParseRouteAttrAsMap(info)
	if err != nil {
		return kind{}, fmt.Errorf("reading the kind of an interface: %w", err)
	}
	k := kind{name: nl.BytesToString(attributes[unix.IFLA_INFO_KIND].Value)}
	data, err := nl.ParseRouteAttrAsMap(attributes[unix.IFLA_INFO_DATA].Value)
	if err != nil {
		return kind{}, fmt.Errorf("reading what the interface is as a %s: %w", k.name, err)
	}
	is := func(attribute uint16, value byte) bool {
		v := data[attribute].Value
		return len(v) > 0 && v[0] == value
	}
	switch k.name {
	case "macvlan", "macvtap":
		mode := data[macvlanMode].Value
		k.passthru = len(mode) == 4 && binary.NativeEndian.Uint32(mode) == macvlanModePassthru
	case "bridge":
		k.snoops, k.hearsAll = is(bridgeMulticastSnooping, 1), is(bridgeMulticastRouter, 2)
		_, heard := data[bridgeQuerierState]
		k.queried = is(bridgeMulticastQuerier, 1) || heard && len(data[bridgeQuerierState].Value) > 0
		k.callsFilter = is(bridgeCallIPTables, 1)
	}
	return k, nil
}

// OnBridge says whether the interface is a bridge, as it was seen last.
func (l *Link) OnBridge() bool { return l.seen.Load().kind.name == "bridge" }

// checkUnicast refuses a cluster MAC that is not multicast where the interface never
// gets frames to it: a macvlan and an ipvlan look up their own addresses only.
func checkUnicast(config Config, k kind) error {
	if config.MAC.Multicast() || k.passthru {
		return nil
	}
	switch k.name {
	case "macvlan", "macvtap", "ipvlan", "ipvtap":
		return fmt.Errorf("spec.mac: %s is a unicast address, and frames to it never reach %s, which is a %s: set spec.mac to multicast on all nodes, or give this node a bridge port or a NIC of its own",
			config.MAC, config.Interface, k.name)
	}
	return nil
}
