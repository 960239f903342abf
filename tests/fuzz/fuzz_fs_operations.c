/* fuzz_fs_operations.c - any sequence of file operations at the level below FUSE, against a real state directory in a
 * temporary folder: no crash, no leak, the books balance (children, sizes), and a reload gives the same tree. */
#include "contents.h"
#include "files.h"
#include "names.h"
#include "options.h"
#include "seeds.h"
#include "xattrs.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A file is created, unlinked, closed, and then truncated by its bare id. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const char gone[] =
		"@\5\0\306\224=\10]\300:u?;\301\1\0\0\0\0\0\3\373\301\301\301\301\301\301\301\233\233\204]]"
		"\3000\n\233\233\204]\332}\300:?;\301\301\301\301\301\301\301\301\301\301\301\301\301";
	seeds_write(seeds_corpus(*argc, *argv), "gone", gone, sizeof gone - 1);
	return 0;
}

enum { HANDLES = 4 };

struct run {
	struct fs fs;
	const uint8_t *data;
	size_t size, at;
	struct handle *handles[HANDLES];
	uint64_t lookups[512]; /* what the kernel would have to forget */
};

static uint8_t next(struct run *r)
{
	return r->at < r->size ? r->data[r->at++] : 0;
}

/* Few names and ids, so that operations meet. */
static const char *name_of(struct run *r)
{
	static const char *const names[] = {"a", "b.png", ".c", "d", "e.jpg", "link", "..", "", "f/g", "status"};
	return names[next(r) % 8];
}

static uint64_t id_of(struct run *r)
{
	static const uint64_t fixed[] = {TREE_ROOT, TREE_IN, TREE_OUT, 9999};
	uint8_t byte = next(r);
	return byte < 96 ? TREE_IN : byte < 128 ? fixed[byte % 4] : TREE_FIRST_ID + byte % 24;
}

static void count_lookup(struct run *r, int error, const struct stat *st)
{
	if (!error && st->st_ino < 512)
		r->lookups[st->st_ino]++;
}

static void step(struct run *r)
{
	const struct caller caller = {.uid = 1, .gid = 1, .pid = 1};
	struct fs *fs = &r->fs;
	struct stat st = {0};
	char buffer[256], *text;
	size_t len;
	bool found;
	struct handle **handle = &r->handles[next(r) % HANDLES], *opened = NULL;
	uint64_t id = id_of(r);
	const char *name = name_of(r);
	memset(buffer, next(r), sizeof buffer);
	switch (next(r) % 16) {
	case 0:
		count_lookup(r, names_lookup(fs, &caller, id, name, &st), &st);
		break;
	case 1:
		count_lookup(r, names_mkdir(fs, &caller, id, name, 0755, &st), &st);
		break;
	case 2:
		count_lookup(r, names_symlink(fs, &caller, id, name, "target", &st), &st);
		break;
	case 3:
	case 4: {
		int error = names_create(
			fs, &caller, id, name, 0644, O_RDWR | (next(r) & 1 ? O_EXCL : O_TRUNC), &st, &opened);
		count_lookup(r, error, &st);
		break;
	}
	case 5:
		names_unlink(fs, id, name);
		break;
	case 6:
		names_rmdir(fs, id, name);
		break;
	case 7:
	case 8: {
		uint64_t to = id_of(r);
		names_rename(fs, &caller, id, name, to, name_of(r), next(r) % 3);
		break;
	}
	case 9:
		files_open(fs, id, next(r) & 1 ? O_RDWR | O_TRUNC : O_RDONLY, &opened);
		break;
	case 10:
		if (*handle && (*handle)->writer)
			files_write(fs, *handle, buffer, next(r), next(r) * 16);
		break;
	case 11:
		st.st_size = next(r) * 8;
		st.st_mode = next(r);
		if (id != TREE_STATUS)
			files_setattr(fs, id, NULL, next(r) & (FILES_MODE | FILES_SIZE | FILES_MTIME), &st);
		break;
	case 12:
		xattrs_set(fs, id, "user.x", next(r) & 1 ? buffer : NULL, next(r), 0);
		break;
	case 13:
		if (xattrs_get(fs, id, "user.x", &text, &len) == 0)
			free(text);
		break;
	case 14:
		if (names_next(fs, id, next(r), true, &st, &text, &found) == 0 && found) {
			count_lookup(r, 0, &st);
			free(text);
		}
		break;
	case 15:
		if (*handle) {
			files_release(fs, *handle);
			*handle = NULL;
		}
		if (id < 512) {
			names_forget(fs, id, r->lookups[id]);
			r->lookups[id] = 0;
		}
		break;
	}
	if (opened) {
		if (*handle)
			files_release(fs, *handle);
		*handle = opened;
	}
}

/* Sizes add up, names find their nodes; returns a sum over the tree that a reload must give again. */
static uint64_t check(const struct fs *fs)
{
	int64_t bytes = 0;
	uint64_t sum = 0;
	for (struct tree_node *node = tree_each(&fs->tree, NULL); node; node = tree_each(&fs->tree, node)) {
		if (node->id >= TREE_FIRST_ID && S_ISREG(node->mode))
			bytes += node->size;
		if (node->id < TREE_FIRST_ID)
			continue;
		if (!node->parent || tree_lookup(&fs->tree, node->parent, node->name) != node)
			abort();
		sum += node->id * 31 + node->parent->id * 17 + node->mode + node->xattrs_len +
		       (S_ISREG(node->mode) ? node->size : 0);
	}
	if (bytes != fs->used_bytes)
		abort();
	return sum;
}

static bool remove_content(void *user, uint64_t id)
{
	state_content_remove(user, id);
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct options options = {.max_bytes = 1 << 20};
	static char path[256];
	struct error err;
	struct run *r = calloc(1, sizeof *r);
	if (!path[0])
		seeds_make_folder(path);
	r->data = data;
	r->size = size < 600 ? size : 600;
	if (!fs_init(&r->fs, &options, path, &err))
		abort();
	while (r->at < r->size)
		step(r);
	for (int i = 0; i < HANDLES; i++)
		if (r->handles[i])
			files_release(&r->fs, r->handles[i]);
	for (uint64_t id = 0; id < 512; id++)
		if (r->lookups[id])
			names_forget(&r->fs, id, r->lookups[id]);
	uint64_t sum = check(&r->fs);
	fs_finish(&r->fs);
	if (!fs_init(&r->fs, &options, path, &err))
		abort();
	contents_look_all(&r->fs);
	if (check(&r->fs) != sum || r->fs.recovery.damaged || r->fs.recovery.missing_files)
		abort();
	/* The next run starts with nothing. */
	state_each_content(&r->fs.state, remove_content, &r->fs.state);
	unlinkat(r->fs.state.dir_fd, "journal", 0);
	unlinkat(r->fs.state.dir_fd, "journal.synced", 0);
	fs_finish(&r->fs);
	free(r);
	return 0;
}
