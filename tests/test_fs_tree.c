/* test_fs_tree.c - tree.c, jobs.c, stem.c and hash.c: names, order, extended attributes, turns, stems, BLAKE2b. */
#include "hash.h"
#include "jobs.h"
#include "stem.h"
#include "tree.h"
#include "trees.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static struct tree_node *add(struct tree *tree, uint64_t parent, const char *name, uint32_t mode)
{
	struct tree_node *node = tree_new(tree, 0, mode, 0, 0, 1);
	cr_assert_not_null(node);
	cr_assert(tree_link(tree, node, tree_find(tree, parent), name));
	return node;
}

Test(tree, names_and_children_stay_in_step)
{
	struct tree tree;
	char name[32];
	cr_assert(tree_init(&tree, 0, 0, true, 1));
	struct tree_node *dir = add(&tree, TREE_IN, "d", S_IFDIR | 0755);
	for (int i = 0; i < 5000; i++) {
		snprintf(name, sizeof name, "f%d", i);
		add(&tree, dir->id, name, S_IFREG | 0644);
	}
	cr_assert_eq(dir->n_children, 5000);
	uint64_t after = 0;
	struct tree_node *node;
	for (int n = 0; (node = tree_next_child(dir, after)); n++) {
		cr_assert_gt(node->id, after);
		cr_assert_eq(tree_lookup(&tree, dir, node->name), node);
		after = node->id;
		if (n % 2) { /* removing while reading loses and doubles nothing */
			tree_unlink(&tree, node);
			cr_assert(tree_drop_unused(&tree, node));
		}
	}
	cr_assert_eq(dir->n_children, 2500);
	tree_finish(&tree);
}

static void check_children(const struct tree_node *dir, const bool *in, uint64_t first, int n)
{
	uint64_t after = 0;
	uint32_t found = 0;
	for (struct tree_node *node; (node = tree_next_child(dir, after)); found++) {
		cr_assert_gt(node->id, after);
		cr_assert(in[node->id - first]);
		after = node->id;
	}
	cr_assert_eq(found, dir->n_children);
	for (int i = 0; i < n; i++)
		found -= in[i];
	cr_assert_eq(found, 0);
}

/* Children come and go by the front, the back and anywhere, and stay in order. */
Test(tree, children_of_a_big_folder)
{
	enum { N = 6000 };
	static bool in[N];
	static struct tree_node *nodes[N];
	struct tree tree;
	char name[32];
	unsigned seed = 1;
	cr_assert(tree_init(&tree, 0, 0, true, 1));
	struct tree_node *dir = add(&tree, TREE_IN, "d", S_IFDIR | 0755),
			 *other = add(&tree, TREE_IN, "o", S_IFDIR | 0755);
	uint64_t first = tree.next_id;
	for (int i = 0; i < N; i++) {
		snprintf(name, sizeof name, "f%d", i);
		nodes[i] = add(&tree, other->id, name, S_IFREG | 0644);
	}
	for (int i = 0; i < 20 * N; i++) { /* at first more come, then more go */
		seed = seed * 1103515245 + 12345;
		int which = (seed >> 8) % N;
		if (in[which] ? (seed >> 4) % 10 < 3 + 5 * (i > 10 * N) : (seed >> 4) % 10 < 8 - 5 * (i > 10 * N)) {
			in[which] = !in[which];
			snprintf(name, sizeof name, "f%d", which);
			cr_assert(tree_link(&tree, nodes[which], in[which] ? dir : other, name));
		}
		if (i % 7001 == 0)
			check_children(dir, in, first, N);
	}
	check_children(dir, in, first, N);
	for (int i = 0; i < N; i++) { /* another name in the same folder */
		snprintf(name, sizeof name, "g%d", i);
		cr_assert(tree_link(&tree, nodes[i], nodes[i]->parent, name));
		cr_assert_eq(tree_lookup(&tree, nodes[i]->parent, name), nodes[i]);
	}
	check_children(dir, in, first, N);
	for (int i = 0; i < N; i++) {
		tree_unlink(&tree, nodes[i]);
		cr_assert(tree_drop_unused(&tree, nodes[i]));
	}
	cr_assert_eq(dir->n_children + other->n_children, 0);
	cr_assert_null(tree_next_child(dir, 0));
	add(&tree, dir->id, "again", S_IFREG | 0644);
	cr_assert_eq(dir->n_children, 1);
	tree_finish(&tree);
}

Test(tree, a_nameless_node_lives_while_it_is_used)
{
	struct tree tree;
	cr_assert(tree_init(&tree, 0, 0, false, 1));
	struct tree_node *node = add(&tree, TREE_IN, "f", S_IFREG | 0644);
	uint64_t id = node->id;
	node->lookups = 1;
	node->n_open = 1;
	cr_assert_not(tree_drop_unused(&tree, node));
	tree_unlink(&tree, node);
	cr_assert_eq(tree_links(node), 0);
	cr_assert_not(tree_drop_unused(&tree, node));
	node->lookups = 0;
	cr_assert_not(tree_drop_unused(&tree, node));
	node->n_open = 0;
	cr_assert(tree_drop_unused(&tree, node));
	cr_assert_null(tree_find(&tree, id));
	cr_assert_gt(add(&tree, TREE_IN, "f", S_IFREG | 0644)->id, id, "ids are never used again");
	tree_finish(&tree);
}

Test(tree, paths)
{
	struct tree tree;
	char path[PATH_MAX];
	cr_assert(tree_init(&tree, 0, 0, false, 1));
	struct tree_node *d = add(&tree, TREE_IN, "d", S_IFDIR | 0755), *e = add(&tree, d->id, "e", S_IFDIR | 0755);
	struct tree_node *f = add(&tree, e->id, "f.png", S_IFREG | 0644);
	cr_assert(tree_path(f, path, sizeof path));
	cr_assert_str_eq(path, "d/e/f.png");
	cr_assert_not(tree_path(f, path, 9));
	cr_assert_not(tree_path(tree_find(&tree, TREE_IN), path, sizeof path));
	cr_assert_eq(tree_resolve(&tree, tree_find(&tree, TREE_IN), "d/e/f.png"), f);
	cr_assert_null(tree_resolve(&tree, tree_find(&tree, TREE_IN), "d/e/f.png/x"));
	cr_assert(tree_is_inside(f, d));
	cr_assert_not(tree_is_inside(d, e));
	tree_finish(&tree);
}

Test(tree, extended_attributes)
{
	struct tree tree;
	static char big[TREE_XATTR_MAX];
	uint32_t len;
	cr_assert(tree_init(&tree, 0, 0, false, 1));
	struct tree_node *node = add(&tree, TREE_IN, "f", S_IFREG | 0644);
	cr_assert_eq(set_xattr(&tree, node, "user.a", "1", 1), 0);
	cr_assert_eq(set_xattr(&tree, node, "user.ab", "22", 2), 0);
	cr_assert_eq(set_xattr(&tree, node, "user.a", "333", 3), 0);
	cr_assert_arr_eq(tree_xattr_get(node, "user.a", &len), "333", 3);
	cr_assert_eq(len, 3);
	cr_assert_arr_eq(tree_xattr_get(node, "user.ab", &len), "22", 2);
	cr_assert_eq(set_xattr(&tree, node, "user.big", big, sizeof big - 100), 0);
	cr_assert_eq(set_xattr(&tree, node, "user.big2", big, 200), ENOSPC);
	cr_assert_eq(set_xattr(&tree, node, "user.big", NULL, 0), 0);
	cr_assert_eq(set_xattr(&tree, node, "user.empty", "", 0), 0);
	cr_assert_not_null(tree_xattr_get(node, "user.empty", &len));
	cr_assert_eq(len, 0);
	cr_assert(tree_xattrs_valid(node->xattrs, node->xattrs_len));
	for (uint32_t cut = 1; cut < node->xattrs_len; cut++) /* a cut block is only valid between entries */
		if (tree_xattrs_valid(node->xattrs, cut))
			cr_assert(cut == 6 + 7 + 2 || cut == 6 + 7 + 2 + 6 + 6 + 3, "%u", cut);
	tree_finish(&tree);
}

Test(jobs, users_take_turns_in_order)
{
	static const uint32_t uids[] = {5, 5, 5, 7, 7, 9}, turns[] = {5, 7, 9, 5, 7, 5};
	struct jobs jobs;
	cr_assert(jobs_init(&jobs));
	for (int i = 0; i < 6; i++) {
		struct input *input = jobs_input(&jobs, 100 + i);
		input->uid = uids[i];
		jobs_enqueue(&jobs, input);
	}
	uint64_t last[10] = {0};
	for (int i = 0; i < 6; i++) {
		struct input *input = jobs_next(&jobs, NULL, NULL);
		cr_assert_eq(input->uid, turns[i]);
		cr_assert_gt(input->seq, last[input->uid]);
		last[input->uid] = input->seq;
		jobs_set_state(&jobs, input, INPUT_RUNNING, false);
	}
	cr_assert_null(jobs_next(&jobs, NULL, NULL));
	struct input *first = jobs_find(&jobs, 101), *second = jobs_find(&jobs, 102);
	jobs_set_state(&jobs, second, INPUT_QUEUED, false);
	jobs_set_state(&jobs, first, INPUT_QUEUED, false);
	cr_assert_eq(jobs_next(&jobs, NULL, NULL), first, "a job that is queued again keeps its place");
	jobs_forget(&jobs, first);
	cr_assert_eq(jobs_next(&jobs, NULL, NULL), second);
	jobs_finish(&jobs);
}

static bool is_odd(void *user, const struct input *input)
{
	++*(int *)user;
	return input->id % 2 && input->uid < 800;
}

/* A thousand users, of whom some have nothing that may run; those whose job is back keep their place, wherever it is. */
Test(jobs, turns_of_many_users)
{
	enum { USERS = 1000, EACH = 5 };
	static int left[USERS];
	struct jobs jobs;
	int asked = 0;
	cr_assert(jobs_init(&jobs));
	for (int i = 0; i < EACH * USERS; i++) {
		struct input *input = jobs_input(&jobs, 100 + i);
		input->uid = i * 7 % USERS;
		jobs_enqueue(&jobs, input);
		left[input->uid] += input->id % 2;
	}
	jobs.last_uid = 499;
	uint32_t last_uid = 499;
	for (struct input *input; (input = jobs_next(&jobs, is_odd, &asked)); last_uid = input->uid) {
		cr_assert(input->id % 2 && input->uid < 800);
		for (uint32_t uid = (last_uid + 1) % USERS; uid != input->uid; uid = (uid + 1) % USERS)
			cr_assert(left[uid] == 0 || uid >= 800, "%u has been passed over", uid);
		left[input->uid]--;
		jobs_set_state(&jobs, input, INPUT_RUNNING, false);
	}
	long n = 0;
	for (const struct input *input = jobs_each_queued(&jobs, NULL); input; input = jobs_each_queued(&jobs, input)) {
		cr_assert(input->id % 2 == 0 || input->uid >= 800);
		n++;
	}
	cr_assert_eq(n, jobs.queue.n);
	for (int i = 0; i < EACH * USERS; i++) /* those that ran */
		jobs_set_state(&jobs, jobs_find(&jobs, 100 + i * 4999 % (EACH * USERS)), INPUT_QUEUED, false);
	cr_assert_eq(jobs.queue.n, EACH * USERS);
	for (const struct input *input = jobs_each_queued(&jobs, NULL), *next; input; input = next) {
		next = jobs_each_queued(&jobs, input);
		cr_assert(!next || input->uid < next->uid || (input->uid == next->uid && input->seq < next->seq));
	}
	asked = 0;
	jobs.last_uid = USERS;
	cr_assert_eq(jobs_next(&jobs, NULL, NULL)->uid, 0);
	cr_assert(jobs_next(&jobs, is_odd, &asked));
	cr_assert_leq(asked, EACH * 3, "%d were looked at", asked);
	jobs_finish(&jobs);
}

/* As many as fit, by turns: the oldest of each user, then the second ones, from the user who is next in the circle. */
Test(jobs, outcomes_take_turns)
{
	static const uint32_t wanted[] = {7, 9, 5, 7, 9, 5, 7, 5, 5};
	struct jobs jobs;
	struct input *turns[JOBS_TURNS_MAX];
	cr_assert(jobs_init(&jobs));
	cr_assert_eq(jobs_outcome_turns(&jobs, turns), 0);
	for (int i = 0; i < 105; i++) {
		struct input *input = jobs_input(&jobs, 100 + i);
		input->uid = i < 100 ? 5 : i < 103 ? 7 : 9;
		jobs_enqueue(&jobs, input);
		jobs_set_state(&jobs, input, i % 2 ? INPUT_DONE : INPUT_FAILED, true);
	}
	jobs.last_outcome_uid = 5;
	cr_assert_eq(jobs_outcome_turns(&jobs, turns), JOBS_TURNS_MAX);
	uint64_t last[10] = {0};
	for (int i = 0; i < JOBS_TURNS_MAX; i++) {
		cr_expect_eq(turns[i]->uid, i < 9 ? wanted[i] : 5, "turn %d is of %u", i, turns[i]->uid);
		cr_expect_gt(turns[i]->seq, last[turns[i]->uid]);
		last[turns[i]->uid] = turns[i]->seq;
	}
	jobs.last_outcome_uid = 4;
	jobs_fail(&jobs, jobs_find(&jobs, 100));
	jobs_outcome_turns(&jobs, turns);
	cr_expect_eq(turns[0]->id, 101);
	cr_expect_eq(jobs.n_failed, 1);
	jobs_finish(&jobs);
}

/* One that fails has an end at once where it has no place, and a name that fits wherever it is shown. */
Test(jobs, paths_that_are_too_long)
{
	struct tree tree;
	struct jobs jobs;
	struct error err;
	char name[TREE_NAME_MAX + 1], shown[300], long_shown[5000];
	cr_assert(tree_init(&tree, 0, 0, false, 1) && jobs_init(&jobs));
	struct tree_node *folder = tree_find(&tree, TREE_IN);
	memset(name, 'd', TREE_NAME_MAX);
	name[TREE_NAME_MAX] = '\0';
	for (int i = 0; i < 17; i++) {
		struct tree_node *node = tree_new(&tree, 0, S_IFREG, 0, 0, 1);
		cr_assert(tree_link(&tree, node, folder, "a.png"));
		struct input *input = jobs_input(&jobs, node->id);
		bool placed = stem_claim(&jobs, &tree, input, node, 1u << JOB_GLB, &err);
		cr_expect_eq(placed, i < 16, "%d folders deep", i);
		cr_expect_eq(input->stem != NULL, placed);
		jobs_show_name(node, shown, sizeof shown);
		cr_expect_str_eq(strrchr(shown, '/') ? strrchr(shown, '/') + 1 : shown, "a.png");
		cr_expect_eq(strncmp(shown, ".../", 4) == 0, i >= 2, "%d: %s", i, shown);
		jobs_show_name(node, long_shown, sizeof long_shown);
		cr_expect_eq(strlen(long_shown), i * 256u + 5);
		tree_unlink(&tree, node);
		cr_expect_str_eq(jobs_show_name(node, shown, sizeof shown), "");
		cr_assert(tree_link(&tree, node, folder, "a.png"));
		struct tree_node *deeper = tree_new(&tree, 0, S_IFDIR, 0, 0, 1);
		cr_assert(tree_link(&tree, deeper, folder, name));
		folder = deeper;
	}
	cr_expect_str_eq(err.text, "its path is too long for a result to have a name in out/");
	struct tree_node *longest = tree_new(&tree, 0, S_IFREG, 0, 0, 1);
	cr_assert(tree_link(&tree, longest, folder, name));
	char least[JOBS_NAME_MIN];
	cr_expect_eq(strlen(jobs_show_name(longest, least, sizeof least)), 4 + TREE_NAME_MAX);
	jobs_finish(&jobs);
	tree_finish(&tree);
}

static void check_stem(const char *path, int i, const char *wanted)
{
	char stem[PATH_MAX];
	cr_assert(stem_candidate(path, i, stem, sizeof stem));
	cr_assert_str_eq(stem, wanted);
}

Test(stem, candidates)
{
	char path[600], stem[PATH_MAX];
	check_stem("d/a.png", 0, "d/a");
	check_stem("d/a.png", 1, "d/a.png");
	check_stem("d/a.png", 2, "d/a.png-2");
	check_stem("d.x/a", 0, "d.x/a");
	check_stem("a.b.png", 0, "a.b");
	check_stem("a.png.1", 0, "a.png.1");
	check_stem("a.xyz", 0, "a");
	check_stem("a.png.webp", 0, "a.png");
	for (int fill = 230; fill < 256; fill++) {
		memset(path, 'x', sizeof path);
		strcpy(path + fill - 4, ".png");
		cr_assert(stem_candidate(path, 0, stem, sizeof stem));
		cr_assert_leq(strlen(stem) + strlen(".preview.png"), 255);
		cr_expect(stem_fits(path, stem), "%d", fill);
	}
	for (int i = 0; i < 125; i++)
		memcpy(path + 2 * i, "\xc3\xbc", 2);
	strcpy(path + 250, ".png");
	cr_assert(stem_candidate(path, 0, stem, sizeof stem));
	cr_assert_eq(strcspn(stem, "~") % 2, 0, "a character was cut");
}

Test(stem, which_fit_a_path)
{
	static const char *const good[] = {"d/a", "d/a.png", "d/a.png-2", "d/a.png-99", "d-2/a", "d-34/a.png"},
				 *const bad[] = {"a", "d/b", "d/a.jpg", "d/a-2", "d/a.png-1", "d/a.png-02",
					 "d/a.png-100", "d/a.png-", "d/a.png-x", "d-1/a", "d2/a", "d/a/a", "d", "",
					 "d/"};
	for (size_t i = 0; i < sizeof good / sizeof *good; i++)
		cr_expect(stem_fits("d/a.png", good[i]), "%s", good[i]);
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		cr_expect_not(stem_fits("d/a.png", bad[i]), "%s", bad[i]);
}

/* A tree of pictures and results. */
struct world {
	struct tree tree;
	struct jobs jobs;
};

static void make_world(struct world *w)
{
	cr_assert(tree_init(&w->tree, 0, 0, false, 1) && jobs_init(&w->jobs));
}

static void end_world(struct world *w)
{
	jobs_finish(&w->jobs);
	tree_finish(&w->tree);
}

static struct input *add_picture(struct world *w, uint64_t parent, const char *name, uint32_t outputs)
{
	struct input *input = jobs_input(&w->jobs, add(&w->tree, parent, name, S_IFREG | 0644)->id);
	cr_assert_not_null(input);
	input->options.outputs = outputs;
	return input;
}

static struct tree_node *add_result(
	struct world *w, uint64_t parent, const char *name, uint64_t source, unsigned output)
{
	static const uint8_t key[JOBS_KEY_LEN] = {1};
	struct tree_node *node = add(&w->tree, parent, name, S_IFREG | 0644);
	node->area = AREA_OUT;
	cr_assert_not_null(jobs_add_result(&w->jobs, node->id, source, key, output));
	return node;
}

static void check_claim(struct world *w, struct input *input, const char *wanted)
{
	struct error err = {0};
	struct tree_node *node = tree_find(&w->tree, input->id);
	node->area = AREA_IN;
	cr_assert(stem_claim(&w->jobs, &w->tree, input, node, input->options.outputs, &err), "%s", err.text);
	cr_expect_str_eq(input->stem, wanted);
}

static void rename_picture(struct world *w, const struct input *input, uint64_t parent, const char *name)
{
	cr_assert(tree_link(&w->tree, tree_find(&w->tree, input->id), tree_find(&w->tree, parent), name));
}

Test(stem, has_one_owner)
{
	struct world w;
	make_world(&w);
	struct input *first = add_picture(&w, TREE_IN, "a.png", 1u << JOB_GLB),
		     *second = add_picture(&w, TREE_IN, "a.jpg", 1u << JOB_GLB),
		     *third = add_picture(&w, TREE_IN, "a.jpeg", 1u << JOB_GLB);
	check_claim(&w, first, "a");
	check_claim(&w, second, "a.jpg");
	check_claim(&w, first, "a");
	cr_expect_null(first->old_stem);
	rename_picture(&w, first, TREE_IN, "b.png"); /* its stem is free */
	check_claim(&w, second, "a.jpg");	     /* and each keeps what it has */
	check_claim(&w, third, "a");
	check_claim(&w, first, "b");
	cr_expect_str_eq(first->old_stem, "a");
	rename_picture(&w, first, TREE_IN, "c.png"); /* its results are where they were */
	check_claim(&w, first, "c");
	cr_expect_str_eq(first->old_stem, "a");
	rename_picture(&w, third, TREE_IN, "a.jpeg~"); /* junk owns no stem */
	rename_picture(&w, first, TREE_IN, "a.png");
	check_claim(&w, first, "a");
	cr_expect_null(first->old_stem);
	end_world(&w);
}

Test(stem, what_is_there_is_not_replaced)
{
	struct world w;
	make_world(&w);
	struct input *a = add_picture(&w, TREE_IN, "a.png", 1u << JOB_GLB),
		     *b = add_picture(&w, TREE_IN, "b.png", 1u << JOB_GLB);
	check_claim(&w, a, "a");
	add_result(&w, TREE_OUT, "b.glb", a->id, JOB_GLB); /* a's, where a user has put it */
	check_claim(&w, b, "b.png");
	struct input *c = add_picture(&w, TREE_IN, "c.png", 1u << JOB_GLB);
	add(&w.tree, TREE_OUT, "c.glb", S_IFDIR | 0755);
	check_claim(&w, c, "c.png");
	struct input *d = add_picture(&w, TREE_IN, "d.png", 1u << JOB_GLB);
	struct tree_node *of_nobody = add_result(&w, TREE_OUT, "d.glb", 9999, JOB_GLB); /* its picture has gone */
	check_claim(&w, d, "d");
	of_nobody->uid = 7; /* another user's */
	check_claim(&w, d, "d.png");
	struct input *e = add_picture(&w, TREE_IN, "e.png", 1u << JOB_GLB);
	add_result(&w, TREE_OUT, "e.error.txt", 0, JOB_OUTPUTS); /* a user's */
	check_claim(&w, e, "e.png");
	struct tree_node *folder = add(&w.tree, TREE_IN, "a.glb", S_IFDIR | 0755);
	struct input *f = add_picture(&w, folder->id, "f.png", 1u << JOB_GLB);
	add_result(&w, TREE_OUT, "a.glb", a->id, JOB_GLB);
	check_claim(&w, f, "a.glb-2/f");
	end_world(&w);
}

/* What is about to leave is no obstacle, but has to go first. */
Test(stem, those_that_leave_are_in_the_way)
{
	struct world w;
	make_world(&w);
	struct input *a = add_picture(&w, TREE_IN, "a.png", 1u << JOB_GLB),
		     *b = add_picture(&w, TREE_IN, "b.png", 1u << JOB_GLB);
	check_claim(&w, a, "a");
	check_claim(&w, b, "b");
	add_result(&w, TREE_OUT, "a.glb", a->id, JOB_GLB);
	add_result(&w, TREE_OUT, "b.glb", b->id, JOB_GLB);
	rename_picture(&w, a, TREE_IN, "t.png");
	rename_picture(&w, b, TREE_IN, "a.png");
	rename_picture(&w, a, TREE_IN, "b.png");
	check_claim(&w, b, "a");
	cr_expect_eq(stem_in_the_way(&w.jobs, &w.tree, b, 1u << JOB_GLB), a);
	cr_expect_null(stem_in_the_way(&w.jobs, &w.tree, b, 1u << JOB_OUTPUTS));
	check_claim(&w, a, "b");
	cr_expect_eq(stem_in_the_way(&w.jobs, &w.tree, a, 1u << JOB_GLB), b);
	cr_expect_eq(stem_owner(&w.jobs, &w.tree, "a", NULL), b);
	cr_expect_null(stem_owner(&w.jobs, &w.tree, "a", b));
	end_world(&w);
}

/* in/g.png with a Gaussian PLY and in/g.gaussian.png with a PLY would write the same file. */
Test(stem, names_are_a_set)
{
	struct world w;
	make_world(&w);
	struct input *g = add_picture(&w, TREE_IN, "g.png", 1u << JOB_GLB | 1u << JOB_GAUSSIAN_PLY),
		     *other = add_picture(&w, TREE_IN, "g.gaussian.png", 1u << JOB_PLY),
		     *harmless = add_picture(&w, TREE_IN, "h.gaussian.png", 1u << JOB_GLB);
	check_claim(&w, g, "g");
	check_claim(&w, other, "g.gaussian.png");
	struct input *h = add_picture(&w, TREE_IN, "h.png", 1u << JOB_GAUSSIAN_PLY);
	check_claim(&w, harmless, "h.gaussian");
	check_claim(&w, h, "h");
	end_world(&w);
}

Test(stem, junk)
{
	struct world w;
	make_world(&w);
	struct tree_node *plain = add(&w.tree, TREE_IN, "d", S_IFDIR | 0755),
			 *hidden = add(&w.tree, TREE_IN, ".Trash-0", S_IFDIR | 0755),
			 *deep = add(&w.tree, hidden->id, "files", S_IFDIR | 0755);
	cr_expect_not(stem_is_junk(add(&w.tree, plain->id, "a.png", S_IFREG | 0644)));
	cr_expect(stem_is_junk(add(&w.tree, plain->id, "a.png~", S_IFREG | 0644)));
	struct tree_node *node = add(&w.tree, deep->id, "a.png", S_IFREG | 0644);
	cr_expect(stem_is_junk(node));
	cr_assert(tree_link(&w.tree, deep, plain, "files"));
	cr_expect_not(stem_is_junk(node));
	end_world(&w);
}

Test(jobs, results_are_found_by_key)
{
	struct jobs jobs;
	uint8_t key[JOBS_KEY_LEN] = {1, 2, 3}, other[JOBS_KEY_LEN] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
	cr_assert(jobs_init(&jobs));
	jobs_add_result(&jobs, 100, 70, key, JOB_GLB);
	jobs_add_result(&jobs, 101, 70, key, JOB_PREVIEW);
	cr_assert_eq(jobs_result_by_key(&jobs, key, JOB_GLB)->id, 100);
	cr_assert_null(jobs_result_by_key(&jobs, other, JOB_GLB));
	cr_assert_null(jobs_result_by_key(&jobs, key, JOB_OBJ));
	jobs_drop_result(&jobs, 100);
	cr_assert_null(jobs_result_by_key(&jobs, key, JOB_GLB));
	cr_assert_eq(jobs.n_results, 1);
	jobs_finish(&jobs);
}

/* However many are equal, each is dropped by itself, and the newest that is left is found. */
Test(jobs, equal_results)
{
	enum { N = 1000 };
	struct jobs jobs;
	uint8_t key[JOBS_KEY_LEN] = {1}, other[JOBS_KEY_LEN] = {2};
	bool there[N] = {false};
	cr_assert(jobs_init(&jobs));
	for (int i = 0; i < N; i++) {
		there[i] = true;
		cr_assert(jobs_add_result(&jobs, 100 + i, 7, key, JOB_GLB));
		cr_assert_eq(jobs_result_by_key(&jobs, key, JOB_GLB)->id, 100u + i);
	}
	cr_assert(jobs_add_result(&jobs, 99, 7, key, JOB_PREVIEW) && jobs_add_result(&jobs, 98, 7, other, JOB_GLB));
	cr_assert_eq(jobs.results_by_key.n, 3);
	for (int i = 0, newest = N - 1; i < N; i++) {
		int gone = i * 389 % N;
		jobs_drop_result(&jobs, 100 + gone);
		cr_assert_null(jobs_result(&jobs, 100 + gone));
		there[gone] = false;
		while (newest >= 0 && !there[newest])
			newest--;
		const struct result *found = jobs_result_by_key(&jobs, key, JOB_GLB);
		cr_assert(newest < 0 ? !found : found && found->id == 100u + newest, "after %d", i);
	}
	cr_assert_eq(jobs_result_by_key(&jobs, key, JOB_PREVIEW)->id, 99);
	cr_assert_eq(jobs_result_by_key(&jobs, other, JOB_GLB)->id, 98);
	cr_assert_eq(jobs.n_results, 2);
	jobs_finish(&jobs);
}

/* RFC 7693, appendix A, and b2sum's answer for more than one block. */
Test(hash, blake2b)
{
	static const uint8_t abc[8] = {0xba, 0x80, 0xa5, 0x3f, 0x98, 0x1c, 0x4d, 0x0d};
	uint8_t digest[64], pieces[64], data[1000];
	hash_once(digest, 64, "abc", 3);
	cr_assert_arr_eq(digest, abc, sizeof abc);
	memset(data, 'x', sizeof data);
	hash_once(digest, 64, data, sizeof data);
	struct hash hash;
	hash_init(&hash, 64);
	for (size_t at = 0, n = 1; at < sizeof data; at += n, n = (n * 3) % 200 + 1) {
		if (n > sizeof data - at)
			n = sizeof data - at;
		hash_update(&hash, data + at, n);
	}
	hash_final(&hash, pieces);
	cr_assert_arr_eq(digest, pieces, 64);
}
