/* threads.c - see threads.h. */
#include "threads.h"

#include <fcntl.h>
#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

static const double TOO_MUCH = 0.2, CALM = 0.05;
static const uint64_t SPAN_NS = 50000000;

static atomic_int limit, allowed; /* 0: none */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct threads_trend process_trend; /* lock */

void threads_limit(int n)
{
	atomic_store(&limit, n > 0 ? n : 0);
}

int threads_of(int most)
{
	int n = atomic_load_explicit(&allowed, memory_order_relaxed);
	return n > 0 && n < most ? n : most;
}

static int limit_now(void)
{
	int n = atomic_load_explicit(&limit, memory_order_relaxed);
	return n > 0 ? n : omp_get_max_threads();
}

int threads_now(void)
{
	return threads_of(limit_now());
}

void threads_judge(struct threads_trend *t, int most, double waited)
{
	int now = t->allowed > 0 && t->allowed < most ? t->allowed : most;

	if (!t->patience)
		t->patience = THREADS_PATIENCE;
	if (waited > TOO_MUCH) {
		if (t->trying && t->patience < THREADS_MOST_PATIENCE)
			t->patience *= 2;
		t->allowed = (int)(now * (1 - waited)) > 1 ? (int)(now * (1 - waited)) : 1;
		t->calm = 0;
		t->trying = false;
		return;
	}
	if (t->trying) /* it went well */
		t->patience = THREADS_PATIENCE;
	t->trying = false;
	t->calm = waited < CALM ? t->calm + 1 : 0;
	if (now < most && t->calm >= t->patience) {
		t->allowed = now + 1;
		t->calm = 0;
		t->trying = true;
	}
}

/* "RAN WAITED SLICES", nanoseconds of the calling thread. */
static bool read_schedule(uint64_t *ran_ns, uint64_t *waited_ns)
{
	char text[96], *end;
	int fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return false;
	text[n] = '\0';
	*ran_ns = strtoull(text, &end, 10);
	*waited_ns = strtoull(end, NULL, 10);
	return *ran_ns > 0; /* a kernel that does not count says 0 0 0 */
}

void threads_review(struct threads_watch *w)
{
	struct threads_watch now = {.begun = true};
	if (!read_schedule(&now.ran_ns, &now.waited_ns))
		return;
	uint64_t waited = now.waited_ns - w->waited_ns, span = now.ran_ns - w->ran_ns + waited;
	if (w->begun && span < SPAN_NS)
		return;
	pthread_mutex_lock(&lock);
	if (w->begun)
		threads_judge(&process_trend, limit_now(), (double)waited / (double)span);
	else
		process_trend.patience = 0; /* much may have changed since the last job */
	atomic_store(&allowed, process_trend.allowed);
	pthread_mutex_unlock(&lock);
	*w = now;
}
