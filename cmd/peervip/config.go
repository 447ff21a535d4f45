package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/viper"

	"github.com/peervip/peervip/agent"
)

// configEnv names the configuration file where the flag does not.
const configEnv = "PEERVIP_CONFIG"

// defaultConfig is the configuration file where nothing names another one; it need not
// exist.
const defaultConfig = "/etc/peervip/peervip.yaml"

// configFlags are the flags of the common settings, with the keys they set.
var configFlags = []struct{ flag, key string }{
	{"name", "node.name"},
	{"interface", "node.interface"},
	{"weight", "node.weight"},
	{"vip", "spec.vips"},
	{"join", "cluster.join"},
	{"key-file", "cluster.key_file"},
	{"insecure", "cluster.insecure"},
	{"socket", "control.socket"},
}

// addConfigFlags gives a command the flags that loadConfig reads. --socket is
// not among them: commands that talk to an agent have it too (addSocketFlag).
func addConfigFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.String("config", "", "configuration `file` (YAML), "+defaultConfig+" where that exists; flags and PEERVIP_* variables win over it")
	flags.String("name", "", "`name` of this node (default: the host name)")
	flags.String("interface", "", "network `interface` that carries the VIPs")
	flags.StringSlice("vip", nil, "virtual IP `address`, the same on every node; several: repeat it, or use commas")
	flags.StringSlice("join", nil, "`host[:port]` of other nodes; several: repeat it, or use commas")
	flags.String("key-file", "", "`file` with the cluster key (make one with: peervip keygen)")
	flags.Bool("insecure", false, "run without a cluster key: anybody who reaches the ports may join")
	flags.Int("weight", agent.DefaultWeight, "this node's share relative to the others', 1 to 1000")
}

// addSocketFlag gives a command and its subcommands the flag --socket.
func addSocketFlag(cmd *cobra.Command) {
	cmd.PersistentFlags().String("socket", agent.DefaultSocket, "control socket of the agent on this machine")
}

// socketPath is where a command that has no configuration file finds the agent:
// the flag --socket, else PEERVIP_CONTROL_SOCKET, else the default.
func socketPath(cmd *cobra.Command) string {
	flag := cmd.Flags().Lookup("socket")
	if env := os.Getenv(envName("control.socket")); env != "" && !flag.Changed {
		return env
	}
	return flag.Value.String()
}

// configError is a configuration that cannot be used: one line a fault.
type configError struct{ lines []string }

func (e *configError) Error() string { return strings.Join(e.lines, "\n") }

// loadConfig is readConfig, for who wants the values alone.
func loadConfig(cmd *cobra.Command) (config agent.Config, warnings []string, err error) {
	source, err := readConfig(cmd)
	if err != nil {
		return agent.Config{}, nil, err
	}
	return source.config, source.warnings, nil
}

// loader holds the sources of the configuration.
type loader struct {
	viper *viper.Viper
	cmd   *cobra.Command
	file  string
}

func newLoader(cmd *cobra.Command) *loader { return &loader{viper: viper.New(), cmd: cmd} }

// load merges the sources. The faults are about keys and types; values are not
// looked at yet.
func (l *loader) load() (raw rawConfig, faults []keyError, err error) {
	keys := leaves(reflect.ValueOf(rawDefaults()), "")
	for _, k := range keys {
		l.viper.SetDefault(k.key, k.value)
		// Bound one by one: with AutomaticEnv a variable PEERVIP_NODE, of whatever
		// origin, would hide everything below node.
		if err := l.viper.BindEnv(k.key, envName(k.key)); err != nil {
			return raw, nil, fmt.Errorf("binding %s: %w", envName(k.key), err)
		}
		if text := os.Getenv(envName(k.key)); text != "" && !l.flagged(k.key) {
			if _, err := fromText(text, k.typ); err != nil {
				faults = append(faults, keyError{k.key, err.Error()})
			}
		}
	}
	for _, f := range configFlags {
		if flag := l.cmd.Flags().Lookup(f.flag); flag != nil {
			if err := l.viper.BindPFlag(f.key, flag); err != nil {
				return raw, nil, fmt.Errorf("binding --%s: %w", f.flag, err)
			}
		}
	}
	tree, err := l.readFile()
	if err != nil {
		return raw, nil, err
	}
	faults = append(faults, checkSection("", tree, reflect.TypeFor[rawConfig]())...)
	if len(faults) > 0 {
		return raw, faults, nil
	}
	if err := l.viper.MergeConfigMap(withoutNulls(tree)); err != nil {
		return raw, nil, fmt.Errorf("merging the configuration: %w", err)
	}
	if err := l.viper.Unmarshal(&raw, viper.DecodeHook(decodeText)); err != nil {
		return raw, nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return raw, nil, nil
}

// decodeText makes values of the texts of the environment and of times in the
// file, when viper fills the raw structs.
func decodeText(from, to reflect.Type, data any) (any, error) {
	if text, ok := data.(string); ok && from.Kind() == reflect.String {
		return fromText(text, to)
	}
	return data, nil
}

// readFile decodes the file with viper's own decoder, but not into viper: that
// loses the case of keys, and unknown keys that are empty.
func (l *loader) readFile() (map[string]any, error) {
	l.file = os.Getenv(configEnv)
	if flag := l.cmd.Flags().Lookup("config"); flag != nil && flag.Changed {
		l.file = flag.Value.String()
	}
	if l.file == "" {
		if _, err := os.Stat(defaultConfig); !errors.Is(err, fs.ErrNotExist) {
			l.file = defaultConfig
		}
	}
	tree := make(map[string]any)
	if l.file == "" {
		return tree, nil
	}
	content, err := os.ReadFile(l.file)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	if moreDocuments(content) {
		return nil, fmt.Errorf("reading the configuration %s: more than one YAML document: leave out all from the second line of --- on", l.file)
	}
	decoder, err := viper.NewCodecRegistry().Decoder("yaml")
	if err != nil {
		return nil, fmt.Errorf("reading the configuration %s: %w", l.file, err)
	}
	if err := decoder.Decode(content, tree); err != nil {
		return nil, fmt.Errorf("reading the configuration %s: %s", l.file, yamlFault(err, content))
	}
	return tree, nil
}

// withoutNulls leaves out what has no value: of an empty section `node:` viper
// would make one that hides the environment's and the flags' values below it.
func withoutNulls(tree map[string]any) map[string]any {
	full := make(map[string]any)
	for key, value := range tree {
		if section, ok := value.(map[string]any); ok {
			full[key] = withoutNulls(section)
		} else if value != nil {
			full[key] = value
		}
	}
	return full
}

// moreDocuments says whether a document marker follows content: the decoder
// would ignore what comes after it.
func moreDocuments(content []byte) bool {
	begun := false
	for line := range bytes.Lines(content) {
		line = bytes.TrimRight(line, " \t\r\n")
		switch {
		case bytes.Equal(line, []byte("---")) || bytes.HasPrefix(line, []byte("--- ")):
			if begun {
				return true
			}
			begun = true
		case len(line) > 0 && line[0] != '#' && line[0] != '%':
			begun = true
		}
	}
	return false
}

// yamlFault makes one line of the YAML library's errors.
func yamlFault(err error, content []byte) string {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	text = strings.TrimPrefix(text, "unmarshal errors:")
	if strings.Contains(text, "into map[string]interface {}") {
		return "want keys and their values, like node: {interface: eth0}"
	}
	text = strings.Join(strings.Fields(text), " ")
	var line int
	if _, scanErr := fmt.Sscanf(text, "line %d:", &line); scanErr == nil {
		if tab := tabNear(content, line); tab > 0 {
			return fmt.Sprintf("line %d: a tab: YAML wants spaces", tab)
		}
	}
	return text
}

// tabNear is the number of a line that begins with a tab: the one given, or one beside
// it, since the library counts from the token before. 0: there is none.
func tabNear(content []byte, line int) int {
	n := 0
	for text := range bytes.Lines(content) {
		n++
		indent := text[:len(text)-len(bytes.TrimLeft(text, " \t"))]
		if n >= line-1 && n <= line+1 && bytes.ContainsRune(indent, '\t') {
			return n
		}
	}
	return 0
}

func (l *loader) flagged(key string) bool {
	for _, f := range configFlags {
		if flag := l.cmd.Flags().Lookup(f.flag); f.key == key && flag != nil && flag.Changed {
			return true
		}
	}
	return false
}

// source says where the value of a key comes from, "" if from nowhere.
func (l *loader) source(key string) string {
	key, _, _ = strings.Cut(key, "[")
	for _, f := range configFlags {
		if f.key == key && l.flagged(key) {
			return "--" + f.flag
		}
	}
	if os.Getenv(envName(key)) != "" {
		return envName(key)
	}
	return l.file
}

// explain makes an error of faults: a line each, with the source.
func (l *loader) explain(faults []keyError) error {
	e := &configError{}
	for _, f := range faults {
		line := f.text
		if f.key != "" {
			line = f.key + ": " + f.text
		}
		if source := l.source(f.key); source != "" {
			line += " (" + source + ")"
		}
		e.lines = append(e.lines, line)
	}
	return e
}

// unknownVariables warns of PEERVIP_* variables that set nothing. They are no
// error: Kubernetes, for one, sets PEERVIP_PORT and more in every pod beside a
// service of the name peervip.
func unknownVariables(environ []string) []string {
	known := []string{configEnv}
	for _, k := range leaves(reflect.ValueOf(rawDefaults()), "") {
		known = append(known, envName(k.key))
	}
	var warnings []string
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, "PEERVIP_") || slices.Contains(known, name) {
			continue
		}
		warning := "environment variable " + name + " sets nothing"
		nearest := slices.MinFunc(known, func(a, b string) int { return distance(name, a) - distance(name, b) })
		switch {
		case name == envName("spec.services"):
			warning += ": services are set in the file only"
		case distance(name, nearest) <= 3:
			warning += ": did you mean " + nearest + "?"
		}
		warnings = append(warnings, warning)
	}
	slices.Sort(warnings)
	return warnings
}
