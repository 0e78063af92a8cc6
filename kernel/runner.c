/*
 * The runner: executes a program (kernel/program.py) and stays behind as its reaper.
 *
 * Freestanding: no libc, no start files, no allocation.  It is started from a sealed memfd with the
 * program in descriptor 3 and the report in descriptor 4, walks the steps, and knows four things: to make
 * a system call, to clone, to go on with another program, and to stop at the first failure that the step does not
 * tolerate.
 * Every word of policy is in the program, which Python wrote.
 *
 * The struct layouts here are those that program.py packs; tests/kernel/test_program.py holds them equal.
 */
#include <stdint.h>

#if defined(__x86_64__)
enum { NR_mmap = 9, NR_munmap = 11, NR_pread64 = 17, NR_exit_group = 231, NR_clock_gettime = 228 };
#elif defined(__aarch64__)
enum { NR_mmap = 222, NR_munmap = 215, NR_pread64 = 67, NR_exit_group = 94, NR_clock_gettime = 113 };
#else
#error "the runner is written for x86-64 and aarch64"
#endif

enum { PROGRAM = 3, REPORT = 4, MAGIC = 0x6c6e726b /* "krnl" */, VERSION = 1 };
enum { CALL = 0, CLONE = 1, CHAIN = 2, LAST_CLOCK = 3 /* a call after which the clock may not be asked */ };
enum { LITERAL = 0, ADDRESS = 1, SLOT = 2 };
enum { NO_SLOT = 0xff, SKIPPED = -4096 /* below every errno */ };
enum { PROT_READ = 1, PROT_WRITE = 2, MAP_SHARED = 1, MAP_PRIVATE = 2, MAP_POPULATE = 0x8000, CLOCK_MONOTONIC = 1 };

struct header {
	uint32_t magic;
	uint16_t version;
	uint16_t steps;
	uint32_t size;		/* of the whole program, bytes */
	uint32_t report_size;
	uint32_t first_step;	/* offset of the steps; the slots come right behind this header */
	uint32_t relocations;	/* offset of the list of words that hold addresses */
	uint32_t relocation_count;
	uint32_t pid_word;	/* offset of the word that is to hold the address of the report's pid, or 0 */
};

struct step {
	uint16_t number;	/* of the system call */
	uint8_t operation;
	uint8_t store;		/* slot for the result, or NO_SLOT */
	uint16_t kinds;		/* two bits per argument: LITERAL, ADDRESS, SLOT */
	uint16_t target;	/* CLONE: where the parent goes on */
	uint16_t tolerated[4];	/* errnos that count as done */
	int64_t arguments[6];
};

struct entry {
	int64_t result;		/* as the kernel gave it; SKIPPED when a slot it needs is empty */
	int64_t at_ns;		/* CLOCK_MONOTONIC when the step was over; 0: not reached */
};

struct report {
	int32_t pid;		/* of the cloned process; written by the kernel before it runs */
	int32_t failed;		/* 1 + index of the step that failed, 0 while none has */
	int32_t at;		/* index of the step under way in the cloned process */
	int32_t reaper_failed;	/* as failed, of the parent half */
	int64_t began_ns;
	struct entry entries[];
};

struct timespec { int64_t seconds, nanoseconds; };

static long call(long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	long result;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
#else
	register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
#endif
}

static void leave(int code)
{
	call(NR_exit_group, code, 0, 0, 0, 0, 0);
	/* A system call filter may forbid even that; no filter can forbid a fault. */
	for (;;)
		__builtin_trap();
}

static int64_t now(void)
{
	struct timespec time;

	call(NR_clock_gettime, CLOCK_MONOTONIC, (long)&time, 0, 0, 0, 0);
	return time.seconds * 1000000000 + time.nanoseconds;
}

static char *map(long size, int sharing, int fd)
{
	long result = call(NR_mmap, 0, size, PROT_READ | PROT_WRITE, sharing, fd, 0);

	if (result < 0)
		leave(112);
	return (char *)result;
}

/* Makes one step; SKIPPED when it needs a slot that an earlier, tolerated failure left empty. */
static long perform(const struct step *step, char *base, const int64_t *slots)
{
	long arguments[6];

	for (int i = 0; i < 6; i++) {
		int kind = step->kinds >> (2 * i) & 3;

		arguments[i] = step->arguments[i];
		if (kind == ADDRESS) {
			arguments[i] += (long)base;
		} else if (kind == SLOT) {
			arguments[i] = slots[step->arguments[i]];
			if (arguments[i] < 0)
				return SKIPPED;
		}
	}
	return call(step->number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
}

static int is_tolerated(const struct step *step, long result)
{
	if (result == SKIPPED)
		return 1;
	for (int i = 0; i < 4; i++)
		if (step->tolerated[i] && result == -(long)step->tolerated[i])
			return 1;
	return 0;
}

static void begin(void);

static void run(char *base, struct report *report)
{
	struct header *header = (struct header *)base;
	const struct step *steps = (const struct step *)(base + header->first_step);
	int64_t *slots = (int64_t *)(header + 1);
	int is_parent = 0, has_clock = 1;
	int64_t time = now();

	report->began_ns = time;
	for (int i = 0; i < header->steps; i++) {
		const struct step *step = &steps[i];
		int index = i;

		if (!is_parent)
			report->at = index;
		if (step->operation == CHAIN) {
			call(NR_munmap, (long)report, header->report_size, 0, 0, 0, 0);
			call(NR_munmap, (long)base, header->size, 0, 0, 0, 0);
			begin();
		}
		long result = perform(step, base, slots);
		int failed = result < 0 && result >= -4095;

		if (step->operation == CLONE && result > 0) {
			is_parent = 1;
			i = step->target - 1;
		}
		if (step->store != NO_SLOT)
			slots[step->store] = result;
		/* The child of a clone leaves the result to its parent, which knows the pid. */
		if (step->operation != CLONE || result != 0)
			report->entries[index].result = result;
		if (step->operation == LAST_CLOCK)
			has_clock = 0;
		time = has_clock ? now() : time + 1;
		report->entries[index].at_ns = time;
		if (failed && !is_tolerated(step, result)) {
			*(is_parent ? &report->reaper_failed : &report->failed) = index + 1;
			leave(111);
		}
	}
	leave(0);
}

/* Runs the program that is in descriptor 3 now. */
__attribute__((noreturn, used)) static void begin(void)
{
	struct header header;

	if (call(NR_pread64, PROGRAM, (long)&header, sizeof(header), 0, 0, 0) != sizeof(header))
		leave(112);
	if (header.magic != MAGIC || header.version != VERSION)
		leave(113);
	char *base = map(header.size, MAP_PRIVATE, PROGRAM);
	struct report *report = (struct report *)map(header.report_size, MAP_SHARED | MAP_POPULATE, REPORT);
	const uint32_t *relocations = (const uint32_t *)(base + header.relocations);

	for (uint32_t i = 0; i < header.relocation_count; i++)
		*(int64_t *)(base + relocations[i]) += (int64_t)base;
	/* The one address outside the program: the kernel writes the child's pid into the report itself. */
	if (header.pid_word)
		*(int64_t *)(base + header.pid_word) = (int64_t)&report->pid;
	run(base, report);
	__builtin_unreachable();
}

/* The entry point keeps the stack aligned for begin(), which never returns. */
#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tand $-16, %rsp\n\tcall begin\n");
#else
__asm__(".globl _start\n_start:\n\tmov x29, xzr\n\tbl begin\n");
#endif
