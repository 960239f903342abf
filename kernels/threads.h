/* threads.h - how many processor threads the work on the host uses: one setting of the process, which every parallel loop obeys.
 * Two numbers make it up: the limit, which the user names, and what the machine can give, which is found out between stages:
 * where threads wait for a processor, others wait for them at the end of every loop, and fewer are faster. Only loops whose
 * results don't depend on how many there are follow it.
 *
 * Idle threads spin before they sleep. libgomp's default of many milliseconds takes the processor from the thread that is waited
 * for as soon as anything else runs; programs start with the small count below in the environment, which libgomp reads when it
 * is loaded. */
#ifndef TRELLIS_THREADS_H
#define TRELLIS_THREADS_H

#include <stdbool.h>
#include <stdint.h>

/* Turns of the waiting loop, some hundred microseconds (NOTES.md). */
#define THREADS_SPIN_VARIABLE "GOMP_SPINCOUNT"
#define THREADS_SPIN_COUNT "10000"

/* At most n threads from now on; 0: as many as OpenMP starts with, all processors of the process or OMP_NUM_THREADS. */
void threads_limit(int n);
/* Threads of a loop that begins now: the limit or what the machine can give, 1 at least. */
int threads_now(void);
/* The same for who has a limit of its own: most, or what the machine can give. */
int threads_of(int most);

/* What is known of the waiting so far. Zeroes: nothing. */
struct threads_trend {
	int allowed;  /* threads that the machine can give; 0: all */
	int calm;     /* reviews in a row without waiting */
	int patience; /* that many before another thread is tried; 0: THREADS_PATIENCE */
	bool trying;  /* the last review allowed one more */
};
enum { THREADS_PATIENCE = 1, THREADS_MOST_PATIENCE = 16 };

/* The trend after a review of a span in which `most` threads were wanted and the share `waited` (0..1) of the time that a
 * thread could run it waited for a processor. More than a fifth: as many threads fewer. Less than a twentieth: one
 * more; when that was too much, it is tried again after twice as many reviews. */
void threads_judge(struct threads_trend *trend, int most, double waited);

/* Where a thread stood at its last review. Zeroes at first; one a job of a thread that starts loops. */
struct threads_watch {
	uint64_t ran_ns, waited_ns;
	bool begun;
};

/* Between stages, by the thread that starts their loops: look how long it has waited for a processor (/proc/thread-self/schedstat;
 * without it nothing changes) and allow all loops of the process fewer or more threads. Spans below 50 ms are left to the
 * next review. */
void threads_review(struct threads_watch *watch);

#endif
