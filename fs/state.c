/* state.c - the state directory. See state.h. */
#include "state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { CONTENT_NAME = 32 };

static void content_name(char *name, uint64_t id)
{
	snprintf(name, CONTENT_NAME, "%02x/%016llx", (unsigned)(id & 0xff), (unsigned long long)id);
}

char *state_default_path(const char *mountpoint)
{
	const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	char base[PATH_MAX];
	if (getuid() == 0)
		snprintf(base, sizeof base, "/var/lib/trellisfs/");
	else if (xdg && xdg[0] == '/')
		snprintf(base, sizeof base, "%s/trellisfs/", xdg);
	else if (home && home[0] == '/')
		snprintf(base, sizeof base, "%s/.local/state/trellisfs/", home);
	else
		return NULL;
	size_t at = strlen(base);
	char *path = malloc(at + 4 * strlen(mountpoint) + 2);
	if (!path)
		return NULL;
	memcpy(path, base, at);
	for (const char *p = mountpoint + (mountpoint[0] == '/'); *p; p++) {
		if (*p == '-') /* so that a-b and a/b differ */
			at += sprintf(path + at, "\\x2d");
		else
			path[at++] = *p == '/' ? '-' : *p;
	}
	path[at] = '\0';
	return path;
}

/* mkdir -p: the parents with 0755 & ~umask, the last one 0700. */
static bool make_folders(const char *path, struct error *err)
{
	char part[PATH_MAX];
	if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part)
		return error_set(err, "state directory %s: the path is too long", path);
	for (char *p = part + 1; (p = strchr(p, '/')); p++) {
		*p = '\0';
		if (mkdir(part, 0755) != 0 && errno != EEXIST)
			return error_set(err, "state directory %s: cannot make %s: %s", path, part, strerror(errno));
		*p = '/';
	}
	if (mkdir(path, 0700) != 0 && errno != EEXIST)
		return error_set(err, "state directory %s: %s", path, strerror(errno));
	return true;
}

static bool open_dir(struct state *state, struct error *err)
{
	struct stat st;
	state->dir_fd = open(state->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (state->dir_fd < 0)
		return error_set(err, "state directory %s: %s", state->path,
			errno == ELOOP || errno == ENOTDIR ? "not a folder (symlinks are not followed)"
							   : strerror(errno));
	if (fstat(state->dir_fd, &st) != 0 || st.st_uid != geteuid())
		return error_set(err, "state directory %s belongs to user %u, not to user %u who runs trellisfs",
			state->path, (unsigned)st.st_uid, (unsigned)geteuid());
	if ((st.st_mode & 07777) != 0700 && fchmod(state->dir_fd, 0700) != 0)
		return error_set(
			err, "state directory %s: cannot set its mode to 0700: %s", state->path, strerror(errno));
	return true;
}

static bool lock_dir(struct state *state, struct error *err)
{
	state->lock_fd = openat(state->dir_fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (state->lock_fd < 0)
		return error_set(err, "state directory %s: lock: %s", state->path, strerror(errno));
	if (flock(state->lock_fd, LOCK_EX | LOCK_NB) != 0)
		return error_set(err, "state directory %s is in use by another trellisfs", state->path);
	return true;
}

static bool make_contents(struct state *state, struct error *err)
{
	if (mkdirat(state->dir_fd, "contents", 0700) != 0 && errno != EEXIST)
		return error_set(err, "state directory %s: contents: %s", state->path, strerror(errno));
	state->contents_fd = openat(state->dir_fd, "contents", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (state->contents_fd < 0)
		return error_set(err, "state directory %s: contents: %s", state->path, strerror(errno));
	for (unsigned i = 0; i < 256; i++) {
		char name[8];
		snprintf(name, sizeof name, "%02x", i);
		if (mkdirat(state->contents_fd, name, 0700) != 0 && errno != EEXIST)
			return error_set(
				err, "state directory %s: contents/%s: %s", state->path, name, strerror(errno));
	}
	return true;
}

bool state_open(struct state *state, const char *path, struct error *err)
{
	*state = (struct state){.path = strdup(path), .dir_fd = -1, .contents_fd = -1, .lock_fd = -1};
	if (!state->path)
		return error_set(err, "state directory %s: out of memory", path);
	return make_folders(path, err) && open_dir(state, err) && lock_dir(state, err) && make_contents(state, err);
}

void state_close(struct state *state)
{
	if (!state->path)
		return;
	int fds[] = {state->contents_fd, state->dir_fd, state->lock_fd};
	for (int i = 0; i < 3; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	free(state->path);
	state->path = NULL;
}

int state_content_open(const struct state *state, uint64_t id, int flags)
{
	char name[CONTENT_NAME];
	content_name(name, id);
	int fd = openat(state->contents_fd, name, flags | O_NOFOLLOW | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

int state_content_create(const struct state *state, uint64_t id)
{
	return state_content_open(state, id, O_RDWR | O_CREAT | O_TRUNC);
}

int state_content_remove(const struct state *state, uint64_t id)
{
	char name[CONTENT_NAME];
	struct stat st;
	content_name(name, id);
	/* Its space is free at once, also while the sync thread holds the file; unless another name shares the bytes. */
	int fd = state_content_open(state, id, O_WRONLY);
	if (fd >= 0 && fstat(fd, &st) == 0 && st.st_nlink == 1)
		(void)!ftruncate(fd, 0);
	if (fd >= 0)
		close(fd);
	return unlinkat(state->contents_fd, name, 0) == 0 ? 0 : errno;
}

int state_content_link(const struct state *state, uint64_t from, uint64_t to)
{
	char old_name[CONTENT_NAME], new_name[CONTENT_NAME];
	content_name(old_name, from);
	content_name(new_name, to);
	return linkat(state->contents_fd, old_name, state->contents_fd, new_name, 0) == 0 ? 0 : errno;
}

void state_sweep(const struct state *state, bool (*keep)(void *user, uint64_t id), void *user)
{
	for (unsigned i = 0; i < 256; i++) {
		char name[8], *end;
		snprintf(name, sizeof name, "%02x", i);
		int fd = openat(state->contents_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		DIR *dir = fd < 0 ? NULL : fdopendir(fd);
		if (!dir) {
			if (fd >= 0)
				close(fd);
			continue;
		}
		for (struct dirent *entry; (entry = readdir(dir));) {
			uint64_t id = strtoull(entry->d_name, &end, 16);
			if (end == entry->d_name + 16 && *end == '\0' && !keep(user, id))
				unlinkat(fd, entry->d_name, 0);
		}
		closedir(dir);
	}
}

uint64_t state_free_bytes(const struct state *state)
{
	struct statvfs st;
	return fstatvfs(state->dir_fd, &st) == 0 ? (uint64_t)st.f_bavail * st.f_frsize : 0;
}
