#include "textflag.h"

// Two streams through the SHA extensions at once. A round waits for the one before it, so
// one stream leaves the unit idle half of the time; two that know nothing of each other
// fill it.
//
// A state is kept as the instructions want it: F E B A, then H G D C, lowest word first.

DATA k256<>+0x00(SB)/8, $0x71374491428a2f98
DATA k256<>+0x08(SB)/8, $0xe9b5dba5b5c0fbcf
DATA k256<>+0x10(SB)/8, $0x59f111f13956c25b
DATA k256<>+0x18(SB)/8, $0xab1c5ed5923f82a4
DATA k256<>+0x20(SB)/8, $0x12835b01d807aa98
DATA k256<>+0x28(SB)/8, $0x550c7dc3243185be
DATA k256<>+0x30(SB)/8, $0x80deb1fe72be5d74
DATA k256<>+0x38(SB)/8, $0xc19bf1749bdc06a7
DATA k256<>+0x40(SB)/8, $0xefbe4786e49b69c1
DATA k256<>+0x48(SB)/8, $0x240ca1cc0fc19dc6
DATA k256<>+0x50(SB)/8, $0x4a7484aa2de92c6f
DATA k256<>+0x58(SB)/8, $0x76f988da5cb0a9dc
DATA k256<>+0x60(SB)/8, $0xa831c66d983e5152
DATA k256<>+0x68(SB)/8, $0xbf597fc7b00327c8
DATA k256<>+0x70(SB)/8, $0xd5a79147c6e00bf3
DATA k256<>+0x78(SB)/8, $0x1429296706ca6351
DATA k256<>+0x80(SB)/8, $0x2e1b213827b70a85
DATA k256<>+0x88(SB)/8, $0x53380d134d2c6dfc
DATA k256<>+0x90(SB)/8, $0x766a0abb650a7354
DATA k256<>+0x98(SB)/8, $0x92722c8581c2c92e
DATA k256<>+0xa0(SB)/8, $0xa81a664ba2bfe8a1
DATA k256<>+0xa8(SB)/8, $0xc76c51a3c24b8b70
DATA k256<>+0xb0(SB)/8, $0xd6990624d192e819
DATA k256<>+0xb8(SB)/8, $0x106aa070f40e3585
DATA k256<>+0xc0(SB)/8, $0x1e376c0819a4c116
DATA k256<>+0xc8(SB)/8, $0x34b0bcb52748774c
DATA k256<>+0xd0(SB)/8, $0x4ed8aa4a391c0cb3
DATA k256<>+0xd8(SB)/8, $0x682e6ff35b9cca4f
DATA k256<>+0xe0(SB)/8, $0x78a5636f748f82ee
DATA k256<>+0xe8(SB)/8, $0x8cc7020884c87814
DATA k256<>+0xf0(SB)/8, $0xa4506ceb90befffa
DATA k256<>+0xf8(SB)/8, $0xc67178f2bef9a3f7
GLOBL k256<>(SB), RODATA|NOPTR, $256

DATA swap32<>+0(SB)/8, $0x0405060700010203
DATA swap32<>+8(SB)/8, $0x0c0d0e0f08090a0b
GLOBL swap32<>(SB), RODATA|NOPTR, $16

// Four words of the message, in the order of the machine.
#define LOAD(p, off, w) \
	MOVOU  off(p), w; \
	PSHUFB X15, w

// Four rounds with four words of the message, at off in the table.
#define ROUNDS(off, w, s0, s1) \
	MOVOU       off(AX), X0; \
	PADDL       w, X0; \
	SHA256RNDS2 X0, s0, s1; \
	PSHUFD      $0x0e, X0, X0; \
	SHA256RNDS2 X0, s1, s0

// The next four words in place of the oldest: w0 are these, w3 the newest.
#define NEXT(w0, w1, w2, w3, t) \
	SHA256MSG1 w1, w0; \
	MOVO       w3, t; \
	PALIGNR    $4, w2, t; \
	PADDL      t, w0; \
	SHA256MSG2 w3, w0

#define BOTH(off, wa, wb) \
	ROUNDS(off, wa, X1, X2); \
	ROUNDS(off, wb, X8, X9)

// Both streams' next words and the rounds with them.
#define STEP(off, a0, a1, a2, a3, b0, b1, b2, b3) \
	NEXT(a0, a1, a2, a3, X7); \
	NEXT(b0, b1, b2, b3, X14); \
	BOTH(off, a0, b0)

// func pairBlocks(states *[16]uint32, a, b *byte, n int)
TEXT ·pairBlocks(SB), NOSPLIT, $0-32
	MOVQ  states+0(FP), DI
	MOVQ  a+8(FP), SI
	MOVQ  b+16(FP), DX
	MOVQ  n+24(FP), CX
	LEAQ  k256<>(SB), AX
	MOVOU swap32<>(SB), X15
	MOVOU 0(DI), X1
	MOVOU 16(DI), X2
	MOVOU 32(DI), X8
	MOVOU 48(DI), X9

loop:
	LOAD(SI, 0, X3)
	LOAD(DX, 0, X10)
	BOTH(0x00, X3, X10)
	LOAD(SI, 16, X4)
	LOAD(DX, 16, X11)
	BOTH(0x10, X4, X11)
	LOAD(SI, 32, X5)
	LOAD(DX, 32, X12)
	BOTH(0x20, X5, X12)
	LOAD(SI, 48, X6)
	LOAD(DX, 48, X13)
	BOTH(0x30, X6, X13)

	STEP(0x40, X3, X4, X5, X6, X10, X11, X12, X13)
	STEP(0x50, X4, X5, X6, X3, X11, X12, X13, X10)
	STEP(0x60, X5, X6, X3, X4, X12, X13, X10, X11)
	STEP(0x70, X6, X3, X4, X5, X13, X10, X11, X12)
	STEP(0x80, X3, X4, X5, X6, X10, X11, X12, X13)
	STEP(0x90, X4, X5, X6, X3, X11, X12, X13, X10)
	STEP(0xa0, X5, X6, X3, X4, X12, X13, X10, X11)
	STEP(0xb0, X6, X3, X4, X5, X13, X10, X11, X12)
	STEP(0xc0, X3, X4, X5, X6, X10, X11, X12, X13)
	STEP(0xd0, X4, X5, X6, X3, X11, X12, X13, X10)
	STEP(0xe0, X5, X6, X3, X4, X12, X13, X10, X11)
	STEP(0xf0, X6, X3, X4, X5, X13, X10, X11, X12)

	// What the states were before is still where they came from.
	MOVOU 0(DI), X0
	PADDL X0, X1
	MOVOU X1, 0(DI)
	MOVOU 16(DI), X0
	PADDL X0, X2
	MOVOU X2, 16(DI)
	MOVOU 32(DI), X0
	PADDL X0, X8
	MOVOU X8, 32(DI)
	MOVOU 48(DI), X0
	PADDL X0, X9
	MOVOU X9, 48(DI)
	ADDQ  $64, SI
	ADDQ  $64, DX
	DECQ  CX
	JNZ   loop
	RET

// func cpuid(leaf, sub uint32) (a, b, c, d uint32)
TEXT ·cpuid(SB), NOSPLIT, $0-24
	MOVL leaf+0(FP), AX
	MOVL sub+4(FP), CX
	CPUID
	MOVL AX, a+8(FP)
	MOVL BX, b+12(FP)
	MOVL CX, c+16(FP)
	MOVL DX, d+20(FP)
	RET
