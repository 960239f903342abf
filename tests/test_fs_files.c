/* test_fs_files.c - files below FUSE, in a state directory of its own: what becomes of one that is gone, of the job of one that is
 * written again, and of all of them at the next start, after a crash, and when a sync fails. */
#include "compact.h"
#include "contents.h"
#include "files.h"
#include "fs.h"
#include "names.h"
#include "sync.h"
#include "xattrs.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct options options = {.max_bytes = 1 << 20};
static const struct caller caller = {.uid = 1, .gid = 1, .pid = 1};
static char path[] = "/tmp/trellisfs-test-XXXXXX";
static struct fs fs;

static void set_up(void)
{
	struct error err;
	cr_assert(mkdtemp(path) && fs_init(&fs, &options, path, &err));
}

static void tear_down(void)
{
	char command[64];
	fs_finish(&fs);
	snprintf(command, sizeof command, "rm -r %s", path);
	cr_assert_eq(system(command), 0);
}

TestSuite(files, .init = set_up, .fini = tear_down);

/* The kernel may still know the id: through an O_PATH descriptor, or the handle of an NFS client. */
Test(files, one_that_is_gone_takes_no_bytes)
{
	struct stat st, change = {.st_size = 5000};
	struct handle *handle, *again;
	cr_assert_eq(names_create(&fs, &caller, TREE_IN, "a", 0644, O_RDWR, &st, &handle), 0);
	cr_assert_eq(files_write(&fs, handle, "12345", 5, 0), 5);
	cr_assert_eq(fs.used_bytes, 5);
	cr_assert_eq(names_unlink(&fs, TREE_IN, "a"), 0);
	cr_assert_eq(files_setattr(&fs, st.st_ino, handle, FILES_SIZE, &change), 0, "it is still open");
	cr_assert_eq(fs.used_bytes, 5000);
	files_release(&fs, handle);
	cr_assert_eq(fs.used_bytes, 0);
	change.st_size = 5000;
	cr_assert_eq(files_setattr(&fs, st.st_ino, NULL, FILES_SIZE, &change), ESTALE);
	cr_assert_eq(files_open(&fs, st.st_ino, O_RDWR, &again), ESTALE);
	cr_assert_eq(fs.used_bytes, 0);
	cr_assert_lt(state_content_open(&fs.state, st.st_ino, O_RDONLY), 0, "its content is still there");
	names_forget(&fs, st.st_ino, 1);
	cr_assert_eq(files_setattr(&fs, st.st_ino, NULL, FILES_MODE, &change), ESTALE);
}

static uint64_t start_early(uint64_t id)
{
	struct input *input = jobs_input(&fs.jobs, id);
	jobs_enqueue(&fs.jobs, input);
	jobs_set_state(&fs.jobs, input, INPUT_RUNNING, false);
	input->early = true;
	return input->seq;
}

/* The picture is dirty until it has settled, and a job of it runs already. */
Test(files, an_early_job_is_withdrawn_by_a_writer)
{
	struct stat st, change = {.st_size = 0};
	struct handle *handle;
	cr_assert_eq(names_create(&fs, &caller, TREE_IN, "a", 0644, O_RDWR, &st, &handle), 0);
	cr_assert_eq(files_write(&fs, handle, "12345", 5, 0), 5);
	const struct input *input = jobs_input(&fs.jobs, st.st_ino);
	uint64_t seq = start_early(st.st_ino);
	cr_assert_eq(files_write(&fs, handle, "1", 1, 5), 1);
	cr_assert(!jobs_wants(input, seq) && input->state == INPUT_IDLE && input->restless);
	files_release(&fs, handle);

	seq = start_early(st.st_ino);
	cr_assert_eq(files_open(&fs, st.st_ino, O_RDONLY, &handle), 0);
	files_release(&fs, handle);
	cr_assert(jobs_wants(input, seq), "a reader changes nothing");
	cr_assert_eq(files_open(&fs, st.st_ino, O_WRONLY, &handle), 0);
	files_release(&fs, handle);
	cr_assert(!jobs_wants(input, seq));

	seq = start_early(st.st_ino);
	cr_assert_eq(files_setattr(&fs, st.st_ino, NULL, FILES_SIZE, &change), 0);
	cr_assert(!jobs_wants(input, seq));
	names_forget(&fs, st.st_ino, 1);
}

/* The next start: after a clean end, or as it is when the daemon was killed. */
static void start_again(bool crash)
{
	struct error err = {""};
	if (crash)
		fs.begun = false; /* nothing more is written */
	fs_finish(&fs);
	cr_assert(fs_init(&fs, &options, path, &err), "%s", err.text);
	contents_look_all(&fs);
}

static void put(const char *name, const char *text)
{
	struct stat st;
	struct handle *handle;
	cr_assert_eq(names_create(&fs, &caller, TREE_IN, name, 0644, O_RDWR, &st, &handle), 0);
	cr_assert_eq(files_write(&fs, handle, text, strlen(text), 0), (ssize_t)strlen(text));
	files_release(&fs, handle);
	names_forget(&fs, st.st_ino, 1);
}

static struct stat look_up(uint64_t parent, const char *name)
{
	struct stat st;
	cr_assert_eq(names_lookup(&fs, &caller, parent, name, &st), 0, "%s is not there", name);
	names_forget(&fs, st.st_ino, 1);
	return st;
}

Test(files, ids_are_given_once)
{
	put("a", "1");
	uint64_t limit = fs.id_limit, next = fs.tree.next_id;
	start_again(true);
	cr_assert_geq(fs.tree.next_id, limit, "an id that a crash may have lost the record of is given again");
	put("b", "2");
	next = fs.tree.next_id;
	start_again(false);
	cr_assert_eq(fs.tree.next_id, next, "a clean end wastes none");
}

/* Each change of a folder's names sets its time, and that is what it is after the start. */
Test(files, folders_keep_their_times)
{
	struct stat st, dir;
	cr_assert_eq(names_mkdir(&fs, &caller, TREE_IN, "d", 0755, &dir), 0);
	cr_assert_eq(names_mkdir(&fs, &caller, dir.st_ino, "e", 0755, &st), 0);
	put("x", "1");
	const char *const steps[] = {"made", "renamed", "removed"};
	for (int i = 0; i < 3; i++) {
		struct timespec before = look_up(TREE_IN, "d").st_mtim, after, top;
		usleep(2000);
		int error = i == 0   ? names_symlink(&fs, &caller, dir.st_ino, "link", "t", &st)
			    : i == 1 ? names_rename(&fs, &caller, TREE_IN, "x", dir.st_ino, "y", 0)
				     : names_unlink(&fs, dir.st_ino, "y");
		cr_assert_eq(error, 0);
		after = look_up(TREE_IN, "d").st_mtim;
		top = look_up(TREE_ROOT, "in").st_mtim;
		cr_assert(after.tv_sec > before.tv_sec || after.tv_nsec > before.tv_nsec);
		start_again(i % 2);
		before = look_up(TREE_IN, "d").st_mtim;
		cr_assert(before.tv_sec == after.tv_sec && before.tv_nsec == after.tv_nsec, "%s", steps[i]);
		before = look_up(TREE_ROOT, "in").st_mtim;
		cr_assert(before.tv_sec == top.tv_sec && before.tv_nsec == top.tv_nsec, "in/: %s", steps[i]);
	}
}

/* The clock may have been set back between the write and utimens: what was asked for last holds. */
Test(files, an_explicit_time_survives)
{
	put("a", "12345");
	struct stat want = {.st_mtim = {1000, 7}, .st_ctim = {2000, 8}}, st = look_up(TREE_IN, "a");
	cr_assert_eq(files_setattr(&fs, st.st_ino, NULL, FILES_MTIME | FILES_CTIME, &want), 0);
	start_again(true);
	st = look_up(TREE_IN, "a");
	cr_assert(st.st_mtim.tv_sec == 1000 && st.st_mtim.tv_nsec == 7 && st.st_size == 5);
}

/* Its name stays, with the size; opening tells; new content or removal ends it. */
Test(files, content_that_is_gone)
{
	struct stat st;
	struct handle *handle;
	put("a", "12345");
	put("b", "123");
	uint64_t a = look_up(TREE_IN, "a").st_ino, b = look_up(TREE_IN, "b").st_ino;
	state_content_remove(&fs.state, a);
	state_content_remove(&fs.state, b);
	start_again(false);
	cr_assert_eq(fs.recovery.missing_files, 2);
	cr_assert_eq(look_up(TREE_IN, "a").st_size, 5);
	cr_assert_eq(files_open(&fs, a, O_RDONLY, &handle), EIO);
	cr_assert_eq(files_open(&fs, a, O_RDWR, &handle), EIO);
	cr_assert_lt(state_content_open(&fs.state, a, O_RDONLY), 0, "it was made empty");
	cr_assert_eq(names_create(&fs, &caller, TREE_IN, "a", 0644, O_WRONLY | O_TRUNC, &st, &handle), 0);
	cr_assert_eq(files_write(&fs, handle, "1", 1, 0), 1);
	files_release(&fs, handle);
	names_forget(&fs, a, 1);
	cr_assert_eq(names_unlink(&fs, TREE_IN, "b"), 0);
	cr_assert_eq(fs.recovery.missing_files, 0);
	cr_assert_eq(fs.used_bytes, 1);
}

/* Names and attributes count, and what is removed does not any more. */
Test(files, quota_of_names)
{
	static char big[60000];
	struct stat st;
	char name[16];
	int n = 0, error;
	for (; n < 5000; n++) {
		snprintf(name, sizeof name, "d%d", n);
		if ((error = names_mkdir(&fs, &caller, TREE_IN, name, 0755, &st)) != 0)
			break;
		names_forget(&fs, st.st_ino, 1);
	}
	cr_assert_eq(error, EDQUOT);
	cr_assert(n > 1500 && n < 2048, "%d names in 1 MB", n);
	for (; n >= 1000; n--) {
		snprintf(name, sizeof name, "d%d", n);
		names_rmdir(&fs, TREE_IN, name);
	}
	uint64_t id = look_up(TREE_IN, "d0").st_ino;
	int64_t used = fs_used(&fs);
	cr_assert_eq(xattrs_set(&fs, id, "user.x", big, sizeof big, 0), 0);
	cr_assert_gt(fs_used(&fs), used + (int64_t)sizeof big);
	for (n = 1, error = 0; !error && n < 50; n++) {
		snprintf(name, sizeof name, "d%d", n);
		error = xattrs_set(&fs, look_up(TREE_IN, name).st_ino, "user.x", big, sizeof big, 0);
	}
	cr_assert_eq(error, EDQUOT);
	cr_assert_eq(xattrs_set(&fs, id, "user.x", NULL, 0, 0), 0);
}

struct answer {
	atomic_int error; /* -1: none yet */
};

static void answered(void *user, int error)
{
	atomic_store(&((struct answer *)user)->error, error);
}

static int sync_and_wait(int fd, int error)
{
	struct answer answer = {-1};
	sync_now(&fs, fd, error, answered, &answer);
	while (atomic_load(&answer.error) < 0)
		usleep(1000);
	return atomic_load(&answer.error);
}

/* /dev/null takes every write and no sync: that is told, no change is taken on top of what may be lost, and the journal is written
 * anew from what is in memory. */
Test(files, a_journal_that_cannot_be_synced, .timeout = 30)
{
	struct error err;
	struct stat st;
	cr_assert(sync_start(&fs, &err));
	cr_assert_eq(names_mkdir(&fs, &caller, TREE_IN, "before", 0755, &st), 0);
	cr_assert_eq(sync_and_wait(-1, 0), 0);
	pthread_mutex_lock(&fs.lock);
	int null = open("/dev/null", O_RDWR);
	cr_assert_geq(dup2(null, fs.journal.log.fd), 0);
	close(null);
	pthread_mutex_unlock(&fs.lock);
	cr_assert_eq(names_mkdir(&fs, &caller, TREE_IN, "meanwhile", 0755, &st), 0);
	cr_assert_neq(sync_and_wait(-1, 0), 0, "a failed sync is told as a good one");
	for (int i = 0; i < 5000 && names_mkdir(&fs, &caller, TREE_IN, "after", 0755, &st) == EIO; i++)
		usleep(1000);
	cr_assert_eq(sync_and_wait(-1, 0), 0, "it is whole again");
	sync_stop(&fs);
	start_again(true);
	look_up(TREE_IN, "before");
	look_up(TREE_IN, "meanwhile");
	look_up(TREE_IN, "after");
}

static void make_garbage(void)
{
	struct stat st;
	char names[2][TREE_NAME_MAX + 1] = {"x"};
	memset(names[1], 'y', TREE_NAME_MAX);
	cr_assert_eq(names_mkdir(&fs, &caller, TREE_IN, names[0], 0755, &st), 0);
	for (int i = 0; i < 40000; i++)
		cr_assert_eq(names_rename(&fs, &caller, TREE_IN, names[i % 2], TREE_IN, names[(i + 1) % 2], 0), 0);
}

/* A child is at it when a sync of the log fails: what was appended since it began cannot be read there any more. */
static void break_under_way(struct compaction *c)
{
	struct stat st;
	char nothing[4096] = {0};
	make_garbage();
	cr_assert_gt(compact_step(c, &fs), 0);
	cr_assert_neq(c->child, 0);
	cr_assert_eq(names_mkdir(&fs, &caller, TREE_IN, "meanwhile", 0755, &st), 0);
	cr_assert_eq(fs.journal.log.seq, c->from.seq + 1);
	int64_t change = c->from.len + JOURNAL_FRAME_LEN;
	cr_assert_gt(pwrite(fs.journal.log.fd, nothing, fs.journal.log.len - change, change), 0);
	fs.journal.broken = EIO;
}

Test(files, a_sync_fails_while_the_journal_is_written_anew, .timeout = 30)
{
	struct compaction c = {0};
	break_under_way(&c);
	while (compact_step(&c, &fs))
		usleep(1000);
	cr_assert_eq(fs.journal.broken, 0);
	compact_stop(&c, &fs);
	start_again(true);
	cr_assert_not(fs.recovery.damaged);
	look_up(TREE_IN, "meanwhile");
}

Test(files, a_sync_fails_at_the_end, .timeout = 30)
{
	struct compaction c = {0};
	break_under_way(&c);
	compact_stop(&c, &fs);
	cr_assert_eq(fs.journal.broken, 0);
	start_again(true);
	cr_assert_not(fs.recovery.damaged);
	look_up(TREE_IN, "meanwhile");
}

/* By a child, while changes go on: none is lost, and the start after it finds them all. */
Test(files, the_journal_is_written_anew_meanwhile, .timeout = 60)
{
	struct error err;
	struct stat st;
	char names[2][TREE_NAME_MAX + 1], text[32];
	for (int i = 0; i < 2; i++) {
		memset(names[i], 'a' + i, TREE_NAME_MAX);
		names[i][TREE_NAME_MAX] = '\0';
	}
	cr_assert_eq(names_mkdir(&fs, &caller, TREE_IN, names[0], 0755, &st), 0);
	cr_assert(sync_start(&fs, &err));
	uint64_t id = fs.journal.log.id;
	int i = 0, n = 0, times = 0;
	for (; times < 3 && i < 2000000; i++) {
		cr_assert_eq(names_rename(&fs, &caller, TREE_IN, names[i % 2], TREE_IN, names[(i + 1) % 2], 0), 0);
		if (i % 1000 == 0) {
			snprintf(text, sizeof text, "f%d", n++);
			cr_assert_eq(names_mkdir(&fs, &caller, TREE_IN, text, 0755, &st), 0);
		}
		pthread_mutex_lock(&fs.lock);
		times += fs.journal.log.id != id;
		id = fs.journal.log.id;
		pthread_mutex_unlock(&fs.lock);
	}
	cr_assert_eq(times, 3, "%d times after %d changes", times, i);
	sync_stop(&fs);
	cr_assert_lt(fs.journal.log.len, (int64_t)i * TREE_NAME_MAX);
	cr_assert_neq(faccessat(fs.state.dir_fd, "journal.new", F_OK, 0), 0);
	cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1, "a child is left");
	start_again(true);
	cr_assert_not(fs.recovery.damaged);
	look_up(TREE_IN, names[i % 2]);
	while (n-- > 0) {
		snprintf(text, sizeof text, "f%d", n);
		look_up(TREE_IN, text);
	}
}

/* A sync that nobody waited for has failed: who asks next is told, once. */
Test(files, a_content_that_cannot_be_synced, .timeout = 30)
{
	struct error err;
	struct handle *handle;
	char name[STATE_CONTENT_NAME];
	put("a", "12345");
	uint64_t id = look_up(TREE_IN, "a").st_ino;
	cr_assert_eq(files_open(&fs, id, O_RDWR, &handle), 0);
	state_content_name(name, id);
	cr_assert_eq(unlinkat(fs.state.contents_fd, name, 0), 0);
	cr_assert_eq(symlinkat("elsewhere", fs.state.contents_fd, name), 0); /* is not followed: ELOOP */
	cr_assert(sync_start(&fs, &err));
	sync_written(&fs, id, false);
	cr_assert_eq(sync_and_wait(-1, 0), 0);
	sync_stop(&fs);
	cr_assert_eq(files_synced(&fs, handle), ELOOP);
	cr_assert_eq(files_synced(&fs, handle), 0);
	files_release(&fs, handle);
}

/* The name that took another's place is on the disk before the other's bytes go; they go with the journal's commit, not before. */
Test(files, contents_go_after_the_journal, .timeout = 30)
{
	struct error err;
	struct stat st;
	put("old", "1");
	put("new", "2");
	uint64_t old = look_up(TREE_IN, "old").st_ino;
	cr_assert(sync_start(&fs, &err));
	cr_assert_eq(sync_and_wait(-1, 0), 0);
	uint64_t seq = fs.journal.log.seq;
	cr_assert_eq(names_rename(&fs, &caller, TREE_IN, "new", TREE_IN, "old", 0), 0);
	cr_assert_gt(fs.journal.log.seq, seq);
	cr_assert_eq(state_content_stat(&fs.state, old, &st), 0, "gone before anything was synced");
	for (int i = 0; i < 5000 && state_content_stat(&fs.state, old, &st) == 0; i++)
		usleep(1000);
	cr_assert_neq(state_content_stat(&fs.state, old, &st), 0, "a rename wakes nobody");
	sync_stop(&fs);
}
