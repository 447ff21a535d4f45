package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// BenchmarkLateness measures how late the thread that sends wakes up, at the default
// interval, on an idle machine and beside four busy processes a core, with this process
// quiet or busy itself, in each scheduling class.
func BenchmarkLateness(b *testing.B) {
	classes := []struct {
		name   string
		favour func() (Class, error)
	}{
		{"real-time", favour},
		{"favoured", func() (Class, error) {
			return favourBy(func(attr *unix.SchedAttr) error {
				if attr.Policy == unix.SCHED_DEADLINE {
					return unix.EPERM
				}
				return unix.SchedSetAttr(0, attr, 0)
			})
		}},
		{"normal", func() (Class, error) {
			return favourBy(func(*unix.SchedAttr) error { return unix.EPERM })
		}},
	}
	for _, load := range []struct {
		name        string
		hogs        int
		busy, tuned bool
	}{
		{"idle", 0, false, false}, {"hogs", 4, false, false}, {"hogs and garbage", 4, true, false},
		{"hogs, process tuned", 4, false, true}, {"hogs and garbage, process tuned", 4, true, true},
	} {
		b.Run(load.name, func(b *testing.B) {
			if load.tuned {
				tuneProcess(b)
			}
			hog(b, load.hogs*runtime.NumCPU())
			if load.busy {
				litter(b)
			}
			for _, class := range classes {
				b.Run(class.name, func(b *testing.B) { benchmarkLateness(b, class.favour) })
			}
		})
	}
}

func benchmarkLateness(b *testing.B, favour func() (Class, error)) {
	beacons := lone(b, 20*time.Millisecond, nil)
	beacons.sender.favour = favour
	awake := make(chan time.Duration, 1)
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- beacons.Send(ctx, func(now time.Duration, buf []byte) ([]byte, bool, []netip.AddrPort, bool) {
			select {
			case awake <- beacons.TakeMaxLateness():
			default:
			}
			return append(buf, "x"...), true, nil, true
		})
	}()
	var late []time.Duration
	for b.Loop() {
		late = append(late, <-awake)
	}
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	slices.Sort(late)
	b.ReportMetric(0, "ns/op") // is the interval
	b.ReportMetric(float64(late[len(late)/2].Microseconds()), "us-median")
	b.ReportMetric(float64(late[len(late)*99/100].Microseconds()), "us-p99")
	b.ReportMetric(float64(late[len(late)-1].Microseconds()), "us-max")
}

// tuneProcess tunes this process until the benchmark ends. (Its session is not its own,
// as a daemon's is.)
func tuneProcess(b *testing.B) {
	procs := runtime.GOMAXPROCS(0)
	if err := TuneProcess(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		runtime.GOMAXPROCS(procs)
		if err := eachThread("undoing", func(thread int) error {
			return errors.Join(unix.Setpriority(unix.PRIO_PROCESS, thread, 0),
				os.WriteFile(fmt.Sprintf("/proc/%d/timerslack_ns", thread), []byte("0"), 0)) // the default
		}); err != nil {
			b.Error(err)
		}
	})
}

// hog runs processes that do nothing but compute, until the benchmark ends.
func hog(b *testing.B, n int) {
	for range n {
		cmd := exec.Command("sh", "-c", "while :; do :; done")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // not weighed together with this process
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, cmd.Process.Pid, 0); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
	}
}

// litter makes this process allocate and collect all the time, until the benchmark ends.
func litter(b *testing.B) {
	var over atomic.Bool
	var all sync.WaitGroup
	all.Go(func() {
		keep := make([]*[64]*byte, 10000)
		for i := 0; !over.Load(); i++ {
			keep[i%len(keep)] = new([64]*byte)
			if i%1000 == 0 {
				time.Sleep(100 * time.Microsecond)
			}
		}
	})
	b.Cleanup(func() { over.Store(true); all.Wait() })
}

// BenchmarkSendBeacon is one beacon of a cluster of eight on the wire, without the
// wake-up: Build's part is not in it.
func BenchmarkSendBeacon(b *testing.B) {
	beacons := lone(b, time.Hour, nil)
	payload := make([]byte, 400)
	build := func(_ time.Duration, buf []byte) ([]byte, bool, []netip.AddrPort, bool) {
		return append(buf, payload...), true, nil, true
	}
	b.ReportAllocs()
	for b.Loop() {
		beacons.sender.beacon(build)
	}
	if status := beacons.Status(); status.Wire.Sent != uint64(b.N) {
		b.Fatalf("sent %+v", status.Wire)
	}
}

// BenchmarkReceiveBeacon is one datagram from the socket's queue to deliver, without
// the wake-up of the reader and with the kernel's work of putting it there.
func BenchmarkReceiveBeacon(b *testing.B) {
	beacons := lone(b, time.Hour, nil)
	beacons.unicast.own = netip.Addr{} // so that its own are delivered
	payload := make([]byte, 400)
	to := unix.SockaddrInet4{Port: beaconPort, Addr: beacons.link.Address().As4()}
	arrived := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	batch, seen := 256, 0
	go func() {
		ended <- beacons.Receive(ctx, func(Received) {
			if seen++; seen%batch == 0 {
				arrived <- struct{}{}
			}
		})
	}()
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if err := unix.Sendto(beacons.sender.udp, payload, 0, &to); err != nil {
			b.Fatal(err)
		}
		if n++; n%batch == 0 {
			<-arrived
		}
	}
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}

// BenchmarkBeaconsAtRest is what the beacons of a node of three cost, all told: its own
// on the wire, two peers' that come when they like, wake-ups, Go's runtime.
func BenchmarkBeaconsAtRest(b *testing.B) {
	for _, interval := range []time.Duration{20 * time.Millisecond, 5 * time.Millisecond} {
		for _, tuned := range []bool{false, true} {
			b.Run(fmt.Sprintf("%v, tuned %v", interval, tuned), func(b *testing.B) {
				if tuned {
					tuneProcess(b)
				}
				benchmarkAtRest(b, interval)
			})
		}
	}
}

func benchmarkAtRest(b *testing.B, interval time.Duration) {
	beacons := lone(b, interval, nil)
	beacons.unicast.own = netip.Addr{} // the peers send by this node's socket
	sendAsPeers(b, beacons, interval)
	turns := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(b.Context())
	var tasks errgroup.Group
	tasks.Go(func() error { return beacons.Receive(ctx, func(Received) {}) })
	tasks.Go(func() error {
		return beacons.Send(ctx, func(now time.Duration, buf []byte) ([]byte, bool, []netip.AddrPort, bool) {
			select {
			case turns <- struct{}{}:
			default:
			}
			return append(buf, "beacon"...), true, nil, true
		})
	})
	began := beacons.Status().Unicast.Received
	before := cpuTime(b)
	for b.Loop() {
		<-turns
	}
	used := cpuTime(b) - before
	received := beacons.Status().Unicast.Received - began
	cancel()
	if err := tasks.Wait(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(0, "ns/op") // is the interval
	b.ReportMetric(100*used.Seconds()/b.Elapsed().Seconds(), "%core")
	b.ReportMetric(float64(received)/b.Elapsed().Seconds(), "received/s")
}

// sendAsPeers runs a process that sends what two peers would, to and through the node's
// unicast socket, until the benchmark ends.
func sendAsPeers(b *testing.B, beacons *Beacons, interval time.Duration) {
	socket, err := unix.Dup(beacons.sender.udp)
	if err != nil {
		b.Fatal(err)
	}
	file := os.NewFile(uintptr(socket), "beacons")
	defer file.Close()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(self, interval.String(), beacons.link.Address().String())
	cmd.Env = append(os.Environ(), childVariable+"=peers")
	cmd.ExtraFiles = []*os.File{file}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
}

func childPeers(interval, address string) error {
	every, err := time.ParseDuration(interval)
	if err != nil {
		return err
	}
	to := &unix.SockaddrInet4{Port: beaconPort, Addr: netip.MustParseAddr(address).As4()}
	peers, ctx := errgroup.WithContext(context.Background())
	for _, phase := range []time.Duration{0, every * 3 / 8} {
		peers.Go(func() error {
			time.Sleep(phase)
			for tick := time.Tick(every); ctx.Err() == nil; <-tick {
				if err := unix.Sendto(3, make([]byte, 200), 0, to); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return peers.Wait()
}

// cpuTime is what the process has used.
func cpuTime(b *testing.B) time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
