/* test_fs_journal.c - journal.c, journal_load.c and record.c: what was journalled comes back, from every prefix, torn, damaged or out of
 * order, and it is told which. */
#include "config.h"
#include "journal.h"
#include "record.h"
#include "trees.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct world {
	struct tree tree;
	struct jobs jobs;
	struct job_options config;
	struct journal journal;
	struct journal_report report;
	int dir_fd;
};

static char folder[] = "/tmp/trellisfs-journal-XXXXXX";

static bool try_world(struct world *w, int dir_fd, struct error *err)
{
	struct bytes image = {0};
	*w = (struct world){.dir_fd = dir_fd, .config = config_defaults()};
	cr_assert(tree_init(&w->tree, 1, 1, false, 5) && jobs_init(&w->jobs));
	struct record_target target = {&w->tree, &w->jobs, &w->config};
	w->jobs.loading = true;
	bool ok = journal_load(&w->journal, dir_fd, record_apply, &target, &w->report, err);
	jobs_loaded(&w->jobs);
	bool anew = ok && journal_needs_image(&w->journal, &w->report);
	if (anew)
		record_all(&image, &w->tree, &w->jobs, &w->config, w->tree.next_id);
	ok = ok && journal_begin(&w->journal, &w->report, anew ? &image : NULL, err);
	bytes_finish(&image);
	return ok;
}

static void open_world(struct world *w, int dir_fd)
{
	struct error err = {""};
	cr_assert(try_world(w, dir_fd, &err), "%s", err.text);
}

static void close_world(struct world *w)
{
	journal_close(&w->journal);
	jobs_finish(&w->jobs);
	tree_finish(&w->tree);
}

static int make_folder(void)
{
	strcpy(folder, "/tmp/trellisfs-journal-XXXXXX");
	cr_assert(mkdtemp(folder));
	return open(folder, O_RDONLY | O_DIRECTORY);
}

static void remove_folder(int dir_fd)
{
	char command[64];
	close(dir_fd);
	snprintf(command, sizeof command, "rm -r %s", folder);
	cr_assert_eq(system(command), 0);
}

static struct tree_node *add(struct world *w, uint64_t parent, const char *name, uint32_t mode)
{
	struct bytes change = {0};
	struct tree_node *node = tree_new(&w->tree, 0, mode, 7, 8, 9);
	record_node(&change, node, parent, name);
	cr_assert_eq(journal_append(&w->journal, &change, false), 0);
	cr_assert(tree_link(&w->tree, node, tree_find(&w->tree, parent), name));
	bytes_finish(&change);
	return node;
}

static void rename_over(struct world *w, struct tree_node *node, struct tree_node *target)
{
	struct bytes change = {0};
	struct tree_node *parent = target->parent;
	char name[TREE_NAME_MAX + 1];
	strcpy(name, target->name);
	record_node_gone(&change, target->id);
	record_node(&change, node, parent->id, name);
	cr_assert_eq(journal_append(&w->journal, &change, false), 0);
	bytes_finish(&change);
	tree_unlink(&w->tree, target);
	tree_drop_unused(&w->tree, target);
	cr_assert(tree_link(&w->tree, node, parent, name));
}

static void submit(struct world *w, struct tree_node *node, const char *stem, enum input_state state)
{
	struct bytes change = {0};
	struct input *input = jobs_input(&w->jobs, node->id);
	input->options = w->config;
	input->uid = 3;
	memset(input->key, 0xab, sizeof input->key);
	jobs_enqueue(&w->jobs, input);
	cr_assert(jobs_set_stem(&w->jobs, input, stem));
	jobs_set_state(&w->jobs, input, state, false);
	record_input(&change, input);
	cr_assert_eq(journal_append(&w->journal, &change, false), 0);
	bytes_finish(&change);
}

/* A history with every kind of record. */
static void write_history(struct world *w)
{
	struct bytes change = {0};
	struct tree_node *dir = add(w, TREE_IN, "d", S_IFDIR | 0755);
	struct tree_node *a = add(w, dir->id, "a.png", S_IFREG | 0644);
	struct tree_node *temp = add(w, dir->id, ".a.png.x1", S_IFREG | 0600);
	submit(w, a, "d/a", INPUT_QUEUED);
	rename_over(w, temp, a);
	submit(w, temp, "d/a", INPUT_RUNNING);
	cr_assert_eq(set_xattr(&w->tree, temp, "user.n", "v", 1), 0);
	record_xattrs(&change, temp);
	cr_assert(config_set(&w->config, "seed", "99", 2, NULL));
	record_config(&change, &w->config);
	cr_assert_eq(journal_append(&w->journal, &change, false), 0);
	change.len = 0;
	struct tree_node *mesh = add(w, TREE_OUT, "a.glb", S_IFREG | 0644);
	uint8_t key[JOBS_KEY_LEN] = {1};
	record_result(&change, jobs_add_result(&w->jobs, mesh->id, temp->id, key, JOB_GLB));
	cr_assert_eq(journal_append(&w->journal, &change, false), 0);
	bytes_finish(&change);
	add(w, TREE_IN, "last", S_IFDIR | 0700);
}

/* Every node hangs in the tree under a name that finds it, every input and result belongs to a node. */
static void check_consistent(const struct world *w)
{
	size_t inputs = 0, results = 0;
	for (struct tree_node *node = tree_each(&w->tree, NULL); node; node = tree_each(&w->tree, node)) {
		inputs += jobs_find(&w->jobs, node->id) != NULL;
		results += jobs_result(&w->jobs, node->id) != NULL;
		cr_assert_lt(node->id, w->tree.next_id);
		if (node->id == TREE_ROOT)
			continue;
		cr_assert_not_null(node->parent);
		cr_assert_eq(tree_lookup(&w->tree, node->parent, node->name), node);
		cr_assert(tree_is_inside(node, tree_find(&w->tree, TREE_ROOT)));
	}
	cr_assert_eq(inputs, w->jobs.n_inputs);
	cr_assert_eq(results, w->jobs.n_results);
}

static void check_end(struct world *w)
{
	struct tree_node *node = tree_resolve(&w->tree, tree_find(&w->tree, TREE_IN), "d/a.png");
	uint32_t len;
	cr_assert_not_null(node);
	cr_assert_eq(node->mode, S_IFREG | 0600);
	cr_assert_eq(node->parent->n_children, 1);
	cr_assert_arr_eq(tree_xattr_get(node, "user.n", &len), "v", 1);
	const struct input *input = jobs_find(&w->jobs, node->id);
	cr_assert_not_null(input);
	cr_assert_eq(input->state, INPUT_QUEUED, "what ran is queued again");
	cr_assert_str_eq(input->stem, "d/a");
	cr_assert_eq(w->jobs.queue.n, 1);
	cr_assert_eq(w->config.seed, 99);
	uint8_t key[JOBS_KEY_LEN] = {1};
	const struct result *result = jobs_result_by_key(&w->jobs, key, JOB_GLB);
	cr_assert_not_null(result);
	cr_assert_eq(result->source, node->id);
	cr_assert_not_null(tree_resolve(&w->tree, tree_find(&w->tree, TREE_IN), "last"));
}

Test(journal, comes_back_whole)
{
	struct world w;
	int dir_fd = make_folder();
	open_world(&w, dir_fd);
	write_history(&w);
	uint64_t next_id = w.tree.next_id;
	close_world(&w);
	open_world(&w, dir_fd);
	check_end(&w);
	check_consistent(&w);
	cr_assert_eq(w.tree.next_id, next_id, "ids are not used again");
	close_world(&w);
	remove_folder(dir_fd);
}

static void write_journal(int dir_fd, const uint8_t *log, size_t len)
{
	int fd = openat(dir_fd, "journal", O_WRONLY | O_CREAT | O_TRUNC, 0600);
	cr_assert_eq(write(fd, log, len), (ssize_t)len);
	close(fd);
}

static size_t read_journal(int dir_fd, uint8_t *log, size_t size)
{
	int fd = openat(dir_fd, "journal", O_RDONLY);
	ssize_t len = read(fd, log, size);
	close(fd);
	cr_assert_gt(len, 100);
	return len;
}

/* Power loss: the log ends anywhere, also in the middle of a change; appending goes on behind the last whole one. */
Test(journal, every_prefix_is_consistent)
{
	static uint8_t log[65536];
	struct world w;
	int dir_fd = make_folder();
	open_world(&w, dir_fd);
	write_history(&w);
	close_world(&w);
	size_t len = read_journal(dir_fd, log, sizeof log), nodes = 0;
	for (size_t cut = 0; cut <= len; cut++) {
		write_journal(dir_fd, log, cut);
		open_world(&w, dir_fd);
		check_consistent(&w);
		cr_assert(cut == 0 || w.tree.n_nodes + 1 >= nodes, "a longer log gives a smaller tree");
		nodes = w.tree.n_nodes;
		add(&w, TREE_IN, "after", S_IFDIR | 0755);
		close_world(&w);
		open_world(&w, dir_fd);
		cr_assert_not_null(tree_resolve(&w.tree, tree_find(&w.tree, TREE_IN), "after"), "cut at %zu", cut);
		close_world(&w);
	}
	remove_folder(dir_fd);
}

enum { LOG_MAX = 65536 };

/* A history in a fresh folder; its log, and where its frames begin. */
static size_t write_log(int dir_fd, uint8_t *log, size_t *frames, size_t *n_frames)
{
	struct world w;
	open_world(&w, dir_fd);
	write_history(&w);
	close_world(&w);
	size_t len = read_journal(dir_fd, log, LOG_MAX);
	*n_frames = 0;
	for (size_t at = JOURNAL_HEAD_LEN; at < len; *n_frames += 1) {
		struct reader r = {.data = log, .len = len, .at = at + 16};
		frames[*n_frames] = at;
		at += JOURNAL_FRAME_LEN + reader_u32(&r);
	}
	frames[*n_frames] = len;
	cr_assert_gt(*n_frames, 8);
	return len;
}

/* A flipped bit costs the change that it hits, wherever it is: what follows is there, nothing is inconsistent, and it is told. In the
 * last frame, which nothing says was ever synced, it is a torn end. */
Test(journal, every_flipped_byte_is_found)
{
	static uint8_t log[LOG_MAX];
	static size_t frames[LOG_MAX / JOURNAL_FRAME_LEN];
	struct world w;
	size_t n;
	int dir_fd = make_folder();
	size_t len = write_log(dir_fd, log, frames, &n);
	for (size_t at = 0; at < len; at++) {
		if (at >= 28 && at < JOURNAL_HEAD_LEN)
			continue; /* says nothing */
		log[at] ^= 0x10;
		write_journal(dir_fd, log, len);
		open_world(&w, dir_fd);
		check_consistent(&w);
		bool in_last = at >= frames[n - 1];
		cr_assert_eq(
			!in_last, tree_resolve(&w.tree, tree_find(&w.tree, TREE_IN), "last") != NULL, "byte %zu", at);
		cr_assert_eq(w.report.damaged, !in_last, "byte %zu", at);
		cr_assert_eq(w.report.torn, in_last, "byte %zu", at);
		cr_assert_leq(w.report.lost_changes, 1, "byte %zu", at);
		cr_assert_eq(w.report.reordered, 0);
		close_world(&w);
		open_world(&w, dir_fd);
		cr_assert_not(w.report.damaged || w.report.torn, "byte %zu: told twice", at);
		close_world(&w);
		log[at] ^= 0x10;
	}
	remove_folder(dir_fd);
}

/* Whichever two frames have changed places, nothing is lost. */
Test(journal, swapped_frames_are_sorted)
{
	static uint8_t log[LOG_MAX], swapped[LOG_MAX];
	static size_t frames[LOG_MAX / JOURNAL_FRAME_LEN];
	struct world w;
	size_t n;
	int dir_fd = make_folder();
	size_t len = write_log(dir_fd, log, frames, &n);
	for (size_t i = 0; i + 1 < n; i++) {
		size_t first = frames[i + 1] - frames[i], second = frames[i + 2] - frames[i + 1];
		memcpy(swapped, log, len);
		memcpy(swapped + frames[i], log + frames[i + 1], second);
		memcpy(swapped + frames[i] + second, log + frames[i], first);
		write_journal(dir_fd, swapped, len);
		open_world(&w, dir_fd);
		check_end(&w);
		check_consistent(&w);
		cr_assert(w.report.damaged && w.report.reordered == 1 && w.report.lost_changes == 0, "frame %zu", i);
		close_world(&w);
	}
	remove_folder(dir_fd);
}

/* The mark knows how much was synced: less than that is no torn end. */
Test(journal, an_end_that_was_synced_is_missed)
{
	static uint8_t log[LOG_MAX];
	static size_t frames[LOG_MAX / JOURNAL_FRAME_LEN];
	struct world w;
	size_t n;
	int dir_fd = make_folder();
	size_t len = write_log(dir_fd, log, frames, &n);
	open_world(&w, dir_fd);
	struct journal_mark mark = {
		.id = w.journal.log.id, .seq = w.journal.log.seq - 2, .len = (int64_t)frames[n - 2], .id_limit = 77};
	journal_write_mark(&w.journal, &mark);
	close_world(&w);
	for (size_t cut = len; cut > 0; cut--) {
		uint8_t slots[JOURNAL_MARK_APART + JOURNAL_MARK_LEN];
		int fd = openat(dir_fd, "journal.synced", O_RDWR);
		ssize_t slots_len = pread(fd, slots, sizeof slots, 0);
		write_journal(dir_fd, log, cut);
		open_world(&w, dir_fd);
		bool missed = cut < frames[n - 2], whole = cut == len || cut == frames[n - 1] || cut == frames[n - 2];
		cr_assert_eq(w.report.damaged, missed, "cut at %zu", cut);
		cr_assert_eq(w.report.torn, !missed && !whole, "cut at %zu", cut);
		cr_assert(missed || (uint64_t)w.report.cut_bytes < frames[n] - frames[n - 2]);
		if (missed && cut > JOURNAL_HEAD_LEN)
			cr_assert_gt(w.report.lost_changes, 0, "cut at %zu", cut);
		cr_assert_eq(w.report.id_limit, 77);
		close_world(&w);
		cr_assert_eq(pwrite(fd, slots, slots_len, 0), slots_len);
		close(fd);
	}
	unlinkat(dir_fd, "journal", 0);
	open_world(&w, dir_fd);
	cr_assert(w.report.damaged && w.report.gone && w.report.format == 0, "a log that is gone is missed");
	close_world(&w);
	remove_folder(dir_fd);
}

/* A fact that lacks the one before it is kept: what has no folder any more is in lost/, with its name and owner. */
Test(journal, what_has_no_place_is_in_lost)
{
	struct world w;
	struct bytes change = {0};
	int dir_fd = make_folder();
	open_world(&w, dir_fd);
	struct tree_node file = {.id = 300, .mode = S_IFREG | 0644, .uid = 7, .gid = 8, .size = 5};
	record_node(&change, &file, 299, "a.png");
	cr_assert_eq(journal_append(&w.journal, &change, false), 0);
	change.len = 0;
	file.id = 301;
	record_node(&change, &file, TREE_IN, "taken");
	file.id = 302;
	record_node(&change, &file, TREE_IN, "taken");
	record_node_gone(&change, 299); /* it has a file in it */
	cr_assert_eq(journal_append(&w.journal, &change, false), 0);
	bytes_finish(&change);
	close_world(&w);
	open_world(&w, dir_fd);
	cr_assert(w.report.damaged && w.report.contradictions == 2);
	check_consistent(&w);
	struct tree_node *lost = tree_find(&w.tree, TREE_LOST);
	cr_assert_not_null(lost);
	struct tree_node *node = tree_resolve(&w.tree, lost, "000000000000012b/a.png");
	cr_assert(node && node->id == 300 && node->uid == 7 && node->parent->uid == 7 &&
		  node->parent->mode == (S_IFDIR | 0700));
	cr_assert_not_null(tree_resolve(&w.tree, lost, "000000000000012d-taken"));
	node = tree_resolve(&w.tree, tree_find(&w.tree, TREE_IN), "taken");
	cr_assert(node && node->id == 302, "the later one has the name");
	close_world(&w);
	open_world(&w, dir_fd);
	cr_assert_not(w.report.damaged);
	cr_assert_not_null(tree_resolve(&w.tree, tree_find(&w.tree, TREE_LOST), "000000000000012b/a.png"));
	close_world(&w);
	remove_folder(dir_fd);
}

/* An id that no file ever had would leave none to give; such a size does not add up. */
Test(journal, numbers_beyond_reach)
{
	struct world w;
	struct bytes change = {0};
	int dir_fd = make_folder();
	open_world(&w, dir_fd);
	struct tree_node file = {.id = UINT64_MAX - 1, .mode = S_IFREG | 0644};
	record_node(&change, &file, TREE_IN, "a");
	file.id = 400;
	file.size = INT64_MAX;
	record_node(&change, &file, UINT64_MAX, "b");
	record_next_id(&change, UINT64_MAX - 5);
	cr_assert_eq(journal_append(&w.journal, &change, false), 0);
	bytes_finish(&change);
	close_world(&w);
	open_world(&w, dir_fd);
	cr_assert(w.report.damaged);
	cr_assert_lt(w.tree.next_id, 1000);
	cr_assert_null(tree_find(&w.tree, UINT64_MAX - 1));
	cr_assert_not_null(tree_find(&w.tree, 400));
	cr_assert(tree_find(&w.tree, 400)->unsized);
	close_world(&w);
	remove_folder(dir_fd);
}

static void append_record(struct world *w, uint8_t type)
{
	struct bytes change = {0};
	bytes_put_u8(&change, type);
	bytes_put_block(&change, "?", 1);
	cr_assert_eq(journal_append(&w->journal, &change, false), 0);
	bytes_finish(&change);
}

/* Of a kind that a later version has: skipped if that says so, else nothing is opened, and nothing touched. */
Test(journal, records_of_later_versions)
{
	struct world w;
	struct error err = {""};
	static uint8_t before[LOG_MAX], after[LOG_MAX];
	int dir_fd = make_folder();
	open_world(&w, dir_fd);
	append_record(&w, 0x80 | 77);
	add(&w, TREE_IN, "behind", S_IFDIR | 0755);
	close_world(&w);
	open_world(&w, dir_fd);
	cr_assert_not(w.report.damaged);
	cr_assert_not_null(tree_resolve(&w.tree, tree_find(&w.tree, TREE_IN), "behind"));
	append_record(&w, 77);
	close_world(&w);
	size_t len = read_journal(dir_fd, before, sizeof before);
	cr_assert_not(try_world(&w, dir_fd, &err));
	cr_assert_not_null(strstr(err.text, "newer version"), "%s", err.text);
	close_world(&w);
	cr_assert_eq(read_journal(dir_fd, after, sizeof after), len);
	cr_assert_arr_eq(before, after, len);
	remove_folder(dir_fd);
}

Test(journal, writing_anew_keeps_everything)
{
	struct world w;
	struct bytes image = {0};
	struct journal_log copy;
	int dir_fd = make_folder();
	open_world(&w, dir_fd);
	write_history(&w);
	record_all(&image, &w.tree, &w.jobs, &w.config, w.tree.next_id);
	struct journal_log from = w.journal.log;
	add(&w, TREE_IN, "meanwhile", S_IFDIR | 0755);
	cr_assert(journal_copy_begin(dir_fd, &image, &copy));
	int64_t at = from.len;
	cr_assert(journal_copy_tail(&from, &at, w.journal.log.len, &copy));
	w.journal.copy = copy;
	add(&w, TREE_IN, "to both", S_IFDIR | 0755);
	cr_assert(journal_copy_publish(dir_fd, &copy));
	add(&w, TREE_IN, "to both still", S_IFDIR | 0755);
	journal_copy_end(&w.journal, copy.len);
	close(from.fd);
	add(&w, TREE_IN, "afterwards", S_IFDIR | 0755);
	bytes_finish(&image);
	uint64_t next_id = w.tree.next_id;
	close_world(&w);
	open_world(&w, dir_fd);
	cr_assert_not(w.report.damaged || w.report.torn);
	check_end(&w);
	check_consistent(&w);
	cr_assert_eq(w.tree.next_id, next_id);
	static const char *const names[] = {"meanwhile", "to both", "to both still", "afterwards"};
	for (int i = 0; i < 4; i++)
		cr_assert_not_null(tree_resolve(&w.tree, tree_find(&w.tree, TREE_IN), names[i]), "%s", names[i]);
	close_world(&w);
	remove_folder(dir_fd);
}

/* Another file in its place is damage, a later format is none of ours. */
Test(journal, refuses_a_later_format)
{
	struct world w;
	struct error err = {""};
	uint8_t after[64];
	int dir_fd = make_folder();
	write_journal(dir_fd, (const uint8_t *)"trlsfs3\nand what else it may have", 33);
	cr_assert_not(try_world(&w, dir_fd, &err));
	cr_assert_not_null(strstr(err.text, "format 3"), "%s", err.text);
	close_world(&w);
	int fd = openat(dir_fd, "journal", O_RDONLY);
	cr_assert_eq(read(fd, after, sizeof after), 33);
	close(fd);
	write_journal(dir_fd, (const uint8_t *)"something else entirely", 23);
	open_world(&w, dir_fd);
	cr_assert(w.report.damaged && w.report.gone);
	close_world(&w);
	remove_folder(dir_fd);
}
