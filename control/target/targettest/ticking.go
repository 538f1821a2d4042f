package targettest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ticking is a boot sector that goes on until the power button is pressed: about five
// times a second it counts in the first byte of the disk's second sector and says tick=X
// on the serial line, with X from A to P. Assembled with as from:
//
//	cli; xor ax,ax; mov ds,ax; mov es,ax; mov ss,ax; mov sp,0x7c00; sti; mov [0x7df0],dl
//	mov dx,0x602; mov ax,0x100; out dx,ax	# the power button shall be seen
//	again: inc byte [0x8000]; mov ax,0x0301; mov cx,2; mov dl,[0x7df0]; mov dh,0; mov bx,0x8000; int 0x13
//	mov dx,0x3f8; jc failed; mov si,msg
//	say: lodsb; test al,al; jz letter; out dx,al; jmp say
//	letter: mov al,[0x8000]; and al,15; add al,'A'; out dx,al; mov al,10; out dx,al; mov cx,4
//	pause: hlt; mov dx,0x600; in ax,dx; test ah,1; jz on; mov dx,0x604; mov ax,0x2000; out dx,ax
//	on: loop pause; jmp again
//	failed: mov al,'!'; out dx,al; hlt; jmp failed
//	msg: db "tick=",0
const ticking = "\xfa\x31\xc0\x8e\xd8\x8e\xc0\x8e\xd0\xbc\x00\x7c\xfb\x88\x16\xf0\x7d\xba\x02\x06\xb8\x00\x01\xef\xfe\x06\x00\x80\xb8\x01\x03\xb9" +
	"\x02\x00\x8a\x16\xf0\x7d\xb6\x00\xbb\x00\x80\xcd\x13\xba\xf8\x03\x72\x2e\xbe\x66\x7c\xac\x84\xc0\x74\x03\xee\xeb\xf8\xa0\x00\x80" +
	"\x24\x0f\x04\x41\xee\xb0\x0a\xee\xb9\x04\x00\xf4\xba\x00\x06\xed\xf6\xc4\x01\x74\x07\xba\x04\x06\xb8\x00\x20\xef\xe2\xed\xeb\xb8" +
	"\xb0\x21\xee\xf4\xeb\xfatick=\x00"

// Ticking returns a disk of 4 MiB that boots and says word=X again and again, with X from
// A to P, and counts in the first byte of its second sector. word has four letters.
func Ticking(word string) []byte {
	image := make([]byte, 4<<20)
	copy(image, strings.Replace(ticking, "tick=", word[:4]+"=", 1))
	image[510], image[511] = 0x55, 0xaa
	return image
}

// WorkIn lists the processes that were told of dir or work in it, but for this one.
func WorkIn(dir string) (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range all {
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(p), "%d", &pid); err != nil || pid == os.Getpid() {
			continue
		}
		cwd, _ := os.Readlink(filepath.Join(p, "cwd"))
		cmd, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		if strings.HasPrefix(cwd, dir) || strings.Contains(string(cmd), dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}
