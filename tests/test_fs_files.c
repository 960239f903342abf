/* test_fs_files.c - files below FUSE, in a state directory of its own: what becomes of one that is gone, and of the job of one that is
 * written again. */
#include "files.h"
#include "fs.h"
#include "names.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
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
