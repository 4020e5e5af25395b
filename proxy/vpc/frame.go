//go:build unix

package vpc

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// Bounds of a message between processes.
const (
	MaxMessage     = 64 << 20 // bytes of JSON
	MaxDescriptors = 253      // what the kernel passes with one message
)

// ErrDescriptorsLost means that a message came without its descriptors, because
// this process may open no more files. They are gone: the conversation is over.
var ErrDescriptorsLost = errors.New("descriptors were lost: the limit of open files is too low")

// Send writes v as one message, a length of 4 bytes and JSON, with descriptors
// that the other side gets duplicates of. It must not run beside another Send.
func Send(c *net.UnixConn, v any, fds ...int) error {
	if len(fds) > MaxDescriptors {
		return fmt.Errorf("send %d descriptors: more than %d", len(fds), MaxDescriptors)
	}
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("send a message: %w", err)
	}
	if len(body) > MaxMessage {
		return fmt.Errorf("send a message of %d bytes: more than %d", len(body), MaxMessage)
	}
	frame := append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body))), body...)
	var rights []byte
	if len(fds) > 0 {
		rights = syscall.UnixRights(fds...)
	}
	n, _, err := c.WriteMsgUnix(frame, rights, nil) // the descriptors ride on the first byte
	if err == nil && n < len(frame) {
		_, err = c.Write(frame[n:])
	}
	if err != nil {
		return fmt.Errorf("send a message: %w", err)
	}
	return nil
}

// Receive reads one message into v and returns the descriptors that came with it,
// which are the caller's to close; there are none beside an error. At the end of
// the conversation it returns io.EOF.
func Receive(c *net.UnixConn, v any) (fds []int, err error) {
	defer func() {
		if err != nil {
			closeDescriptors(fds)
			fds = nil
		}
	}()
	head, rights := make([]byte, 4), make([]byte, syscall.CmsgSpace(4*MaxDescriptors))
	for got := 0; got < len(head); {
		n, rn, flags, _, err := c.ReadMsgUnix(head[got:], rights)
		more, e := descriptors(rights[:rn])
		fds = append(fds, more...)
		switch {
		case errors.Is(err, io.EOF) && got == 0:
			err = io.EOF
		case err != nil:
			err = unfinished(err)
		case flags&syscall.MSG_CTRUNC != 0:
			err = ErrDescriptorsLost
		case e != nil:
			err = e
		}
		if err != nil {
			return fds, err
		}
		got += n
	}
	size := binary.BigEndian.Uint32(head)
	if size > MaxMessage {
		return fds, fmt.Errorf("receive a message of %d bytes: more than %d", size, MaxMessage)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c, body); err != nil {
		return fds, unfinished(err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fds, fmt.Errorf("receive a message: %w", err)
	}
	return fds, nil
}

// unfinished wraps the error that ended a message in the middle.
func unfinished(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("receive a message: %w", err)
}

func descriptors(rights []byte) (fds []int, err error) {
	messages, err := syscall.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		more, err := syscall.ParseUnixRights(&m)
		if err != nil {
			return fds, err
		}
		fds = append(fds, more...)
	}
	for _, fd := range fds {
		syscall.CloseOnExec(fd) // on Linux they are already
	}
	return fds, nil
}

func closeDescriptors(fds []int) {
	for _, fd := range fds {
		syscall.Close(fd)
	}
}
