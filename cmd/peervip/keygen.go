package main

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// newKeygenCommand is `peervip keygen`: a new cluster key on standard output.
func newKeygenCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "keygen",
		Short: "Make a new cluster key",
		Long: `Make a new cluster key: 32 random bytes in base64, on standard output.

Every node of a cluster needs the same key, in a file that only its owner can
read; name it with cluster.key_file or --key-file. To change the key while the
cluster runs, add the new one as the second line of that file on every node,
then make it the first line everywhere, then take the old one out.`,
		Example: "  (umask 077; peervip keygen > /etc/peervip/key)",
		Args:    usageArgs(argCount(0, 0)),
		RunE: func(cmd *cobra.Command, _ []string) error {
			key := make([]byte, keySize)
			rand.Read(key) // never fails
			out := cmd.OutOrStdout()
			if _, err := fmt.Fprintln(out, base64.StdEncoding.EncodeToString(key)); err != nil {
				return fmt.Errorf("writing the key: %w", err)
			}
			if file, ok := out.(*os.File); ok && isTerminal(file) {
				cmd.PrintErrln("Keep it in a file: (umask 077; peervip keygen > /etc/peervip/key), and copy that file to every node.")
			}
			return nil
		},
	}
}

func isTerminal(file *os.File) bool {
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}
