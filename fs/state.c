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

void state_content_name(char name[STATE_CONTENT_NAME], uint64_t id)
{
	snprintf(name, STATE_CONTENT_NAME, "%02x/%016llx", (unsigned)(id & 0xff), (unsigned long long)id);
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

static bool open_dir(struct state *state, enum state_mode mode, struct error *err)
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
	if (mode == STATE_MAKE && (st.st_mode & 07777) != 0700 && fchmod(state->dir_fd, 0700) != 0)
		return error_set(
			err, "state directory %s: cannot set its mode to 0700: %s", state->path, strerror(errno));
	return true;
}

/* Has it said that it is about to end? */
static bool is_going(int lock_fd)
{
	char text[8];
	ssize_t n = pread(lock_fd, text, sizeof text, 0);
	return n >= 5 && memcmp(text, "going", 5) == 0;
}

/* A daemon that has just been unmounted needs a moment to notice, and then up to 5 s to end. */
static bool lock_dir(struct state *state, enum state_mode mode, struct error *err)
{
	enum { STEP_MS = 20, NOTICE_MS = 500, GOING_MS = 10000 };
	int flags = mode == STATE_MAKE ? O_RDWR | O_CREAT : O_RDONLY;
	state->lock_fd = openat(state->dir_fd, "lock", flags | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (state->lock_fd < 0 && mode == STATE_LOOK && errno == ENOENT)
		return true; /* no daemon has ever had it */
	if (state->lock_fd < 0)
		return error_set(err, "state directory %s: lock: %s", state->path, strerror(errno));
	for (int ms = 0; flock(state->lock_fd, LOCK_EX | LOCK_NB) != 0; ms += STEP_MS) {
		if (ms >= (is_going(state->lock_fd) ? GOING_MS : NOTICE_MS))
			return error_set(err, "state directory %s is in use by another trellisfs", state->path);
		usleep(STEP_MS * 1000);
	}
	if (mode == STATE_MAKE)
		(void)!ftruncate(state->lock_fd, 0);
	return true;
}

void state_going(const struct state *state)
{
	(void)!pwrite(state->lock_fd, "going\n", 6, 0);
}

static bool open_contents(struct state *state, enum state_mode mode, struct error *err)
{
	if (mode == STATE_MAKE && mkdirat(state->dir_fd, "contents", 0700) != 0 && errno != EEXIST)
		return error_set(err, "state directory %s: contents: %s", state->path, strerror(errno));
	state->contents_fd = openat(state->dir_fd, "contents", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (state->contents_fd < 0)
		return error_set(err, "state directory %s: contents: %s", state->path, strerror(errno));
	for (unsigned i = 0; mode == STATE_MAKE && i < 256; i++) {
		char name[8];
		snprintf(name, sizeof name, "%02x", i);
		if (mkdirat(state->contents_fd, name, 0700) != 0 && errno != EEXIST)
			return error_set(
				err, "state directory %s: contents/%s: %s", state->path, name, strerror(errno));
	}
	return true;
}

bool state_open(struct state *state, const char *path, enum state_mode mode, struct error *err)
{
	*state = (struct state){.path = strdup(path), .dir_fd = -1, .contents_fd = -1, .lock_fd = -1};
	if (!state->path)
		return error_set(err, "state directory %s: out of memory", path);
	return (mode == STATE_LOOK || make_folders(path, err)) && open_dir(state, mode, err) &&
	       lock_dir(state, mode, err) && open_contents(state, mode, err);
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
	char name[STATE_CONTENT_NAME];
	state_content_name(name, id);
	int fd = openat(state->contents_fd, name, flags | O_NOFOLLOW | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

int state_content_create(const struct state *state, uint64_t id)
{
	return state_content_open(state, id, O_RDWR | O_CREAT | O_TRUNC);
}

int state_content_remove(const struct state *state, uint64_t id)
{
	char name[STATE_CONTENT_NAME];
	state_content_name(name, id);
	return unlinkat(state->contents_fd, name, 0) == 0 ? 0 : errno;
}

int state_content_stat(const struct state *state, uint64_t id, struct stat *st)
{
	char name[STATE_CONTENT_NAME];
	state_content_name(name, id);
	if (fstatat(state->contents_fd, name, st, AT_SYMLINK_NOFOLLOW) != 0)
		return errno;
	return S_ISREG(st->st_mode) ? 0 : ENOENT;
}

int state_content_link(const struct state *state, uint64_t from, uint64_t to)
{
	char old_name[STATE_CONTENT_NAME], new_name[STATE_CONTENT_NAME];
	state_content_name(old_name, from);
	state_content_name(new_name, to);
	return linkat(state->contents_fd, old_name, state->contents_fd, new_name, 0) == 0 ? 0 : errno;
}

bool state_each_content(const struct state *state, bool (*visit)(void *user, uint64_t id), void *user)
{
	bool go_on = true;
	for (unsigned i = 0; go_on && i < 256; i++) {
		char name[8], *end;
		snprintf(name, sizeof name, "%02x", i);
		int fd = openat(state->contents_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		DIR *dir = fd < 0 ? NULL : fdopendir(fd);
		if (!dir) {
			if (fd >= 0)
				close(fd);
			continue;
		}
		for (struct dirent *entry; go_on && (entry = readdir(dir));) {
			uint64_t id = strtoull(entry->d_name, &end, 16);
			if (end == entry->d_name + 16 && *end == '\0' && (id & 0xff) == i)
				go_on = visit(user, id);
		}
		closedir(dir);
	}
	return go_on;
}

uint64_t state_free_bytes(const struct state *state)
{
	struct statvfs st;
	return fstatvfs(state->dir_fd, &st) == 0 ? (uint64_t)st.f_bavail * st.f_frsize : 0;
}
