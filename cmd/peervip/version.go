package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the release build (-ldflags "-X main.version=v1.2.3"); else
// the module's own is used.
var version string

// newVersionCommand is `peervip version`.
func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version",
		Args:  usageArgs(argCount(0, 0)),
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, _ := debug.ReadBuildInfo()
			_, err := fmt.Fprintln(cmd.OutOrStdout(), versionLine(version, info))
			return err
		},
	}
}

// versionLine says what runs: the version, the commit if the build knows it, the
// compiler and the platform. info may be nil.
func versionLine(version string, info *debug.BuildInfo) string {
	commit := ""
	if info != nil {
		settings := make(map[string]string)
		for _, s := range info.Settings {
			settings[s.Key] = s.Value
		}
		if revision := settings["vcs.revision"]; revision != "" {
			commit = "commit " + revision[:min(12, len(revision))]
			if settings["vcs.modified"] == "true" {
				commit += " with changes"
			}
			commit += ", "
		}
	}
	return fmt.Sprintf("peervip %s (%s%s, %s/%s)", shortVersion(version, info), commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// shortVersion is the version alone.
func shortVersion(version string, info *debug.BuildInfo) string {
	if version == "" && info != nil {
		version = info.Main.Version
	}
	if version == "" {
		version = "(devel)"
	}
	return version
}
