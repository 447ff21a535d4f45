package hashring

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// drawSet draws a set, often sparse or in runs, and the same set as a map.
func drawSet(t *rapid.T, label string) (Set, map[int]bool) {
	n := rapid.IntRange(0, 300).Draw(t, label+" capacity")
	s, model := NewSet(n), map[int]bool{}
	if n == 0 {
		return s, model
	}
	for range rapid.IntRange(0, 8).Draw(t, label+" runs") {
		from := rapid.IntRange(0, n-1).Draw(t, label+" from")
		to := min(n, from+rapid.SampledFrom([]int{1, 1, 2, 9, 64, 200}).Draw(t, label+" length"))
		for i := from; i < to; i++ {
			s.Add(i)
			model[i] = true
		}
	}
	return s, model
}

func numbers(s Set) []int { return slices.Collect(s.All()) }

func sorted(model map[int]bool) []int { return slices.Sorted(maps.Keys(model)) }

func TestSetBehavesAsASetOfNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, model := drawSet(t, "s")
		if s.Cap() > 0 {
			for range rapid.IntRange(0, 20).Draw(t, "changes") {
				i := rapid.IntRange(0, s.Cap()-1).Draw(t, "i")
				if rapid.Bool().Draw(t, "add") {
					s.Add(i)
					model[i] = true
				} else {
					s.Remove(i)
					delete(model, i)
				}
			}
		}
		if got, want := numbers(s), sorted(model); !slices.Equal(got, want) {
			t.Fatalf("All yields %v, want %v", got, want)
		}
		if s.Count() != len(model) || s.Empty() != (len(model) == 0) {
			t.Fatalf("Count %d, Empty %v, want %d numbers", s.Count(), s.Empty(), len(model))
		}
		for i := -70; i < s.Cap()+70; i++ {
			if s.Has(i) != model[i] {
				t.Fatalf("Has(%d) = %v", i, s.Has(i))
			}
		}
		from := rapid.IntRange(-70, s.Cap()+70).Draw(t, "from")
		to := rapid.IntRange(-70, s.Cap()+70).Draw(t, "to")
		want := 0
		for i := range model {
			if from <= i && i < to {
				want++
			}
		}
		if got := s.CountRange(from, to); got != want {
			t.Fatalf("CountRange(%d, %d) = %d, want %d", from, to, got, want)
		}
	})
}

func TestSetAlgebra(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, inA := drawSet(t, "a")
		b, inB := drawSet(t, "b")
		both, all, only := map[int]bool{}, maps.Clone(inA), map[int]bool{}
		maps.Copy(all, inB)
		either := maps.Clone(all)
		fits := true // all of b within the capacity of a
		for i := range inB {
			fits = fits && i < a.Cap()
		}
		for i := range inA {
			if inB[i] {
				both[i] = true
				delete(either, i)
			} else {
				only[i] = true
			}
		}
		check := func(what string, got Set, want map[int]bool) {
			if !slices.Equal(numbers(got), sorted(want)) {
				t.Fatalf("%s: %v, want %v", what, numbers(got), sorted(want))
			}
		}
		c := a.Clone()
		c.RetainAll(b)
		check("RetainAll", c, both)
		c = a.Clone()
		c.RemoveAll(b)
		check("RemoveAll", c, only)
		if fits {
			c = a.Clone()
			c.AddAll(b)
			check("AddAll", c, all)
			c = a.Clone()
			c.ToggleAll(b)
			check("ToggleAll", c, either)
		} else {
			if !panics(func() { a.Clone().AddAll(b) }) {
				t.Fatal("AddAll of numbers beyond the capacity: no panic")
			}
			if !panics(func() { a.Clone().ToggleAll(b) }) {
				t.Fatal("ToggleAll of numbers beyond the capacity: no panic")
			}
		}
		check("the set that was cloned", a, inA)
		check("the argument", b, inB)
		if a.Intersects(b) != (len(both) > 0) {
			t.Fatalf("Intersects: %v", a.Intersects(b))
		}
		if a.Equal(b) != maps.Equal(inA, inB) || b.Equal(a) != a.Equal(b) || !a.Equal(a.Clone()) {
			t.Fatalf("Equal: %v and %v", a.Equal(b), b.Equal(a))
		}
	})
}

func TestZeroSetReadsAsEmpty(t *testing.T) {
	var s Set
	if s.Cap() != 0 || s.Count() != 0 || !s.Empty() || s.Has(0) || s.CountRange(0, 10) != 0 || s.String() != "" || numbers(s) != nil {
		t.Errorf("the zero set is not empty: %v", s)
	}
	s.Remove(3)
	full := NewSet(10)
	full.Add(9)
	if s.Intersects(full) || full.Intersects(s) || s.Equal(full) || full.Equal(s) {
		t.Error("the zero set has something in common with {9}")
	}
	if !s.Equal(NewSet(10)) || !NewSet(10).Equal(s) || !s.Equal(s.Clone()) {
		t.Error("the zero set is not equal to an empty set")
	}
	full.AddAll(s)
	full.RemoveAll(s)
	if !slices.Equal(numbers(full), []int{9}) {
		t.Errorf("adding and removing nothing left %v", full)
	}
	full.RetainAll(s)
	if !full.Empty() {
		t.Errorf("what is in {9} and in the zero set: %v", full)
	}
}

func TestCopyOfASetSharesItsNumbers(t *testing.T) {
	a := NewSet(10)
	b, c := a, a.Clone()
	a.Add(3)
	if !b.Has(3) || c.Has(3) {
		t.Errorf("after adding 3: the copy has %v, the clone %v", b, c)
	}
}

func TestSetRefusesImpossibleNumbers(t *testing.T) {
	for what, f := range map[string]func(){
		"adding -1":              func() { NewSet(10).Add(-1) },
		"adding the capacity":    func() { NewSet(10).Add(10) },
		"adding to the zero set": func() { Set{}.Add(0) },
		"capacity -1":            func() { NewSet(-1) },
		"capacity too large":     func() { NewSet(MaxSetCap + 1) },
	} {
		if !panics(f) {
			t.Errorf("%s: no panic", what)
		}
	}
}

func panics(f func()) (panicked bool) {
	defer func() { panicked = recover() != nil }()
	f()
	return false
}

func TestSetMayShrinkWhileItIsRead(t *testing.T) {
	s := NewSet(200)
	for i := range 200 {
		s.Add(i)
	}
	count := 0
	for i := range s.All() {
		s.Remove(i)
		s.Remove(i - 1)
		count++
	}
	if count != 200 || !s.Empty() {
		t.Errorf("%d numbers seen, left %v", count, s)
	}
	for range s.All() {
		t.Error("a number of an empty set")
	}
	s.Add(5)
	s.Add(150)
	for i := range s.All() {
		if i != 5 {
			t.Errorf("number %d after the loop was left", i)
		}
		break
	}
}

func TestSetPrintsRanges(t *testing.T) {
	for want, in := range map[string][]int{
		"":                 {},
		"0":                {0},
		"0-3,7":            {0, 1, 2, 3, 7},
		"0-1,63-64,98-99":  {0, 1, 63, 64, 98, 99},
		"5,7,9,64,97-99":   {5, 7, 9, 64, 97, 98, 99},
		"62-66,98":         {62, 63, 64, 65, 66, 98},
		"99":               {99},
		"1-2,4-5,127,1023": {1, 2, 4, 5, 127, 1023},
	} {
		s := NewSet(1024)
		for _, i := range in {
			s.Add(i)
		}
		if s.String() != want {
			t.Errorf("%v prints as %q, want %q", in, s.String(), want)
		}
	}
}
