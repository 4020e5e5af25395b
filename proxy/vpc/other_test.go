//go:build unix && !linux

package vpc

func execTool([]string) int { return 1 }
