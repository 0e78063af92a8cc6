/*
 * The user process of the measurements: says when it ran its first instruction.
 *
 * Without libc and static, so that nothing but the runtime stands between the request and the stamp.  It writes
 * struct timespec (CLOCK_MONOTONIC) to its stdout and ends; with an argument it then waits to be killed.
 */
#if defined(__x86_64__)
enum { NR_write = 1, NR_ppoll = 271, NR_exit_group = 231, NR_clock_gettime = 228 };
#elif defined(__aarch64__)
enum { NR_write = 64, NR_ppoll = 73, NR_exit_group = 94, NR_clock_gettime = 113 };
#else
#error "the stamp is written for x86-64 and aarch64"
#endif

static long call(long number, long a, long b, long c)
{
#if defined(__x86_64__)
	register long r10 __asm__("r10") = 0, r8 __asm__("r8") = 0;
	long result;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
#else
	register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = 0, x4 __asm__("x4") = 0;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
#endif
}

__attribute__((noreturn, used)) void begin(long arguments)
{
	long time[2];

	call(NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, (long)time, 0);
	call(NR_write, 1, (long)time, sizeof(time));
	if (arguments > 1)
		call(NR_ppoll, 0, 0, 0); /* ppoll of nothing */
	for (;;)
		call(NR_exit_group, 0, 0, 0);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\tmov (%rsp), %rdi\n\tand $-16, %rsp\n\tcall begin\n");
#else
__asm__(".globl _start\n_start:\n\tldr x0, [sp]\n\tbl begin\n");
#endif
