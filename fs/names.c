/* names.c - lookup, create, mkdir, symlink, unlink, rmdir, rename, readdir. See names.h.
 *
 * in/ is an ordinary writable tree. In out/ names may be removed and renamed; only the helper makes them. The top
 * folder is fixed. Nothing moves between in/ and out/. */
#include "names.h"

#include "ingest.h"
#include "publish.h"
#include "record.h"
#include "scheduler.h"
#include "sniff.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void set_time(struct timespec *out, int64_t ns)
{
	out->tv_sec = ns / 1000000000;
	out->tv_nsec = ns % 1000000000;
	if (out->tv_nsec < 0) {
		out->tv_nsec += 1000000000;
		out->tv_sec--;
	}
}

void names_fill_stat(const struct tree_node *node, struct stat *st)
{
	*st = (struct stat){.st_ino = node->id,
		.st_mode = node->mode,
		.st_uid = node->uid,
		.st_gid = node->gid,
		.st_nlink = tree_links(node),
		.st_size = node->size,
		.st_blksize = 1 << 17,
		.st_blocks = (node->size + 511) / 512};
	set_time(&st->st_atim, node->atime_ns);
	set_time(&st->st_mtim, node->mtime_ns);
	set_time(&st->st_ctim, node->ctime_ns);
}

/* What the kernel never sends, but the journal would not take back. */
static int check_name(const char *name)
{
	if (strlen(name) > TREE_NAME_MAX)
		return ENAMETOOLONG;
	return !name[0] || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ? EINVAL : 0;
}

/* The folder that names are made or removed in. */
static int find_folder(struct fs *fs, uint64_t id, struct tree_node **dir)
{
	*dir = tree_find(&fs->tree, id);
	return !*dir ? ESTALE : S_ISDIR((*dir)->mode) ? 0 : ENOTDIR;
}

static int find_child(struct fs *fs, uint64_t parent, const char *name, struct tree_node **dir, struct tree_node **node)
{
	int error = find_folder(fs, parent, dir);
	if (error)
		return error;
	if (strlen(name) > TREE_NAME_MAX)
		return ENAMETOOLONG;
	*node = tree_lookup(&fs->tree, *dir, name);
	return *node ? 0 : ENOENT;
}

/* Export of the mount asks for "." and ".." of bare ids. */
static int find_dots(struct fs *fs, uint64_t parent, const char *name, struct tree_node **node)
{
	*node = tree_find(&fs->tree, parent);
	if (!*node)
		return ESTALE;
	if (name[1] == '.' && (*node)->parent)
		*node = (*node)->parent;
	return 0;
}

int names_lookup(struct fs *fs, const struct caller *caller, uint64_t parent, const char *name, struct stat *st)
{
	struct tree_node *dir, *node;
	pthread_mutex_lock(&fs->lock);
	bool dots = strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
	int error = dots ? find_dots(fs, parent, name, &node) : find_child(fs, parent, name, &dir, &node);
	if (error == ENOENT && parent == TREE_ROOT && (node = publish_waiting(fs, caller, name))) {
		fs->publication.armed = true;
		error = 0;
	}
	if (!error) {
		node->lookups++;
		names_fill_stat(node, st);
	}
	pthread_mutex_unlock(&fs->lock);
	return error;
}

void names_forget(struct fs *fs, uint64_t id, uint64_t n)
{
	pthread_mutex_lock(&fs->lock);
	struct tree_node *node = tree_find(&fs->tree, id);
	if (node) {
		node->lookups -= n < node->lookups ? n : node->lookups;
		if (fs->publication.node != id)
			tree_drop_unused(&fs->tree, node);
	}
	pthread_mutex_unlock(&fs->lock);
}

/* May a new name be made here? */
static int check_new(struct fs *fs, const struct caller *caller, struct tree_node *dir, const char *name)
{
	int error = check_name(name);
	if (error)
		return error;
	if (!dir->parent && dir->id != TREE_ROOT)
		return ENOENT; /* removed meanwhile */
	bool own = !caller || publish_is_helper(fs, caller);
	if (dir->area != AREA_IN && !(dir->area == AREA_OUT && own))
		return EACCES;
	return 0;
}

static void touch_folder(struct tree_node *dir, int64_t now)
{
	dir->mtime_ns = dir->ctime_ns = now;
}

/* Journal and link a node made by tree_new, or take it back. */
static int add_node(struct fs *fs, struct tree_node *dir, struct tree_node *node, const char *name, struct stat *st)
{
	node->area = dir->area;
	record_node(fs_change(fs), node, dir->id, name);
	int error = fs_commit(fs, false);
	if (!error && !tree_link(&fs->tree, node, dir, name))
		error = ENOMEM;
	if (error) {
		tree_drop_unused(&fs->tree, node);
		return error;
	}
	touch_folder(dir, node->ctime_ns);
	node->lookups++;
	names_fill_stat(node, st);
	return 0;
}

static int make_node(struct fs *fs, const struct caller *caller, uint64_t parent, const char *name, uint32_t mode,
	const char *target, struct stat *st)
{
	struct tree_node *dir;
	int error = find_folder(fs, parent, &dir);
	if (!error)
		error = check_new(fs, caller, dir, name);
	if (!error && tree_lookup(&fs->tree, dir, name))
		error = EEXIST;
	if (error)
		return error;
	if (dir->area == AREA_OUT) /* folders of results belong to the daemon and are like out/ itself */
		mode = tree_find(&fs->tree, TREE_OUT)->mode;
	bool inherit = dir->area == AREA_IN && (dir->mode & S_ISGID);
	if (inherit && S_ISDIR(mode))
		mode |= S_ISGID;
	const struct caller self = {.uid = geteuid(), .gid = getegid()};
	if (!caller)
		caller = &self;
	struct tree_node *node =
		tree_new(&fs->tree, 0, mode, caller->uid, inherit ? dir->gid : caller->gid, fs_now_ns());
	if (!node)
		return ENOMEM;
	if (target) {
		node->target = strdup(target);
		node->size = strlen(target);
		if (!node->target) {
			tree_drop_unused(&fs->tree, node);
			return ENOMEM;
		}
	}
	return add_node(fs, dir, node, name, st);
}

int names_mkdir(
	struct fs *fs, const struct caller *caller, uint64_t parent, const char *name, uint32_t mode, struct stat *st)
{
	pthread_mutex_lock(&fs->lock);
	int error = make_node(fs, caller, parent, name, S_IFDIR | (mode & 07777), NULL, st);
	pthread_mutex_unlock(&fs->lock);
	return error;
}

int names_symlink(struct fs *fs, const struct caller *caller, uint64_t parent, const char *name, const char *target,
	struct stat *st)
{
	if (strlen(target) >= PATH_MAX)
		return ENAMETOOLONG;
	pthread_mutex_lock(&fs->lock);
	int error = make_node(fs, caller, parent, name, S_IFLNK | 0777, target, st);
	pthread_mutex_unlock(&fs->lock);
	return error;
}

/* The helper's CREATE in out/: no new file, but the finished one. */
static int create_published(
	struct fs *fs, struct tree_node *dir, const char *name, struct stat *st, struct handle **handle)
{
	uint64_t removed;
	struct tree_node *node = tree_find(&fs->tree, fs->publication.node);
	if (!node || !fs->publication.armed || !handle)
		return EACCES;
	if (tree_lookup(&fs->tree, dir, name))
		return EEXIST;
	int error = files_open_node(fs, node, O_RDONLY, handle);
	if (error)
		return error;
	error = publish_bind(fs, dir, name, &removed);
	if (error) {
		node->n_open--;
		close(node->fd);
		node->fd = -1;
		free(*handle);
		return error;
	}
	node->lookups++;
	names_fill_stat(node, st);
	return 0;
}

/* An existing name without O_EXCL is opened: two creators may race. */
static int open_existing(struct fs *fs, struct tree_node *node, int flags, struct stat *st, struct handle **handle)
{
	if (flags & O_EXCL || !handle)
		return EEXIST;
	if (S_ISDIR(node->mode))
		return EISDIR;
	int error = S_ISREG(node->mode) ? files_open_node(fs, node, flags, handle) : ELOOP;
	if (!error) {
		node->lookups++;
		names_fill_stat(node, st);
	}
	return error;
}

/* The content's file exists already: made before the lock was taken, because a disk may be slow at that. */
static int create_node(struct fs *fs, const struct caller *caller, struct tree_node *dir, const char *name,
	uint32_t mode, uint64_t id, int flags, struct stat *st, struct handle **handle)
{
	struct tree_node *node = tree_new(&fs->tree, id, S_IFREG | (mode & 07777), caller->uid,
		dir->mode & S_ISGID ? dir->gid : caller->gid, fs_now_ns());
	if (!node)
		return ENOMEM;
	int error = add_node(fs, dir, node, name, st);
	if (!error && handle) {
		error = files_open_node(fs, node, flags & ~O_TRUNC, handle);
		if (error)
			node->lookups--;
	}
	return error;
}

int names_create(struct fs *fs, const struct caller *caller, uint64_t parent, const char *name, uint32_t mode,
	int flags, struct stat *st, struct handle **handle)
{
	struct tree_node *dir, *existing = NULL;
	uint64_t id = 0;
	bool made = false;
	pthread_mutex_lock(&fs->lock);
	int error = find_folder(fs, parent, &dir);
	if (!error)
		error = check_new(fs, caller, dir, name);
	if (!error && dir->area == AREA_OUT) {
		error = create_published(fs, dir, name, st, handle);
		pthread_mutex_unlock(&fs->lock);
		return error;
	}
	if (!error && !tree_lookup(&fs->tree, dir, name))
		id = fs->tree.next_id++;
	pthread_mutex_unlock(&fs->lock);
	if (error)
		return error;

	int fd = id ? state_content_create(&fs->state, id) : -1;
	if (id && fd < 0)
		return -fd;
	pthread_mutex_lock(&fs->lock);
	error = find_folder(fs, parent, &dir); /* the folder may have gone, the name may have come */
	if (!error)
		error = check_new(fs, caller, dir, name);
	if (!error)
		existing = tree_lookup(&fs->tree, dir, name);
	if (!error && existing)
		error = open_existing(fs, existing, flags, st, handle);
	else if (!error && id)
		made = !(error = create_node(fs, caller, dir, name, mode, id, flags, st, handle));
	else if (!error)
		error = ENOENT;
	pthread_mutex_unlock(&fs->lock);
	if (id)
		close(fd);
	if (id && !made)
		state_content_remove(&fs->state, id);
	return error;
}

/* End what hangs on a name that goes away: its job, its place among the results. */
static void forget_job(struct fs *fs, const struct tree_node *node)
{
	struct input *input = jobs_find(&fs->jobs, node->id);
	if (input && input->state == INPUT_RUNNING)
		scheduler_cancel(fs, node->id);
	jobs_forget(&fs->jobs, input);
	jobs_drop_result(&fs->jobs, node->id);
	if (input)
		scheduler_wake(fs);
}

bool names_remove_node(struct fs *fs, struct tree_node *node, uint64_t *content)
{
	int64_t now = fs_now_ns();
	*content = node->id;
	forget_job(fs, node);
	ingest_removed(fs, node);
	touch_folder(node->parent, now);
	node->ctime_ns = now;
	tree_unlink(&fs->tree, node);
	return files_drop_node(fs, node);
}

static int remove_name(struct fs *fs, uint64_t parent, const char *name, bool folder)
{
	struct tree_node *dir, *node;
	uint64_t content = 0;
	bool remove = false;
	pthread_mutex_lock(&fs->lock);
	int error = find_child(fs, parent, name, &dir, &node);
	if (!error && dir->area == AREA_TOP)
		error = EPERM;
	if (!error && S_ISDIR(node->mode) != folder)
		error = folder ? ENOTDIR : EISDIR;
	if (!error && folder && node->n_children > 0)
		error = ENOTEMPTY;
	if (!error) {
		record_node_gone(fs_change(fs), node->id);
		error = fs_commit(fs, true);
	}
	if (!error)
		remove = names_remove_node(fs, node, &content);
	pthread_mutex_unlock(&fs->lock);
	if (remove)
		state_content_remove(&fs->state, content);
	return error;
}

int names_unlink(struct fs *fs, uint64_t parent, const char *name)
{
	return remove_name(fs, parent, name, false);
}

int names_rmdir(struct fs *fs, uint64_t parent, const char *name)
{
	return remove_name(fs, parent, name, true);
}

/* What rename(2) says about the two ends. */
static int check_rename(struct tree_node *node, struct tree_node *dir, struct tree_node *target, unsigned flags)
{
	if (flags & ~RENAME_NOREPLACE)
		return EINVAL;
	if (node->id < TREE_FIRST_ID)
		return EPERM;
	if (dir->area != node->area)
		return node->area == AREA_OUT && dir->area == AREA_IN ? EXDEV : EACCES;
	if (!dir->parent)
		return ENOENT;
	if (S_ISDIR(node->mode) && tree_is_inside(dir, node))
		return EINVAL;
	if (!target || target == node)
		return 0;
	if (flags & RENAME_NOREPLACE)
		return EEXIST;
	if (S_ISDIR(target->mode) != S_ISDIR(node->mode))
		return S_ISDIR(target->mode) ? EISDIR : ENOTDIR;
	return S_ISDIR(target->mode) && target->n_children > 0 ? ENOTEMPTY : 0;
}

/* Moves; a replaced target goes the way of unlink. */
static int move_node(struct fs *fs, struct tree_node *node, struct tree_node *dir, const char *name,
	struct tree_node *target, uint64_t *content, bool *remove)
{
	struct tree_node changed = *node;
	changed.ctime_ns = fs_now_ns();
	struct bytes *change = fs_change(fs);
	if (target)
		record_node_gone(change, target->id);
	record_node(change, &changed, dir->id, name);
	int error = fs_commit(fs, target != NULL);
	if (error)
		return error;
	if (target)
		*remove = names_remove_node(fs, target, content);
	touch_folder(node->parent, changed.ctime_ns);
	if (!tree_link(&fs->tree, node, dir, name))
		return ENOMEM;
	touch_folder(dir, changed.ctime_ns);
	node->ctime_ns = changed.ctime_ns;
	if (node->area == AREA_IN && S_ISREG(node->mode))
		ingest_renamed(fs, node);
	return 0;
}

/* The helper's RENAME of its token: the finished file takes the name. */
static int rename_published(struct fs *fs, uint64_t new_parent, const char *new_name, uint64_t *content, bool *remove)
{
	struct tree_node *dir;
	int error = find_folder(fs, new_parent, &dir);
	if (!error && dir->area != AREA_OUT)
		error = EACCES;
	if (!error)
		error = publish_bind(fs, dir, new_name, content);
	*remove = !error && *content;
	return error;
}

int names_rename(struct fs *fs, const struct caller *caller, uint64_t parent, const char *name, uint64_t new_parent,
	const char *new_name, unsigned flags)
{
	struct tree_node *dir, *node, *new_dir, *target;
	uint64_t content = 0;
	bool remove = false;
	int error = check_name(new_name);
	if (error)
		return error;
	pthread_mutex_lock(&fs->lock);
	error = find_child(fs, parent, name, &dir, &node);
	if (error == ENOENT && parent == TREE_ROOT && publish_waiting(fs, caller, name)) {
		error = rename_published(fs, new_parent, new_name, &content, &remove);
	} else if (!error && !(error = find_folder(fs, new_parent, &new_dir))) {
		target = tree_lookup(&fs->tree, new_dir, new_name);
		error = check_rename(node, new_dir, target, flags);
		if (!error && target != node)
			error = move_node(fs, node, new_dir, new_name, target, &content, &remove);
	}
	pthread_mutex_unlock(&fs->lock);
	if (remove)
		state_content_remove(&fs->state, content);
	return error;
}

int names_readlink(struct fs *fs, uint64_t id, char **target)
{
	pthread_mutex_lock(&fs->lock);
	struct tree_node *node = tree_find(&fs->tree, id);
	int error = !node ? ESTALE : !S_ISLNK(node->mode) ? EINVAL : 0;
	if (!error && !(*target = strdup(node->target)))
		error = ENOMEM;
	pthread_mutex_unlock(&fs->lock);
	return error;
}

int names_next(struct fs *fs, uint64_t dir_id, uint64_t after, bool plus, struct stat *st, char **name, bool *found)
{
	struct tree_node *dir;
	pthread_mutex_lock(&fs->lock);
	int error = find_folder(fs, dir_id, &dir);
	struct tree_node *node = error ? NULL : tree_next_child(dir, after);
	*found = node != NULL;
	if (node) {
		names_fill_stat(node, st);
		*name = strdup(node->name);
		if (!*name)
			error = ENOMEM;
		else if (plus)
			node->lookups++;
	}
	pthread_mutex_unlock(&fs->lock);
	return error;
}
