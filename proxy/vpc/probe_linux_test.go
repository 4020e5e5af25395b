package vpc

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

func TestProbe(t *testing.T) {
	if os.Getenv(envMode) != "" {
		t.Skip("the parent of an engine probes, not the engine")
	}
	_, reason, err := Probe("wonder")
	if err == nil {
		t.Errorf("an unknown mode is %q", reason)
	}
	if mode, reason, err := Probe(ModeLoopback); mode != ModeLoopback || reason == "" || err != nil {
		t.Errorf("loopback: %q %q %v", mode, reason, err)
	}
	mode, reason, err := Probe(ModeAuto)
	if err != nil || (mode == ModeNetns) != (reason == "") {
		t.Errorf("auto: %q %q %v", mode, reason, err)
	}
	if os.Getuid() != 0 {
		return
	}
	if mode != ModeNetns {
		t.Skipf("root without namespaces: %s", reason)
	}
	left, err := (&pins{prefix: "op-probe"}).names("")
	if err != nil || len(left) > 0 {
		t.Errorf("the probe left %v %v", left, err)
	}

	// A child without privilege, by way of this program's main: see TestMain.
	for _, tt := range []struct {
		name, mode, want string
		attr             *syscall.SysProcAttr
	}{
		{"an ordinary user", ModeAuto, "userns: This process may not make network namespaces (", user(1234)},
		{"an ordinary user who wants netns", ModeNetns, "error: network mode netns cannot be had here: ", user(1234)},
		{"and gets advice", ModeNetns, "run as root or give CAP_SYS_ADMIN", user(1234)},
	} {
		cmd := exec.Command(self(), "probe", tt.mode)
		cmd.SysProcAttr = tt.attr
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), tt.want) {
			t.Errorf("%s: %q %v, want %q", tt.name, out, err, tt.want)
		}
	}
}

func user(id uint32) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}}
}

// TestProbeWithoutAnything takes even user namespaces away.
func TestProbeWithoutAnything(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("root sets the limit")
	}
	// A user namespace in which no further one may be made; the limit ends with it.
	cmd := exec.Command("sh", "-c", `echo 0 >/proc/sys/user/max_user_namespaces && echo 0 >/proc/sys/user/max_net_namespaces && exec "$0" probe auto`, self2(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Skipf("no user namespace to take things away in: %v %s", err, out)
	}
	for _, want := range []string{"loopback: ", "This process may not make network namespaces (", "an ordinary user may not either ("} {
		if !strings.Contains(string(out), want) {
			t.Errorf("got %q, want %q", out, want)
		}
	}
}

// self2 is the path of this program for a process that is another when it asks.
func self2(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
