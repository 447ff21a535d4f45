package main

import (
	"os"
	"reflect"
	"slices"

	"github.com/spf13/cobra"

	"github.com/peervip/peervip/agent"
)

// configSource is where the agent's configuration came from, and comes from again at a
// reload: the same file, environment and flags.
type configSource struct {
	cmd      *cobra.Command
	file     string // empty: there is none
	raw      rawConfig
	config   agent.Config
	warnings []string
}

// readConfig reads the configuration: defaults, the file, PEERVIP_* variables and
// flags, of which the later wins key by key (a list is replaced, not extended).
func readConfig(cmd *cobra.Command) (*configSource, error) {
	loader := newLoader(cmd)
	raw, faults, err := loader.load()
	if err != nil {
		return nil, &configError{[]string{err.Error()}}
	}
	s := &configSource{cmd: cmd, file: loader.file, raw: raw}
	if len(faults) == 0 {
		tick, err := agent.KernelTick()
		if err != nil {
			return nil, err
		}
		s.config, faults = parseConfig(raw, os.Hostname, tick)
	}
	if len(faults) > 0 {
		return nil, loader.explain(faults)
	}
	s.warnings = unknownVariables(os.Environ())
	return s, nil
}

// reload reads it again; see agent.Options.
func (s *configSource) reload() (agent.Loaded, error) {
	next, err := readConfig(s.cmd)
	if err != nil {
		return agent.Loaded{}, err
	}
	changed := changedKeys(reflect.ValueOf(s.raw), reflect.ValueOf(next.raw), "")
	if !reflect.DeepEqual(s.config.Keys, next.config.Keys) && !slices.Contains(changed, "cluster.key_file") {
		changed = append(changed, "cluster.key_file") // what is in it
	}
	return agent.Loaded{Config: next.config, Changed: changed, Warnings: next.warnings}, nil
}

// changedKeys are the keys whose values differ, but for what a reload takes.
func changedKeys(old, now reflect.Value, prefix string) []string {
	var changed []string
	next := sectionFields(now)
	for i, f := range sectionFields(old) {
		key := prefix + f.key
		switch a, b := f.value.Interface(), next[i].value.Interface(); {
		case key == "log.level":
		case isSection(f.typ):
			changed = append(changed, changedKeys(f.value, next[i].value, key+".")...)
		case key == "spec.services":
			changed = append(changed, changedServices(key, a.([]rawService), b.([]rawService))...)
		case !reflect.DeepEqual(a, b):
			changed = append(changed, key)
		}
	}
	return changed
}

// changedServices leaves out the health checks.
func changedServices(key string, old, now []rawService) []string {
	name := func(s rawService) string { return s.Name }
	if !slices.EqualFunc(old, now, func(a, b rawService) bool { return name(a) == name(b) }) {
		return []string{key}
	}
	var changed []string
	for i := range old {
		next := sectionFields(reflect.ValueOf(now[i]))
		for j, f := range sectionFields(reflect.ValueOf(old[i])) {
			if f.key != "health" && !reflect.DeepEqual(f.value.Interface(), next[j].value.Interface()) {
				changed = append(changed, key+"["+old[i].Name+"]."+f.key)
			}
		}
	}
	return changed
}
