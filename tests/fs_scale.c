/* fs_scale.c - what so many files cost below FUSE: fs_scale FOLDER N distinct|equal. FOLDER: for the state, best on a tmpfs.
 * N pictures in one folder of in/ and their N results in one of out/, all of one key or each of its own; one figure a line. */
#include "config.h"
#include "fs.h"
#include "hash.h"
#include "names.h"
#include "record.h"
#include "sync.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { FOLDER_IN = TREE_FIRST_ID, FOLDER_OUT, FIRST_FILE = 100, USERS = 10, GIVE_UP_S = 60 };

static struct fs fs;
static struct options options = {.idle_s = 600};
static const char *state;
static long n;
static bool equal;

static double seconds(void)
{
	return fs_monotonic_ns() * 1e-9;
}

static _Noreturn void end(const char *what, const char *why)
{
	fprintf(stderr, "fs_scale: %s: %s\n", what, why);
	exit(1);
}

static void commit(void)
{
	int error = fs_commit(&fs, false);
	if (error)
		end("journal", strerror(error));
}

static size_t allocated(void)
{
	struct mallinfo2 info = mallinfo2();
	return info.uordblks + info.hblkhd;
}

/* The state as it was left, from the journal. */
static void load(const char *what)
{
	struct error err;
	size_t before = allocated();
	double start = seconds();
	clock_t cpu = clock();
	if (!fs_init(&fs, &options, state, &err))
		end("start", err.text);
	printf("%s: %.2f s, %.2f s of them on a processor, journal of %.0f MB; %.0f bytes a node of %zu\n", what,
		seconds() - start, (double)(clock() - cpu) / CLOCKS_PER_SEC, fs.journal.log.len / 1e6,
		(double)(allocated() - before) / fs.tree.n_nodes, fs.tree.n_nodes);
}

static void put_folder(uint64_t id, uint64_t parent)
{
	struct tree_node node = {.id = id, .mode = S_IFDIR | 0755, .ctime_ns = fs_now_ns()};
	record_node(fs_change(&fs), &node, parent, "d");
	commit();
}

static void put_file(uint64_t id, uint64_t parent, const char *name, int64_t now_ns)
{
	struct tree_node node = {.id = id,
		.mode = S_IFREG | 0644,
		.size = 600,
		.atime_ns = now_ns,
		.mtime_ns = now_ns,
		.ctime_ns = now_ns};
	record_node(&fs.change, &node, parent, name);
}

static void put_input(long i, enum input_state as, int64_t now_ns)
{
	char stem[64];
	snprintf(stem, sizeof stem, "d/picture%ld", i);
	struct input input = {.id = FIRST_FILE + i,
		.seq = 1 + i,
		.stamp_size = 600,
		.stamp_mtime_ns = now_ns,
		.options = config_defaults(),
		.state = as,
		.stem = stem};
	hash_once(input.key, sizeof input.key, &i, equal ? 0 : sizeof i);
	record_input(&fs.change, &input);
}

static void put_result(long i)
{
	struct result result = {.id = FIRST_FILE + n + i, .source = FIRST_FILE + i, .size = 596, .output = JOB_GLB};
	hash_once(result.key, sizeof result.key, &i, equal ? 0 : sizeof i);
	record_result(&fs.change, &result);
}

/* What a mount appends when pictures arrive, are queued, run and are done. */
static void write_history(void)
{
	char name[64];
	struct error err;
	if (!fs_init(&fs, &options, state, &err))
		end("start", err.text);
	put_folder(FOLDER_IN, TREE_IN);
	put_folder(FOLDER_OUT, TREE_OUT);
	int64_t now_ns = fs_now_ns();
	static const enum input_state states[] = {INPUT_IDLE, INPUT_QUEUED, INPUT_RUNNING, INPUT_DONE};
	for (int pass = 0; pass < 4; pass++) {
		for (long i = 0; i < n; i++) {
			fs_change(&fs);
			snprintf(name, sizeof name, "picture%ld.png", i);
			if (pass == 0)
				put_file(FIRST_FILE + i, FOLDER_IN, name, now_ns);
			else
				put_input(i, states[pass], now_ns);
			snprintf(name, sizeof name, "picture%ld.glb", i);
			if (pass == 3) {
				put_file(FIRST_FILE + n + i, FOLDER_OUT, name, now_ns);
				put_result(i);
			}
			commit();
		}
	}
	fs_finish(&fs);
}

static void read_folder(void)
{
	struct stat st;
	char *name;
	bool found = true;
	double start = seconds();
	for (uint64_t after = 0; !names_next(&fs, FOLDER_IN, after, false, &st, &name, &found) && found;) {
		after = st.st_ino;
		free(name);
	}
	printf("readdir: %.2f us a name\n", (seconds() - start) / n * 1e6);
}

/* The longest that one who looks up names at random waits, until the journal is another one or so much time is over. */
static double longest_wait(uint64_t journal, double limit_s, double *took)
{
	char name[64];
	double start = seconds(), longest = 0;
	for (long i = 0; seconds() - start < limit_s; i = (i + 7919) % n) {
		snprintf(name, sizeof name, "picture%ld.png", i);
		double asked = seconds();
		pthread_mutex_lock(&fs.lock);
		const struct tree_node *dir = tree_find(&fs.tree, FOLDER_IN);
		bool there = tree_lookup(&fs.tree, dir, name) != NULL, other = fs.journal.log.id != journal;
		pthread_mutex_unlock(&fs.lock);
		double waited = seconds() - asked;
		longest = waited > longest ? waited : longest;
		if (!there)
			end(name, "is not there");
		if (other)
			break;
		usleep(50);
	}
	*took = seconds() - start;
	return longest;
}

static atomic_bool answered, stop;

static void answer(void *user, int error)
{
	(void)user;
	(void)error;
	atomic_store(&answered, true);
}

/* One fsync after another; the longest took so long. */
static void *sync_again_and_again(void *user)
{
	double *longest = user;
	while (!atomic_load(&stop)) {
		double asked = seconds();
		atomic_store(&answered, false);
		sync_now(&fs, -1, 0, answer, NULL);
		while (!atomic_load(&answered))
			usleep(100);
		double took = seconds() - asked;
		*longest = took > *longest ? took : *longest;
	}
	return NULL;
}

static void write_anew(void)
{
	pthread_t syncer;
	struct error err;
	double took, quiet, longest, fsync_s = 0;
	int64_t now_ns = fs_now_ns();
	while (fs.journal.log.len <
		3 * record_live_bytes(&fs.tree, &fs.jobs) + (8 << 20)) { /* utimes of all, again and again */
		for (long i = 0; i < n; i++) {
			char name[64];
			snprintf(name, sizeof name, "picture%ld.png", i);
			fs_change(&fs);
			put_file(FIRST_FILE + i, FOLDER_IN, name, now_ns);
			commit();
		}
	}
	quiet = longest_wait(fs.journal.log.id, 2, &took);
	uint64_t journal = fs.journal.log.id;
	double start = seconds();
	if (!sync_start(&fs, &err) || pthread_create(&syncer, NULL, sync_again_and_again, &fsync_s) != 0)
		end("sync thread", "cannot be started");
	double began = seconds() - start; /* it may have the lock by now */
	longest = longest_wait(journal, GIVE_UP_S, &took);
	atomic_store(&stop, true);
	pthread_join(syncer, NULL);
	sync_stop(&fs);
	printf("journal written anew: %.2f s, %.0f MB; longest wait of a lookup %.1f ms, of an fsync %.1f ms (of a "
	       "lookup before: "
	       "%.1f ms)\n",
		took + began, fs.journal.base_len / 1e6, longest * 1e3, fsync_s * 1e3, quiet * 1e3);
}

static void take_turns(void)
{
	struct input *turns[JOBS_TURNS_MAX];
	enum { ROUNDS = 20, OUTCOMES = 100 };
	for (long i = 0; i < n; i++) {
		struct input *input = jobs_find(&fs.jobs, FIRST_FILE + i);
		input->uid = i % USERS;
		jobs_enqueue(&fs.jobs, input);
	}
	double start = seconds();
	for (int i = 0; i < ROUNDS; i++)
		if (!jobs_next(&fs.jobs, NULL, NULL))
			end("queue", "is empty");
	double next = (seconds() - start) / ROUNDS;
	for (long i = 0; i < n; i++)
		jobs_set_state(&fs.jobs, jobs_find(&fs.jobs, FIRST_FILE + i), INPUT_DONE, true);
	start = seconds();
	for (int i = 0; i < ROUNDS; i++)
		jobs_outcome_turns(&fs.jobs, turns);
	printf("turns of %d users: jobs_next %.1f us, jobs_outcome_turns %.1f us\n", USERS, next * 1e6,
		(seconds() - start) / ROUNDS * 1e6);
	for (long i = 0; i < n; i++)
		jobs_set_state(&fs.jobs, jobs_find(&fs.jobs, FIRST_FILE + i), INPUT_DONE, false);
}

static void remove_results(void)
{
	char name[64];
	long i = 0;
	double start = seconds();
	for (; i < n && seconds() - start < GIVE_UP_S; i++) {
		snprintf(name, sizeof name, "picture%ld.glb", i);
		int error = names_unlink(&fs, FOLDER_OUT, name);
		if (error)
			end(name, strerror(error));
	}
	printf("results removed, ascending: %.1f us each (%ld of %ld)\n", (seconds() - start) / i * 1e6, i, n);
}

int main(int argc, char **argv)
{
	if (argc != 4 || (n = atol(argv[2])) < 1)
		end("usage", "fs_scale FOLDER N distinct|equal");
	state = argv[1];
	equal = strcmp(argv[3], "equal") == 0;
	printf("%ld pictures, %s\n", n, argv[3]);
	setlinebuf(stdout);
	write_history();
	load("start");
	read_folder();
	write_anew();
	fs_finish(&fs);
	load("start, journal just written anew");
	take_turns();
	remove_results();
	fs_finish(&fs);
	load("start after the removals");
	fs_finish(&fs);
	return 0;
}
