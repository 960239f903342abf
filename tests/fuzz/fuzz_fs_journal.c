/* fuzz_fs_journal.c - any bytes as a change of the journal: refused or applied, never a broken tree. */
#include "config.h"
#include "record.h"

#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct tree tree;
	struct jobs jobs;
	struct job_options config = config_defaults();
	struct record_target target = {&tree, &jobs, &config};
	struct bytes image = {0};
	if (!tree_init(&tree, 1, 1, false, 1) || !jobs_init(&jobs))
		abort();
	/* Half of the inputs follow a folder and a file, so that records have something to hit. */
	if (size > 0 && data[0] & 1) {
		struct tree_node *dir = tree_new(&tree, 0, S_IFDIR | 0755, 1, 1, 1);
		struct tree_node *file = tree_new(&tree, 0, S_IFREG | 0644, 1, 1, 1);
		tree_link(&tree, dir, tree_find(&tree, TREE_IN), "d");
		tree_link(&tree, file, dir, "f");
		jobs_enqueue(&jobs, jobs_input(&jobs, file->id));
	}
	if (size > 0)
		record_apply(&target, data + 1, size - 1);
	for (struct tree_node *node = tree_each(&tree, NULL); node; node = tree_each(&tree, node))
		if (node->parent && tree_lookup(&tree, node->parent, node->name) != node)
			abort();
	record_all(&image, &tree, &jobs, &config, tree.next_id);
	bytes_finish(&image);
	jobs_finish(&jobs);
	tree_finish(&tree);
	return 0;
}
