//go:build !linux

package proxy

import "os"

// memoryFile is a file without a name.
func memoryFile(name string) (*os.File, error) {
	f, err := os.CreateTemp("", name)
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}
