//go:build !linux

package main

func shedProgram() {}
