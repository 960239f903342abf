/* check.c - a state directory looked at from outside. See check.h. */
#include "check.h"

#include "contents.h"
#include "fs.h"
#include "log.h"
#include "mount.h"
#include "sync.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct check {
	struct fs fs;
	struct journal_report report;
	long files[AREA_LOST + 1]; /* by area */
	long missing, nameless, incomplete, left_over;
};

static const char *const AREAS[] = {"", "in/", "out/", "lost/"};

/* A name as one line: control bytes are shown as \xHH. */
static void print_name(const struct tree_node *node)
{
	char path[PATH_MAX];
	const char *text = tree_path(node, path, sizeof path) ? path : node->name;
	fputs(AREAS[node->area], stdout);
	for (const unsigned char *p = (const unsigned char *)text; *p; p++)
		*p < 0x20 || *p == 0x7f ? (void)printf("\\x%02X", *p) : (void)putchar(*p);
}

static void print_journal(const struct check *c)
{
	const struct journal_report *r = &c->report;
	if (r->format)
		printf("journal: format %d, %lld bytes%s\n", r->format, (long long)c->fs.journal.log.len,
			r->format == 1 ? "; the next mount writes it anew in format 2" : "");
	if (r->gone)
		printf("journal: %s\n", r->format ? "its beginning is damaged" : "it is missing");
	if (r->unmarked)
		printf("journal: journal.synced is missing or damaged: an end that is missing would not be noticed\n");
	if (r->torn)
		printf("journal: the last %lld bytes were torn by a crash, before they were synced\n",
			(long long)r->cut_bytes);
	if (r->damaged_bytes)
		printf("journal: damaged: %lld bytes cannot be read\n", (long long)r->damaged_bytes);
	if (r->lost_changes)
		printf("journal: damaged: %llu changes are lost%s\n", (unsigned long long)r->lost_changes,
			r->format == 1 ? " or more" : "");
	if (r->reordered)
		printf("journal: damaged: %llu changes were out of order\n", (unsigned long long)r->reordered);
	if (r->contradictions)
		printf("journal: damaged: %llu changes contradict what was before them\n",
			(unsigned long long)r->contradictions);
}

static void check_node(struct check *c, const struct tree_node *node)
{
	struct stat st;
	if (!S_ISREG(node->mode) || node->id < TREE_FIRST_ID)
		return;
	c->files[node->area]++;
	const struct result *result = jobs_result(&c->fs.jobs, node->id);
	int error = state_content_stat(&c->fs.state, node->id, &st);
	const struct tree_node *source = result ? tree_find(&c->fs.tree, result->source) : NULL;
	struct stat source_st;
	const struct input *input = source ? jobs_find(&c->fs.jobs, source->id) : NULL;
	if (source && (!source->parent || !input || memcmp(input->key, result->key, JOBS_KEY_LEN) != 0 ||
			      state_content_stat(&c->fs.state, source->id, &source_st) != 0))
		source = NULL;
	bool bytes = node->size > 0 || node->unsized;
	if (source && (error || (result->size && st.st_size != result->size))) {
		printf("incomplete: ");
		print_name(node);
		printf(": is made again\n");
		c->incomplete++;
	} else if (error && bytes) {
		printf("missing: ");
		print_name(node);
		printf(": its content %016llx is gone\n", (unsigned long long)node->id);
		c->missing++;
	}
}

/* Nothing that the journal does not name ever had a name. */
static bool is_whole(const struct journal_report *r)
{
	return !r->damaged && !r->torn && !r->unmarked;
}

/* A content without a name: of bytes that were never named, or of a name that is lost. */
static bool check_content(void *user, uint64_t id)
{
	struct check *c = user;
	struct stat st;
	if (tree_find(&c->fs.tree, id) || state_content_stat(&c->fs.state, id, &st) != 0)
		return true;
	if (st.st_size > 0 && !is_whole(&c->report)) {
		printf("nameless: content %016llx, %lld bytes: goes to lost/\n", (unsigned long long)id,
			(long long)st.st_size);
		c->nameless++;
	} else {
		c->left_over++;
	}
	return true;
}

static void look(struct check *c)
{
	print_journal(c);
	for (const struct tree_node *node = tree_each(&c->fs.tree, NULL); node; node = tree_each(&c->fs.tree, node))
		check_node(c, node);
	state_each_content(&c->fs.state, check_content, c);
	printf("files: %ld in in/, %ld in out/", c->files[AREA_IN], c->files[AREA_OUT]);
	if (c->files[AREA_LOST])
		printf(", %ld in lost/", c->files[AREA_LOST]);
	printf("\n");
	if (c->left_over)
		printf("contents that never had a name: %ld; %s removes them\n", c->left_over,
			is_whole(&c->report) ? "the next mount" : "a mount after the next");
}

/* ---- Copy out. ---- */

static bool copy_bytes(int from, int to)
{
	static char buffer[1 << 18];
	ssize_t n;
	for (off_t at = 0; (n = pread(from, buffer, sizeof buffer, at)) > 0; at += n)
		if (pwrite(to, buffer, n, at) != n)
			return false;
	return n == 0;
}

static void copy_attributes(int fd, const struct tree_node *node)
{
	const struct timespec times[2] = {fs_to_timespec(node->atime_ns), fs_to_timespec(node->mtime_ns)};
	if (geteuid() == 0)
		(void)!fchown(fd, node->uid, node->gid);
	(void)!fchmod(fd, node->mode & 0777);
	(void)!futimens(fd, times);
}

static bool copy_file(const struct fs *fs, const struct tree_node *node, int dir_fd)
{
	int from = state_content_open(&fs->state, node->id, O_RDONLY);
	if (from == -ENOENT)
		return true; /* told as missing */
	int to = openat(dir_fd, node->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	bool ok = from >= 0 && to >= 0 && copy_bytes(from, to);
	if (ok)
		copy_attributes(to, node);
	if (from >= 0)
		close(from);
	if (to >= 0)
		close(to);
	return ok;
}

static bool copy_folder(const struct fs *fs, const struct tree_node *folder, int dir_fd);

static bool copy_node(const struct fs *fs, const struct tree_node *node, int dir_fd)
{
	bool ok = S_ISREG(node->mode)	? copy_file(fs, node, dir_fd)
		  : S_ISLNK(node->mode) ? symlinkat(node->target, dir_fd, node->name) == 0
					: copy_folder(fs, node, dir_fd);
	if (!ok && !S_ISDIR(node->mode)) {
		printf("cannot copy ");
		print_name(node);
		printf(": %s\n", strerror(errno));
	}
	return ok;
}

static bool copy_folder(const struct fs *fs, const struct tree_node *folder, int dir_fd)
{
	bool ok = true;
	if (mkdirat(dir_fd, folder->name, 0700) != 0)
		return false;
	int fd = openat(dir_fd, folder->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return false;
	for (const struct tree_node *node = tree_next_child(folder, 0); node; node = tree_next_child(folder, node->id))
		ok &= copy_node(fs, node, fd);
	copy_attributes(fd, folder);
	close(fd);
	return ok;
}

static bool salvage(struct check *c, const char *to)
{
	struct fs *fs = &c->fs;
	if ((mkdir(to, 0700) != 0 && errno != EEXIST) || (!is_whole(&c->report) && !contents_recover(fs)))
		return false;
	int fd = open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool ok = fd >= 0;
	for (uint64_t id = TREE_IN; ok && id <= TREE_LOST; id++) {
		const struct tree_node *top =
			id == TREE_IN || id == TREE_OUT || id == TREE_LOST ? tree_find(&fs->tree, id) : NULL;
		if (top && (id != TREE_LOST || top->n_children > 0))
			ok &= copy_folder(fs, top, fd);
	}
	if (fd >= 0)
		close(fd);
	return ok;
}

/* ---- Put right: what a mount does at its start, at once. ---- */

static bool repair(struct check *c, struct error *err)
{
	struct fs *fs = &c->fs;
	if (!fs_begin(fs, &c->report, err) || !sync_start(fs, err))
		return false;
	contents_look_all(fs);
	sync_stop(fs);
	return true;
}

static int run(struct check *c, const char *path, bool repairs, const char *to)
{
	static const struct options options; /* none */
	struct error err = {""};
	char state[PATH_MAX];
	if (to && access(to, F_OK) == 0 && !mount_is_empty(to, &err)) {
		fprintf(stderr, "trellisfs: %s\n", err.text);
		return CHECK_FAILED;
	}
	if (!realpath(path, state)) {
		fprintf(stderr, "trellisfs: %s: %s\n", path, strerror(errno));
		return CHECK_FAILED;
	}
	if (!fs_load(&c->fs, &options, state, repairs ? STATE_MAKE : STATE_LOOK, &c->report, &err)) {
		fprintf(stderr, "trellisfs: %s\n", err.text);
		return CHECK_FAILED;
	}
	look(c);
	long curable = c->report.damaged + c->nameless + c->incomplete;
	if (repairs && !repair(c, &err)) {
		fprintf(stderr, "trellisfs: %s\n", err.text);
		return CHECK_FAILED;
	}
	if (to && !salvage(c, to)) {
		fprintf(stderr, "trellisfs: %s: not everything could be copied: %s\n", to, strerror(errno));
		return CHECK_FAILED;
	}
	int status = (curable ? (repairs ? CHECK_CORRECTED : CHECK_LEFT) : 0) | (c->missing ? CHECK_LEFT : 0);
	puts(!curable && !c->missing	 ? "clean"
		: repairs && !c->missing ? "put right"
		: repairs		 ? "put right, but for contents that are gone"
		: curable ? "errors: the next mount, or --repair, puts right what can be; --salvage DIR copies out "
			    "what is there"
			  : "errors: contents are gone");
	return status;
}

int check_main(int n_arguments, char **arguments)
{
	struct check *c = calloc(1, sizeof *c);
	const char *path = n_arguments > 0 && arguments[0][0] != '-' ? arguments[0] : NULL, *to = NULL;
	bool repairs = n_arguments == 2 && strcmp(arguments[1], "--repair") == 0;
	if (n_arguments == 3 && strcmp(arguments[1], "--salvage") == 0)
		to = arguments[2];
	if (!c || !path || (n_arguments > 1 && !repairs && !to)) {
		fprintf(stderr, "usage: trellisfs --check STATE [--repair | --salvage DIR]\n");
		free(c);
		return CHECK_USAGE;
	}
	log_open("trellisfs", false);
	int status = run(c, path, repairs, to);
	if (c->fs.state.path)
		fs_finish(&c->fs);
	free(c);
	return status;
}
