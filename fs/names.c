/* names.c - lookup, create, mkdir, symlink, unlink, rmdir, rename, readdir. See names.h.
 *
 * in/ is an ordinary writable tree. In out/ names may be removed and renamed; only the helper makes them. The top
 * folder is fixed. Nothing moves between in/ and out/. */
#include "names.h"

#include "contents.h"
#include "follow.h"
#include "ingest.h"
#include "publish.h"
#include "record.h"
#include "scheduler.h"
#include "sync.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
	st->st_atim = fs_to_timespec(node->atime_ns);
	st->st_mtim = fs_to_timespec(node->mtime_ns);
	st->st_ctim = fs_to_timespec(node->ctime_ns);
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

/* The lock is given up to look at a content that nobody has seen yet: true then, and all has to be found again. */
static bool saw(struct fs *fs, const struct tree_node *node)
{
	if (!node->unseen)
		return false;
	uint64_t id = node->id;
	pthread_mutex_unlock(&fs->lock);
	contents_look(fs, id);
	pthread_mutex_lock(&fs->lock);
	return true;
}

static int find_name(
	struct fs *fs, const struct caller *caller, uint64_t parent, const char *name, struct tree_node **node)
{
	struct tree_node *dir;
	bool dots = strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
	int error = dots ? find_dots(fs, parent, name, node) : find_child(fs, parent, name, &dir, node);
	if (error == ENOENT && parent == TREE_ROOT && (*node = publish_waiting(fs, caller, name))) {
		fs->publication.armed = true;
		error = 0;
	}
	return error;
}

int names_lookup(struct fs *fs, const struct caller *caller, uint64_t parent, const char *name, struct stat *st)
{
	struct tree_node *node;
	int error;
	pthread_mutex_lock(&fs->lock);
	do
		error = find_name(fs, caller, parent, name, &node);
	while (!error && saw(fs, node));
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
	record_folder(&fs->change, dir->id, node->ctime_ns);
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

/* The folder of in/ whose pictures have their results in that folder of out/; "x-2" may be the place of "x" (stem.c). NULL: none. */
static const struct tree_node *pictures_of(const struct fs *fs, const struct tree_node *dir, const char *name)
{
	char path[PATH_MAX], other[TREE_NAME_MAX + 1];
	struct tree_node *in = tree_find(&fs->tree, TREE_IN);
	if (dir->id != TREE_OUT)
		in = tree_path(dir, path, sizeof path) ? tree_resolve(&fs->tree, in, path) : NULL;
	if (!in || !S_ISDIR(in->mode))
		return NULL;
	const struct tree_node *found = tree_lookup(&fs->tree, in, name);
	const char *dash = strrchr(name, '-');
	if ((!found || !S_ISDIR(found->mode)) && dash && strspn(dash + 1, "0123456789") == strlen(dash + 1)) {
		snprintf(other, sizeof other, "%.*s", (int)(dash - name), name);
		found = tree_lookup(&fs->tree, in, other);
	}
	return found && S_ISDIR(found->mode) ? found : NULL;
}

/* A folder of results is like out/ itself, but protects them as the folder of their pictures protects those: it belongs to the
 * same user, if the daemon may still put something there; where several may write it is sticky. */
static void protect_results(
	const struct fs *fs, const struct tree_node *dir, const char *name, uint32_t *mode, struct caller *owner)
{
	const struct tree_node *pictures = pictures_of(fs, dir, name);
	*mode = tree_find(&fs->tree, TREE_OUT)->mode;
	if (!pictures || (geteuid() != 0 && pictures->uid != geteuid()))
		return;
	*mode = S_IFDIR | (pictures->mode & 0777) | S_IWUSR | S_IXUSR | (pictures->mode & 022 ? S_ISVTX : 0);
	owner->uid = pictures->uid;
	owner->gid = pictures->gid;
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
	if (!error && dir->area == AREA_IN && fs_over_quota(fs, strlen(name) + (target ? strlen(target) : 0), 1))
		error = EDQUOT;
	if (error)
		return error;
	struct caller owner = caller ? *caller : (struct caller){.uid = geteuid(), .gid = getegid()};
	if (dir->area == AREA_OUT)
		protect_results(fs, dir, name, &mode, &owner);
	bool inherit = dir->area == AREA_IN && (dir->mode & S_ISGID);
	if (inherit && S_ISDIR(mode))
		mode |= S_ISGID;
	uint64_t id = fs_take_id(fs);
	char *copy = target ? strdup(target) : NULL;
	struct tree_node *node = id && (copy || !target) ? tree_new(&fs->tree, id, mode, owner.uid,
								   inherit ? dir->gid : owner.gid, fs_now_ns())
							 : NULL;
	if (!node) {
		free(copy);
		return id ? ENOMEM : ENOSPC;
	}
	if (target)
		tree_set_target(&fs->tree, node, copy);
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

/* The helper's CREATE in out/: no new file, but the finished one. Opening gives the lock up, so the name is looked up after it. */
static int create_published(struct fs *fs, const struct caller *caller, uint64_t parent, const char *name,
	struct stat *st, struct handle **handle)
{
	struct tree_node *node = tree_find(&fs->tree, fs->publication.node), *dir;
	if (!node || !fs->publication.armed || !handle)
		return EACCES;
	int error = files_open_node(fs, node, O_RDONLY, -1, handle);
	if (error)
		return error;
	error = find_folder(fs, parent, &dir);
	if (!error)
		error = check_new(fs, caller, dir, name);
	if (!error && tree_lookup(&fs->tree, dir, name))
		error = EEXIST;
	if (!error)
		error = publish_bind(fs, dir, name);
	if (error) {
		pthread_mutex_unlock(&fs->lock);
		files_release(fs, *handle);
		pthread_mutex_lock(&fs->lock);
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
	int error = S_ISREG(node->mode) ? files_open_node(fs, node, flags, -1, handle) : ELOOP;
	if (!error) {
		node->lookups++;
		names_fill_stat(node, st);
	}
	return error;
}

/* A content that was made before the lock was taken, because a disk may be slow at that. */
struct fresh {
	uint64_t id; /* 0: none */
	int fd;	     /* -1: taken */
	int64_t content_ns;
};

static int create_node(struct fs *fs, const struct caller *caller, struct tree_node *dir, const char *name,
	uint32_t mode, struct fresh *fresh, int flags, struct stat *st, struct handle **handle)
{
	if (fs_over_quota(fs, strlen(name), 1))
		return EDQUOT;
	struct tree_node *node = tree_new(&fs->tree, fresh->id, S_IFREG | (mode & 07777), caller->uid,
		dir->mode & S_ISGID ? dir->gid : caller->gid, fs_now_ns());
	if (!node)
		return ENOMEM;
	node->content_ns = fresh->content_ns;
	int error = add_node(fs, dir, node, name, st);
	if (error || !handle)
		return error;
	error = files_open_node(fs, node, flags & ~O_TRUNC, fresh->fd, handle);
	fresh->fd = -1; /* the node has it, or it is closed */
	if (error)
		node->lookups--;
	return error;
}

static int make_content(struct fs *fs, struct fresh *fresh)
{
	struct stat st;
	fresh->fd = state_content_create(&fs->state, fresh->id);
	if (fresh->fd < 0)
		return -fresh->fd;
	if (fstat(fresh->fd, &st) == 0)
		fresh->content_ns = fs_to_ns(st.st_mtim);
	return 0;
}

/* The second half of a creation: the folder may have gone meanwhile, the name may have come. */
static int create_or_open(struct fs *fs, const struct caller *caller, uint64_t parent, const char *name, uint32_t mode,
	int flags, struct fresh *fresh, bool *made, struct stat *st, struct handle **handle)
{
	struct tree_node *dir, *existing;
	int error;
	do {
		error = find_folder(fs, parent, &dir);
		if (!error)
			error = check_new(fs, caller, dir, name);
		existing = error ? NULL : tree_lookup(&fs->tree, dir, name);
	} while (existing && saw(fs, existing));
	if (error)
		return error;
	if (existing)
		return open_existing(fs, existing, flags, st, handle);
	if (!fresh->id)
		return ENOENT;
	error = create_node(fs, caller, dir, name, mode, fresh, flags, st, handle);
	*made = !error;
	return error;
}

int names_create(struct fs *fs, const struct caller *caller, uint64_t parent, const char *name, uint32_t mode,
	int flags, struct stat *st, struct handle **handle)
{
	struct tree_node *dir;
	struct fresh fresh = {.fd = -1};
	bool made = false;
	pthread_mutex_lock(&fs->lock);
	int error = find_folder(fs, parent, &dir);
	if (!error)
		error = check_new(fs, caller, dir, name);
	if (!error && dir->area == AREA_OUT) {
		error = create_published(fs, caller, parent, name, st, handle);
		pthread_mutex_unlock(&fs->lock);
		return error;
	}
	if (!error && !tree_lookup(&fs->tree, dir, name) && !(fresh.id = fs_take_id(fs)))
		error = ENOSPC;
	pthread_mutex_unlock(&fs->lock);
	if (error)
		return error;
	if (fresh.id && (error = make_content(fs, &fresh)) != 0)
		return error;
	pthread_mutex_lock(&fs->lock);
	error = create_or_open(fs, caller, parent, name, mode, flags, &fresh, &made, st, handle);
	pthread_mutex_unlock(&fs->lock);
	if (fresh.fd >= 0)
		close(fresh.fd);
	if (fresh.id && !made)
		state_content_remove(&fs->state, fresh.id); /* it never had a name */
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

void names_remove_node(struct fs *fs, struct tree_node *node, int64_t now_ns)
{
	forget_job(fs, node);
	fs->unseen -= node->unseen && node->area == AREA_IN;
	node->unseen = false;
	ingest_removed(fs, node);
	touch_folder(node->parent, now_ns);
	node->ctime_ns = now_ns;
	tree_unlink(&fs->tree, node);
	files_drop_node(fs, node);
}

static int remove_name(struct fs *fs, uint64_t parent, const char *name, bool folder)
{
	struct tree_node *dir, *node;
	char path[PATH_MAX];
	int64_t now = fs_now_ns();
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
		record_folder(&fs->change, dir->id, now);
		error = fs_commit(fs, true);
	}
	if (!error && folder && dir->area == AREA_IN && tree_path(node, path, sizeof path))
		follow_folder(fs, 0, path);
	if (!error)
		names_remove_node(fs, node, now);
	pthread_mutex_unlock(&fs->lock);
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
		return dir->area == AREA_IN ? EXDEV : EACCES;
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

static bool path_in(const struct tree_node *dir, const char *name, char path[PATH_MAX])
{
	size_t len = tree_path(dir, path, PATH_MAX) ? strlen(path) : 0; /* 0: the top */
	return snprintf(path + len, PATH_MAX - len, "%s%s", len ? "/" : "", name) < (int)(PATH_MAX - len);
}

/* Moves; a replaced target goes the way of unlink. What takes another's place has its bytes on the disk before that goes. */
static int move_node(
	struct fs *fs, struct tree_node *node, struct tree_node *dir, const char *name, struct tree_node *target)
{
	struct tree_node changed = *node;
	changed.ctime_ns = fs_now_ns();
	struct bytes *change = fs_change(fs);
	if (target)
		record_node_gone(change, target->id);
	record_node(change, &changed, dir->id, name);
	record_folder(change, node->parent->id, changed.ctime_ns);
	if (dir != node->parent)
		record_folder(change, dir->id, changed.ctime_ns);
	char path[PATH_MAX];
	bool carries = S_ISDIR(node->mode) && node->id == fs->publication.moving && path_in(dir, name, path);
	if (carries)
		follow_carry_folder(fs, node, path, change);
	if (target && S_ISREG(node->mode))
		sync_written(fs, node->id, true);
	int error = fs_commit(fs, target != NULL);
	if (error)
		return error;
	if (carries)
		follow_carry_folder(fs, node, path, NULL);
	if (target)
		names_remove_node(fs, target, changed.ctime_ns);
	touch_folder(node->parent, changed.ctime_ns);
	if (!tree_link(&fs->tree, node, dir, name))
		return ENOMEM;
	touch_folder(dir, changed.ctime_ns);
	node->ctime_ns = changed.ctime_ns;
	return 0;
}

/* What follows from it: results follow their pictures. What a user renames in out/ is the user's, or that picture's which has it
 * in its place now. */
static void note_rename(struct fs *fs, struct tree_node *node, bool by_user, const char *old_path)
{
	if (node->area == AREA_IN && S_ISREG(node->mode))
		follow_renamed(fs, node);
	else if (node->area == AREA_IN && S_ISDIR(node->mode))
		follow_folder(fs, node->id, old_path);
	else if (node->area == AREA_OUT && by_user)
		follow_taken(fs, node);
}

/* The helper's RENAME of its token: the finished file takes the name. */
static int rename_published(struct fs *fs, uint64_t new_parent, const char *new_name)
{
	struct tree_node *dir;
	int error = find_folder(fs, new_parent, &dir);
	if (!error && dir->area != AREA_OUT)
		error = EACCES;
	return error ? error : publish_bind(fs, dir, new_name);
}

int names_rename(struct fs *fs, const struct caller *caller, uint64_t parent, const char *name, uint64_t new_parent,
	const char *new_name, unsigned flags)
{
	struct tree_node *dir, *node, *new_dir, *target;
	int error = check_name(new_name);
	if (error)
		return error;
	pthread_mutex_lock(&fs->lock);
	error = find_child(fs, parent, name, &dir, &node);
	if (error == ENOENT && parent == TREE_ROOT && publish_waiting(fs, caller, name)) {
		error = rename_published(fs, new_parent, new_name);
	} else if (!error && !(error = find_folder(fs, new_parent, &new_dir))) {
		target = tree_lookup(&fs->tree, new_dir, new_name);
		bool own = !caller || publish_is_helper(fs, caller);
		char old_path[PATH_MAX] = "";
		error = own && node->id != fs->publication.moving ? ESTALE : check_rename(node, new_dir, target, flags);
		if (!error && target != node) {
			tree_path(node, old_path, sizeof old_path);
			error = move_node(fs, node, new_dir, new_name, target);
			if (!error)
				note_rename(fs, node, !own, old_path);
		}
	}
	pthread_mutex_unlock(&fs->lock);
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
	struct tree_node *dir, *node;
	int error;
	pthread_mutex_lock(&fs->lock);
	do {
		error = find_folder(fs, dir_id, &dir);
		node = error ? NULL : tree_next_child(dir, after);
	} while (node && plus && saw(fs, node));
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
