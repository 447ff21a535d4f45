package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// keyError is one thing wrong with the configuration: the key's full path and,
// in one line, what is wrong and the cure.
type keyError struct{ key, text string }

var durationType = reflect.TypeFor[time.Duration]()

// rawField is one key of a section.
type rawField struct {
	key        string
	typ        reflect.Type // without the pointer
	value      reflect.Value
	alsoNumber bool // a text that may be written as a number
}

// sectionFields lists the keys of a raw struct, with the values that it holds.
func sectionFields(section reflect.Value) []rawField {
	var fields []rawField
	for i := range section.NumField() {
		f := section.Type().Field(i)
		typ := f.Type
		if typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		fields = append(fields, rawField{f.Tag.Get("mapstructure"), typ, section.Field(i), f.Tag.Get("also") == "number"})
	}
	return fields
}

func isSection(typ reflect.Type) bool { return typ.Kind() == reflect.Struct }
func isListOfSections(typ reflect.Type) bool {
	return typ.Kind() == reflect.Slice && isSection(typ.Elem())
}

// leaf is a key outside of lists of sections: what environment variables and
// flags can set.
type leaf struct {
	key   string
	typ   reflect.Type
	value any // the default
}

func leaves(section reflect.Value, prefix string) []leaf {
	var all []leaf
	for _, f := range sectionFields(section) {
		switch {
		case isSection(f.typ):
			all = append(all, leaves(f.value, prefix+f.key+".")...)
		case !isListOfSections(f.typ):
			all = append(all, leaf{prefix + f.key, f.typ, f.value.Interface()})
		}
	}
	return all
}

// envName is the environment variable that sets a key: node.name is
// PEERVIP_NODE_NAME.
func envName(key string) string {
	return "PEERVIP_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// checkSection says which keys of a decoded file do not exist or have a value of
// the wrong type. viper would drop the former where they are empty, and read
// 20 as 20 ns or yes as 1.
func checkSection(path string, value any, typ reflect.Type) []keyError {
	if value == nil {
		return nil // a section whose keys are all commented out
	}
	section, ok := value.(map[string]any)
	if !ok {
		return []keyError{{path, "want a section with the keys " + strings.Join(keyNames(typ), ", ") + ", got " + describe(value)}}
	}
	fields := sectionFields(reflect.Zero(typ))
	var errs []keyError
	for _, key := range slices.Sorted(maps.Keys(section)) {
		i := slices.IndexFunc(fields, func(f rawField) bool { return f.key == key })
		if i < 0 {
			errs = append(errs, keyError{join(path, shown(key)), "unknown key: " + suggest(path, key, typ)})
			continue
		}
		errs = append(errs, checkValue(join(path, key), section[key], fields[i])...)
	}
	return errs
}

func checkValue(path string, value any, f rawField) []keyError {
	switch {
	case isSection(f.typ):
		return checkSection(path, value, f.typ)
	case value == nil:
		return nil // as if it were not there
	case f.typ.Kind() == reflect.Slice:
		return checkList(path, value, f.typ.Elem())
	}
	return checkScalar(path, value, f)
}

func checkList(path string, value any, elem reflect.Type) []keyError {
	list, ok := value.([]any)
	if !ok {
		return []keyError{{path, "want a list like [a, b], got " + describe(value)}}
	}
	var errs []keyError
	for i, element := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		switch {
		case element == nil:
			errs = append(errs, keyError{at, "empty: fill it in or take it out"})
		case isSection(elem):
			errs = append(errs, checkSection(at, element, elem)...)
		default:
			errs = append(errs, checkScalar(at, element, rawField{typ: elem})...)
		}
	}
	return errs
}

func checkScalar(path string, value any, f rawField) []keyError {
	wrong := func(want string) []keyError {
		return []keyError{{path, "want " + want + ", got " + describe(value)}}
	}
	_, isInt := value.(int)
	_, isInt64 := value.(int64) // what an int cannot hold, on 32-bit machines
	switch text, isText := value.(string); {
	case f.typ == durationType:
		if !isText {
			return wrong("a time like 20ms, 5s or 1m30s")
		}
		if _, err := fromText(text, f.typ); err != nil {
			return []keyError{{path, err.Error()}}
		}
	case f.typ.Kind() == reflect.String:
		if !isText && !(isInt && f.alsoNumber) {
			return wrong("text: put it in quotes")
		}
	case f.typ.Kind() == reflect.Bool:
		if _, ok := value.(bool); !ok {
			return wrong("true or false")
		}
	case f.typ.Kind() == reflect.Float64:
		if _, ok := value.(float64); !ok && !isInt {
			return wrong("a number")
		}
	case f.typ.Kind() == reflect.Int, f.typ.Kind() == reflect.Int64:
		if !isInt && !(isInt64 && f.typ.Kind() == reflect.Int64) {
			return wrong("a whole number")
		}
	default:
		panic("config: no check for a key of type " + f.typ.String())
	}
	return nil
}

// fromText reads a value of an environment variable. Lists are separated by
// commas.
func fromText(text string, typ reflect.Type) (any, error) {
	switch {
	case typ == durationType:
		d, err := time.ParseDuration(text)
		if err != nil {
			return nil, fmt.Errorf("%s: want a time like 20ms, 5s or 1m30s", quoted(text))
		}
		return d, nil
	case typ.Kind() == reflect.Int, typ.Kind() == reflect.Int64:
		n, err := strconv.ParseInt(text, 10, typ.Bits())
		if err != nil {
			return nil, fmt.Errorf("%s: want a whole number", quoted(text))
		}
		return n, nil
	case typ.Kind() == reflect.Bool:
		if text != "true" && text != "false" {
			return nil, fmt.Errorf("%s: want true or false", quoted(text))
		}
		return text == "true", nil
	case typ.Kind() == reflect.Slice:
		parts := strings.Split(text, ",")
		for i := range parts {
			parts[i] = strings.TrimSpace(parts[i])
			if parts[i] == "" {
				return nil, errors.New("an empty entry: take one comma out")
			}
		}
		return parts, nil
	}
	return text, nil
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// describe says what somebody wrote, in words and not at length.
func describe(value any) string {
	switch v := value.(type) {
	case string:
		return "the text " + quoted(v)
	case bool:
		return fmt.Sprintf("%v", v)
	case int, int64, uint64, float64:
		return fmt.Sprintf("the number %v", v)
	case []any:
		return "a list"
	case map[string]any, map[any]any:
		return "a section"
	}
	return shown(fmt.Sprint(value)) // a date, say
}

// quoted is for texts of others in errors: on one line, bounded, in quotes.
func quoted(text string) string {
	const most = 80
	if len(text) > most {
		return strconv.Quote(strings.ToValidUTF8(text[:most], "")) + "…"
	}
	return strconv.Quote(text)
}

// shown is quoted without the quotes where nobody would miss them.
func shown(text string) string {
	if q := quoted(text); q != `"`+text+`"` || text == "" || strings.Contains(text, " ") {
		return q
	}
	return text
}

// suggest names the key that was probably meant: the most similar one of the
// section, else one of the same name elsewhere, else all keys of the section.
func suggest(path, key string, typ reflect.Type) string {
	known := keyNames(typ)
	lower := strings.ToLower(key[:min(len(key), 64)])
	nearest := slices.MinFunc(known, func(a, b string) int { return cmp.Compare(distance(lower, a), distance(lower, b)) })
	if distance(lower, nearest) <= max(1, len(nearest)/3) {
		return "did you mean " + join(path, nearest) + "?"
	}
	if elsewhere := find(lower, "", reflect.TypeFor[rawConfig]()); elsewhere != "" {
		return "did you mean " + elsewhere + "?"
	}
	return "known here are " + strings.Join(known, ", ")
}

// find returns the first path with this last key.
func find(key, prefix string, typ reflect.Type) string {
	for _, f := range sectionFields(reflect.Zero(typ)) {
		path, below := join(prefix, f.key), f.typ
		if f.key == key {
			return path
		}
		if isListOfSections(f.typ) {
			path, below = path+"[]", f.typ.Elem()
		}
		if isSection(below) {
			if found := find(key, path, below); found != "" {
				return found
			}
		}
	}
	return ""
}

func keyNames(section reflect.Type) []string {
	var names []string
	for _, f := range sectionFields(reflect.Zero(section)) {
		names = append(names, f.key)
	}
	return names
}

// distance is the number of letters to insert, delete, replace or swap with
// their neighbour to make b of a.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := last[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(replace, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
