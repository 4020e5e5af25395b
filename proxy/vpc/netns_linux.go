package vpc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace held open. Its methods may run beside close:
// they then fail with os.ErrClosed and never meet another file's descriptor.
type namespace struct {
	file  *os.File
	inode uint64
}

// openNamespace opens the namespace that path leads to.
func openNamespace(path string) (*namespace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return checkNamespace(f)
}

// inheritNamespace goes on with a namespace by its descriptor.
func inheritNamespace(fd int, name string) (*namespace, error) {
	unix.CloseOnExec(fd)
	return checkNamespace(os.NewFile(uintptr(fd), name))
}

func checkNamespace(f *os.File) (*namespace, error) {
	n := &namespace{file: f}
	err := n.use(func(fd int) error {
		var fsys unix.Statfs_t
		if err := unix.Fstatfs(fd, &fsys); err != nil {
			return err
		}
		if fsys.Type != unix.NSFS_MAGIC {
			return errNoNamespace
		}
		if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
			return errNoNamespace
		}
		var st unix.Stat_t
		err := unix.Fstat(fd, &st)
		n.inode = st.Ino
		return err
	})
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open %s: %w", f.Name(), err)
	}
	return n, nil
}

var errNoNamespace = errors.New("not a network namespace")

// threadNamespace is that of the calling thread.
const threadNamespace = "/proc/thread-self/ns/net"

// unshare moves the calling thread, which must be locked, into a new namespace.
func unshare() (*namespace, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	return openNamespace(threadNamespace)
}

// use calls f with the descriptor, which stays open meanwhile.
func (n *namespace) use(f func(fd int) error) error {
	c, err := n.file.SyscallConn()
	if err != nil {
		return err
	}
	if e := c.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil {
		return e
	}
	return err
}

// enter moves the calling thread, which must be locked, into the namespace.
func (n *namespace) enter() error {
	return n.use(func(fd int) error { return unix.Setns(fd, unix.CLONE_NEWNET) })
}

func (n *namespace) close() {
	if n != nil {
		n.file.Close()
	}
}

// pins are the files on which namespaces are mounted, so that they outlive the
// engine and ip-netns(8) finds them. In a user namespace there are none: nothing
// can be mounted where the host would see it, and the descriptors hold everything.
type pins struct {
	prefix string // of the names of this installation, which no other shares
}

const pinDir = "/run/netns"

func (p *pins) path(name string) string { return filepath.Join(pinDir, p.prefix+name) }

// open returns the namespace pinned as name; fs.ErrNotExist if there is none, or
// only the file of a pin that was never finished.
func (p *pins) open(name string) (*namespace, error) {
	n, err := openNamespace(p.path(name))
	if errors.Is(err, errNoNamespace) {
		return nil, fs.ErrNotExist
	}
	return n, err
}

// add pins the namespace of the calling thread.
func (p *pins) add(name string) error {
	if err := preparePinDir(); err != nil {
		return err
	}
	path := p.path(name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	if err := unix.Mount(threadNamespace, path, "", unix.MS_BIND, ""); err != nil {
		os.Remove(path)
		return fmt.Errorf("mount %s: %w", path, err)
	}
	return nil
}

// remove takes the pin away. The namespace ends with its last user.
func (p *pins) remove(name string) error {
	path := p.path(name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// names lists the pins of this installation that begin with kind.
func (p *pins) names(kind string) ([]string, error) {
	files, err := os.ReadDir(pinDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, f := range files {
		if name, ok := strings.CutPrefix(f.Name(), p.prefix); ok && strings.HasPrefix(name, kind) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// preparePinDir makes pinDir as ip-netns(8) does, a shared mount of its own: else
// the first "ip netns add" would put such a mount over our pins, and take away
// only its copies of them.
func preparePinDir() error {
	if err := os.MkdirAll(pinDir, 0o755); err != nil {
		return err
	}
	dir, err := os.Open(pinDir)
	if err != nil {
		return err
	}
	defer dir.Close() // and with it the lock, which ip-netns takes too
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", pinDir, err)
	}
	share := func() error { return unix.Mount("", pinDir, "none", unix.MS_SHARED|unix.MS_REC, "") }
	if err = share(); errors.Is(err, unix.EINVAL) { // not a mount yet
		if err = unix.Mount(pinDir, pinDir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = share()
		}
	}
	if err != nil {
		return fmt.Errorf("mount %s: %w", pinDir, err)
	}
	return nil
}
