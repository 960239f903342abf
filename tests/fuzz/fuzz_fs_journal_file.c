/* fuzz_fs_journal_file.c - any bytes as the journal of a state directory: refused, or opened with a whole tree, and opened
 * again it is the same and undamaged. */
#include "fs.h"
#include "options.h"
#include "record.h"
#include "seeds.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[256];
static const struct options options;

static void write_journal(int dir_fd, const uint8_t *data, size_t size)
{
	unlinkat(dir_fd, "journal.synced", 0);
	unlinkat(dir_fd, "journal.damaged", 0);
	int fd = openat(dir_fd, "journal", O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	close(fd);
}

/* A log of each kind of record, in both formats. */
static void write_seeds(const char *corpus)
{
	struct tree tree;
	struct jobs jobs;
	struct job_options config = {0};
	struct bytes image = {0}, log = {0};
	struct journal_log copy;
	static uint8_t text[65536];
	if (!tree_init(&tree, 1, 1, false, 1) || !jobs_init(&jobs))
		abort();
	struct tree_node *dir = tree_new(&tree, 0, S_IFDIR | 0755, 1, 1, 1),
			 *file = tree_new(&tree, 0, S_IFREG | 0644, 1, 1, 1);
	tree_link(&tree, dir, tree_find(&tree, TREE_IN), "d");
	tree_link(&tree, file, dir, "f");
	jobs_enqueue(&jobs, jobs_input(&jobs, file->id));
	jobs_add_result(&jobs, file->id, 7, text, 0);
	record_all(&image, &tree, &jobs, &config, 100);
	int dir_fd = open(path, O_RDONLY | O_DIRECTORY);
	if (!journal_copy_begin(dir_fd, &image, &copy))
		abort();
	ssize_t len = pread(copy.fd, text, sizeof text, 0);
	seeds_write(corpus, "format-2", (const char *)text, len);
	bytes_put(&log, "trlsfs1\n", 8);
	struct reader r = {.data = image.data, .len = image.len};
	while (r.at < r.len) {
		uint32_t change_len;
		const uint8_t *change = reader_block(&r, &change_len);
		bytes_put_u32(&log, change_len);
		bytes_put_u32(&log, journal_crc(0, change, change_len));
		bytes_put(&log, change, change_len);
	}
	seeds_write(corpus, "format-1", (const char *)log.data, log.len);
	close(copy.fd);
	unlinkat(dir_fd, "journal.new", 0);
	close(dir_fd);
	bytes_finish(&image);
	bytes_finish(&log);
	jobs_finish(&jobs);
	tree_finish(&tree);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	seeds_make_folder(path);
	write_seeds(seeds_corpus(*argc, *argv));
	return 0;
}

static size_t check(const struct fs *fs)
{
	for (struct tree_node *node = tree_each(&fs->tree, NULL); node; node = tree_each(&fs->tree, node))
		if (node->id != TREE_ROOT &&
			(!node->parent || tree_lookup(&fs->tree, node->parent, node->name) != node ||
				node->id >= fs->tree.next_id))
			abort();
	return fs->tree.n_nodes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fs fs;
	struct error err = {""};
	struct journal_report report;
	int dir_fd = open(path, O_RDONLY | O_DIRECTORY);
	write_journal(dir_fd, data, size);
	close(dir_fd);
	bool ok = fs_load(&fs, &options, path, STATE_MAKE, &report, &err) && fs_begin(&fs, &report, &err);
	size_t n = ok ? check(&fs) : 0;
	if (!ok && !err.text[0])
		abort();
	fs_finish(&fs);
	if (!ok)
		return 0;
	ok = fs_load(&fs, &options, path, STATE_MAKE, &report, &err);
	if (!ok || report.damaged || report.torn || check(&fs) != n) {
		fprintf(stderr, "%s; damaged %d, torn %d, contradictions %d, %zu nodes and then %zu\n", err.text,
			report.damaged, report.torn, (int)report.contradictions, n, fs.tree.n_nodes);
		abort();
	}
	fs_finish(&fs);
	return 0;
}
