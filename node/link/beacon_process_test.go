package link

import (
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A tuned process is so with all its threads, those that come later too. Without the
// permission the rest is done, and the error says what is missing.
func TestTuneProcess(t *testing.T) {
	for task, want := range map[string]string{
		"process": "<nil>; [nice -15, slack 20000000 of one nice -15, slack 50000]; GOMAXPROCS 8",
		"process-no-right": "setting the nice value of this process to -15: permission denied\n" +
			"setting the timer slack of Go's monitor to 20ms: write /proc/N/timerslack_ns: operation not permitted; [nice 0, slack 50000]; GOMAXPROCS 8",
	} {
		got := regexp.MustCompile("/proc/[0-9]+/").ReplaceAllString(child(t, task), "/proc/N/")
		if got != want {
			t.Errorf("%s: got %q, want %q", task, got, want)
		}
	}
}

// The kernel takes one such write in a tenth of a second, of all processes together: an
// agent that is started again and again must not cry for that.
func TestAutogroupIsSetThoughTheKernelSaysAgain(t *testing.T) {
	if _, err := os.Stat("/proc/self/autogroup"); err != nil {
		t.Logf("this kernel has no autogroups, so there is nothing to be set: %v", err)
		return
	}
	if got := child(t, "autogroup"); got != "nice -15, nice -14" {
		t.Errorf("got %q", got)
	}
}

func childAutogroup() error {
	if _, err := unix.Setsid(); err != nil {
		return err
	}
	if err := setCapabilities(func(set uint32) uint32 { return set &^ (1 << unix.CAP_SYS_ADMIN) }); err != nil {
		return err
	}
	for i, nice := range []string{"-15", "-14"} {
		if err := setAutogroup(nice); err != nil {
			return err
		}
		now, err := os.ReadFile("/proc/self/autogroup")
		if err != nil {
			return err
		}
		_, value, _ := strings.Cut(strings.TrimSpace(string(now)), " ")
		fmt.Print(strings.Repeat(", ", i), value)
	}
	return nil
}

// childTuneProcess runs where one thread is the calling one: in an init function.
func childTuneProcess(without uint32) error {
	runtime.GOMAXPROCS(2)
	if err := setCapabilities(func(set uint32) uint32 { return set &^ without }); err != nil {
		return err
	}
	refused := TuneProcess()
	if err := setCapabilities(func(set uint32) uint32 { return set | without }); err != nil { // to look takes it as well
		return err
	}
	// Each takes a thread and, until the monitor takes it back, one of the tokens.
	var hold [2]int
	if err := unix.Pipe(hold[:]); err != nil {
		return err
	}
	var all sync.WaitGroup
	for range spareThreads {
		all.Go(func() { unix.Read(hold[0], make([]byte, 1)) })
	}
	time.Sleep(100 * time.Millisecond) // threads that come late may be missed, not wrongly seen
	found, patient := map[string]bool{}, 0
	err := eachThread("looking at threads", func(thread int) error {
		attr, err := unix.SchedGetAttr(thread, 0)
		if err != nil {
			return err
		}
		slack, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", thread))
		is := fmt.Sprintf("nice %d, slack %s", attr.Nice, strings.TrimSpace(string(slack)))
		if strings.HasSuffix(is, strconv.FormatInt(int64(monitorSlack), 10)) {
			if patient++; patient == 1 {
				is += " of one"
			}
		}
		found[is] = true
		return err
	})
	if err := unix.Close(hold[1]); err != nil {
		return err
	}
	all.Wait()
	if err != nil {
		return err
	}
	_, err = fmt.Printf("%v; %v; GOMAXPROCS %d", refused, slices.Sorted(maps.Keys(found)), runtime.GOMAXPROCS(0))
	return err
}

// Locked memory still goes back to the kernel when Go needs it no more, and the lock
// makes nothing resident that was not used. Without the permission it is refused:
// under a limit Go's next mmap would fail, and end the process.
func TestLockMemory(t *testing.T) {
	out := child(t, "memory")
	if out != "" {
		t.Error(out)
	}
	if got, want := child(t, "memory-limited"), "locking memory: missing CAP_IPC_LOCK: grant it to the service, or set LimitMEMLOCK=infinity in its unit\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func childMemory() error {
	before, err := residentKiB()
	if err != nil {
		return err
	}
	if err := LockMemory(); err != nil {
		return err
	}
	after, err := residentKiB()
	if err != nil {
		return err
	}
	if after > before+4<<10 {
		fmt.Printf("%d KiB resident after the lock, %d before\n", after, before)
	}

	block := make([]byte, 64<<20)
	for i := range block {
		block[i] = 1
	}
	start, pages := uintptr(unsafe.Pointer(&block[0])), len(block)/os.Getpagesize()
	used, err := residentPages(start, pages)
	if err != nil {
		return err
	}
	runtime.KeepAlive(block)
	debug.FreeOSMemory()
	freed, err := residentPages(start, pages)
	if err != nil {
		return err
	}
	if used != pages || freed > pages/10 {
		fmt.Printf("of %d pages %d were resident in use, and %d when freed\n", pages, used, freed)
	}
	return nil
}

// residentKiB reads how much of the process is in memory.
func residentKiB() (int, error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	var kib int
	_, err = fmt.Sscanf(rest, "%d kB", &kib)
	return kib, err
}

// residentPages counts the pages from the address on that are in memory (the kernel's
// Documentation/admin-guide/mm/pagemap.rst).
func residentPages(start uintptr, pages int) (int, error) {
	file, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return 0, err
	}
	defer file.Close()
	entries := make([]byte, 8*pages)
	if _, err := file.ReadAt(entries, int64(start)/int64(os.Getpagesize())*8); err != nil {
		return 0, err
	}
	present := 0
	for ; len(entries) > 0; entries = entries[8:] {
		present += int(binary.NativeEndian.Uint64(entries) >> 63)
	}
	return present, nil
}

func childMemoryLimited() error {
	runtime.LockOSThread()
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}); err != nil {
		return err
	}
	if err := setCapabilities(func(set uint32) uint32 { return set &^ (1 << unix.CAP_IPC_LOCK) }); err != nil {
		return err
	}
	_, err := fmt.Println(LockMemory())
	return err
}

// childVariable tells a test program that it is a child, and what it is to do.
const childVariable = "PEERVIP_LINK_CHILD"

// child runs a part of a test in a process of its own and returns what it printed.
func child(t *testing.T, task string, args ...string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), childVariable+"="+task)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("child %s %v: %v: %s", task, args, err, out)
	}
	return string(out)
}

func init() {
	task, isChild := os.LookupEnv(childVariable)
	if !isChild {
		return
	}
	err := fmt.Errorf("no such task: %s", task)
	switch task {
	case "process":
		err = childTuneProcess(0)
	case "process-no-right":
		err = childTuneProcess(1 << unix.CAP_SYS_NICE)
	case "autogroup":
		err = childAutogroup()
	case "peers":
		err = childPeers(os.Args[1], os.Args[2])
	case "memory":
		err = childMemory()
	case "memory-limited":
		err = childMemoryLimited()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
