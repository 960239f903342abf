/* test_fs_journal.c - journal.c and record.c: what was journalled comes back, from every prefix, torn or damaged. */
#include "config.h"
#include "journal.h"
#include "record.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

struct world {
	struct tree tree;
	struct jobs jobs;
	struct job_options config;
	struct journal journal;
	int dir_fd;
};

static char folder[] = "/tmp/trellisfs-journal-XXXXXX";

static void open_world(struct world *w, int dir_fd)
{
	struct error err = {""};
	*w = (struct world){.dir_fd = dir_fd, .config = config_defaults()};
	cr_assert(tree_init(&w->tree, 1, 1, false, 5) && jobs_init(&w->jobs));
	struct record_target target = {&w->tree, &w->jobs, &w->config};
	cr_assert(journal_open(&w->journal, dir_fd, record_apply, &target, &err), "%s", err.text);
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
	unlinkat(dir_fd, "journal", 0);
	unlinkat(dir_fd, "reserve", 0);
	close(dir_fd);
	rmdir(folder);
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
	cr_assert_eq(tree_xattr_set(temp, "user.n", "v", 1), 0);
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
	for (size_t i = 0; i < w->tree.n_buckets; i++) {
		for (struct tree_node *node = w->tree.by_id[i]; node; node = node->next_id) {
			inputs += jobs_find(&w->jobs, node->id) != NULL;
			results += jobs_result(&w->jobs, node->id) != NULL;
			cr_assert_lt(node->id, w->tree.next_id);
			if (node->id == TREE_ROOT)
				continue;
			cr_assert_not_null(node->parent);
			cr_assert_eq(tree_lookup(&w->tree, node->parent, node->name), node);
			cr_assert(tree_is_inside(node, tree_find(&w->tree, TREE_ROOT)));
		}
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

/* A flipped bit ends the log there; it never makes a tree that is inconsistent. */
Test(journal, every_flipped_byte_is_found)
{
	static uint8_t log[65536];
	struct world w;
	int dir_fd = make_folder();
	open_world(&w, dir_fd);
	write_history(&w);
	close_world(&w);
	size_t len = read_journal(dir_fd, log, sizeof log);
	for (size_t at = 8; at < len; at++) {
		log[at] ^= 0x10;
		write_journal(dir_fd, log, len);
		open_world(&w, dir_fd);
		check_consistent(&w);
		cr_assert_null(tree_resolve(&w.tree, tree_find(&w.tree, TREE_IN), "last"));
		close_world(&w);
		log[at] ^= 0x10;
	}
	remove_folder(dir_fd);
}

Test(journal, compaction_keeps_everything)
{
	struct world w;
	struct bytes image = {0};
	int dir_fd = make_folder();
	open_world(&w, dir_fd);
	write_history(&w);
	record_all(&image, &w.tree, &w.jobs, &w.config);
	int64_t from = w.journal.len, old = w.journal.len;
	add(&w, TREE_IN, "meanwhile", S_IFDIR | 0755);
	int fd = journal_write_image(dir_fd, &image);
	cr_assert_geq(fd, 0);
	cr_assert(journal_replace(&w.journal, fd, image.len, from));
	add(&w, TREE_IN, "afterwards", S_IFDIR | 0755);
	cr_assert_lt(w.journal.len, old + 300);
	bytes_finish(&image);
	uint64_t next_id = w.tree.next_id;
	close_world(&w);
	open_world(&w, dir_fd);
	check_end(&w);
	check_consistent(&w);
	cr_assert_eq(w.tree.next_id, next_id);
	cr_assert_not_null(tree_resolve(&w.tree, tree_find(&w.tree, TREE_IN), "meanwhile"));
	cr_assert_not_null(tree_resolve(&w.tree, tree_find(&w.tree, TREE_IN), "afterwards"));
	close_world(&w);
	remove_folder(dir_fd);
}

Test(journal, refuses_what_is_none)
{
	struct world w = {.config = config_defaults()};
	struct error err = {""};
	int dir_fd = make_folder();
	write_journal(dir_fd, (const uint8_t *)"something else entirely", 23);
	cr_assert(tree_init(&w.tree, 1, 1, false, 5) && jobs_init(&w.jobs));
	struct record_target target = {&w.tree, &w.jobs, &w.config};
	cr_assert_not(journal_open(&w.journal, dir_fd, record_apply, &target, &err));
	cr_assert_not_null(strstr(err.text, "journal"));
	close_world(&w);
	remove_folder(dir_fd);
}
