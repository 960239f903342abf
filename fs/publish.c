/* publish.c - the daemon's side of publishing. See publish.h. */
#include "publish.h"

#include "helper.h"
#include "names.h"
#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { ANSWER_TIMEOUT_S = 2 }; /* with the worker's 2 s it fits into the 5 s that ending may take */
enum { LOST_MAX = 8, FOLDER_TRIES = 3 };

struct publisher {
	struct fs *fs;
	pid_t pid;
	int socket; /* -1: no helper */
	uint64_t device;
	pid_t lost[LOST_MAX]; /* helpers that were killed and have not ended yet; 0: none */
	char notice[256];
};

bool publish_is_helper(const struct fs *fs, const struct caller *caller)
{
	return caller && caller->pid != 0 && caller->pid == fs->publication.helper_pid;
}

struct tree_node *publish_waiting(struct fs *fs, const struct caller *caller, const char *name)
{
	const struct publication *waiting = &fs->publication;
	if (!waiting->node || !publish_is_helper(fs, caller) || strcmp(name, waiting->token) != 0)
		return NULL;
	return tree_find(&fs->tree, waiting->node);
}

/* Is the outcome still wanted? */
static struct input *wanted_input(struct fs *fs, const struct publication *p)
{
	struct input *input = jobs_find(&fs->jobs, p->source);
	bool wanted = p->follows ? input && input->seq == p->seq : jobs_wants(input, p->seq);
	return wanted ? input : NULL;
}

int publish_bind(struct fs *fs, struct tree_node *parent, const char *name)
{
	struct publication *p = &fs->publication;
	struct tree_node *node = tree_find(&fs->tree, p->node), *old = tree_lookup(&fs->tree, parent, name);
	struct input *input = wanted_input(fs, p);
	int64_t now = fs_now_ns();
	if (!input || !node)
		return ECANCELED;
	if (old && S_ISDIR(old->mode))
		return EISDIR;
	struct input finished = *input;
	finished.state = p->output == JOB_OUTPUTS ? INPUT_FAILED : INPUT_DONE;
	finished.unpublished = false;
	struct result result = {.id = node->id, .source = p->source, .output = p->output, .size = node->size};
	memcpy(result.key, p->key, sizeof result.key);
	struct bytes *change = fs_change(fs);
	if (old)
		record_node_gone(change, old->id);
	node->area = AREA_OUT;
	record_node(change, node, parent->id, name);
	record_folder(change, parent->id, now);
	record_result(change, &result);
	if (p->last)
		record_input(change, &finished);
	int error = fs_commit(fs, old != NULL);
	if (error)
		return error;

	if (old)
		names_remove_node(fs, old, now);
	if (!tree_link(&fs->tree, node, parent, name))
		return ENOMEM;
	parent->mtime_ns = parent->ctime_ns = now;
	struct result *kept = jobs_add_result(&fs->jobs, node->id, p->source, p->key, p->output);
	if (kept)
		kept->size = node->size;
	if (p->last) {
		jobs_set_state(&fs->jobs, input, finished.state, false);
		*(finished.state == INPUT_DONE ? &fs->jobs.n_done : &fs->jobs.n_failed) += 1;
	}
	*p = (struct publication){.helper_pid = p->helper_pid};
	return 0;
}

static void set_helper_pid(struct fs *fs, pid_t pid)
{
	pthread_mutex_lock(&fs->lock);
	fs->publication.helper_pid = pid;
	pthread_mutex_unlock(&fs->lock);
}

/* A fresh process of this program: it inherits its end of the socket and nothing else. */
static bool start_helper(struct publisher *publisher, struct error *err)
{
	int ends[2], error;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
		return error_set(err, "cannot start the helper: %s", strerror(errno));
	char *const argv[] = {
		(char *)"trellisfs-helper", (char *)HELPER_ARGUMENT, publisher->fs->options->mountpoint, NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none;
	sigemptyset(&none);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	for (int fd = 0; fd < 3; fd++) /* the shell that started us may wait for the end of these */
		posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
	if (ends[1] == HELPER_FD) /* dup2 onto itself would keep CLOEXEC on some systems */
		posix_spawn_file_actions_adddup2(&actions, ends[1], HELPER_FD + 1);
	posix_spawn_file_actions_adddup2(&actions, ends[1] == HELPER_FD ? HELPER_FD + 1 : ends[1], HELPER_FD);
	posix_spawn_file_actions_addclosefrom_np(&actions, HELPER_FD + 1);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
	error = posix_spawn(&publisher->pid, "/proc/self/exe", &actions, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	close(ends[1]);
	if (error) {
		close(ends[0]);
		publisher->pid = 0;
		return error_set(err, "cannot start the helper: %s", strerror(error));
	}
	struct timeval timeout = {.tv_sec = ANSWER_TIMEOUT_S};
	setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
	publisher->socket = ends[0];
	set_helper_pid(publisher->fs, publisher->pid);
	return true;
}

void publisher_reap(struct publisher *publisher)
{
	for (int i = 0; i < LOST_MAX; i++)
		if (publisher->lost[i] && waitpid(publisher->lost[i], NULL, WNOHANG) != 0)
			publisher->lost[i] = 0;
}

/* One that hangs in the kernel ends when that lets it go. With no place to note it, it stays a zombie until we end. */
static void note_lost(struct publisher *publisher)
{
	int i = 0;
	while (i < LOST_MAX - 1 && publisher->lost[i])
		i++;
	publisher->lost[i] = publisher->pid;
}

/* Never waits for long. */
static void end_helper(struct publisher *publisher)
{
	if (publisher->socket < 0)
		return;
	set_helper_pid(publisher->fs, 0);
	close(publisher->socket);
	publisher->socket = -1;
	kill(publisher->pid, SIGKILL);
	pid_t ended = 0;
	for (int i = 0; i < 100 && (ended = waitpid(publisher->pid, NULL, WNOHANG)) == 0; i++)
		usleep(2000);
	if (!ended)
		note_lost(publisher);
	publisher->pid = 0;
}

struct publisher *publisher_create(struct fs *fs, struct error *err)
{
	struct publisher *publisher = calloc(1, sizeof *publisher);
	if (!publisher) {
		error_set(err, "out of memory");
		return NULL;
	}
	publisher->fs = fs;
	publisher->socket = -1;
	if (!start_helper(publisher, err)) {
		free(publisher);
		return NULL;
	}
	return publisher;
}

void publisher_destroy(struct publisher *publisher)
{
	if (!publisher)
		return;
	end_helper(publisher);
	free(publisher);
}

const char *publisher_notice(const struct publisher *publisher)
{
	return publisher->notice;
}

/* One request and its answer; an errno. EPIPE: no helper, or it died or hung and has been ended. */
static int ask_once(struct publisher *publisher, struct helper_request *request)
{
	struct helper_answer answer;
	if (publisher->socket < 0)
		return EPIPE;
	request->device = publisher->device;
	ssize_t n = send(publisher->socket, request, sizeof *request, MSG_NOSIGNAL);
	while (n == sizeof *request && (n = recv(publisher->socket, &answer, sizeof answer, 0)) < 0 && errno == EINTR)
		n = sizeof *request;
	if (n != sizeof answer) {
		end_helper(publisher);
		return EPIPE;
	}
	if (request->op == HELPER_ADOPT && !answer.error)
		publisher->device = answer.device;
	return answer.error;
}

/* The same, with another helper if that one has died. */
static int ask_for(struct publisher *publisher, struct helper_request *request)
{
	struct error why;
	int error = ask_once(publisher, request);
	if (error == EPIPE && start_helper(publisher, &why)) {
		fs_log("the helper had died and was started again");
		error = ask_once(publisher, request);
	}
	publisher->notice[0] = '\0';
	if (error == EPIPE || error == ENODEV || error == ENOTCONN || error == ECONNABORTED)
		snprintf(publisher->notice, sizeof publisher->notice,
			"results appear without waking watchers: the helper cannot reach the mount (%s)",
			strerror(error));
	return error;
}

static int ask(struct publisher *publisher, enum helper_op op, const char *token, const char *format, const char *path)
{
	struct helper_request request = {.op = op};
	if (snprintf(request.path, sizeof request.path, format, path) >= (int)sizeof request.path)
		return ENAMETOOLONG;
	if (token)
		memcpy(request.token, token, strlen(token) + 1);
	return ask_for(publisher, &request);
}

bool publisher_adopt(struct publisher *publisher, struct error *err)
{
	int error = ask(publisher, HELPER_ADOPT, NULL, "%s", "");
	return !error || error_set(err, "the mount does not answer: %s", strerror(error));
}

void publisher_unlink(struct publisher *publisher, const char *path)
{
	ask(publisher, HELPER_UNLINK, NULL, "out/%s", path);
}

void publisher_touch_status(struct publisher *publisher)
{
	ask(publisher, HELPER_TOUCH, NULL, "%s", "status");
}

/* Every folder of out/path, made through the mount where it is missing; if that fails, silently. */
static int make_folders(struct publisher *publisher, const char *path)
{
	struct fs *fs = publisher->fs;
	char part[PATH_MAX];
	uint64_t parent = TREE_OUT;
	for (const char *start = path, *slash; (slash = strchr(start, '/')); start = slash + 1) {
		snprintf(part, sizeof part, "%.*s", (int)(slash - path), path);
		char name[TREE_NAME_MAX + 1];
		snprintf(name, sizeof name, "%.*s", (int)(slash - start), start);
		struct stat st;
		int error = names_lookup(fs, NULL, parent, name, &st);
		if (error == ENOENT && ask(publisher, HELPER_MKDIR, NULL, "out/%s", part) == 0)
			error = names_lookup(fs, NULL, parent, name, &st);
		else if (error == ENOENT)
			error = names_mkdir(fs, NULL, parent, name, 0755, &st);
		if (error)
			return error;
		names_forget(fs, st.st_ino, 1);
		if (!S_ISDIR(st.st_mode))
			return ENOTDIR;
		parent = st.st_ino;
	}
	return 0;
}

static void new_token(char *token, size_t size)
{
	uint64_t bits;
	if (getrandom(&bits, sizeof bits, 0) != sizeof bits)
		bits = fs_monotonic_ns() * 0x9e3779b97f4a7c15u;
	snprintf(token, size, ".publish-%016llx", (unsigned long long)bits);
}

/* Put the node in the tree without a name, and say what is to become of it. */
static int offer(struct publisher *publisher, const struct publish_file *file, char *token, bool *taken)
{
	struct fs *fs = publisher->fs;
	pthread_mutex_lock(&fs->lock);
	/* What went wrong is always told, and what follows its picture takes no space. */
	bool over = file->output != JOB_OUTPUTS && !file->follows && fs_over_quota(fs, file->size, 1);
	struct tree_node *node = over ? NULL
				      : tree_new(&fs->tree, file->node_id, S_IFREG | (file->mode & 0666), file->uid,
						file->gid, fs_now_ns());
	if (node) {
		struct publication *p = &fs->publication;
		*p = (struct publication){.helper_pid = p->helper_pid,
			.node = node->id,
			.source = file->source,
			.seq = file->seq,
			.output = file->output,
			.last = file->last,
			.follows = file->follows};
		memcpy(p->key, file->key, sizeof p->key);
		new_token(p->token, sizeof p->token);
		memcpy(token, p->token, sizeof p->token);
		node->area = AREA_OUT;
		node->size = file->size;
		fs->used_bytes += file->size;
		*taken = tree_resolve(&fs->tree, tree_find(&fs->tree, TREE_OUT), file->path) != NULL;
	}
	pthread_mutex_unlock(&fs->lock);
	return node ? 0 : over ? EDQUOT : ENOMEM;
}

/* Without the helper: watchers see nothing, but the file is there. */
static int insert_silently(struct publisher *publisher, const char *path)
{
	struct fs *fs = publisher->fs;
	char folder[PATH_MAX];
	const char *slash = strrchr(path, '/');
	snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) : 0, path);
	pthread_mutex_lock(&fs->lock);
	struct tree_node *parent = tree_resolve(&fs->tree, tree_find(&fs->tree, TREE_OUT), folder);
	int error = !parent ? ENOENT : S_ISDIR(parent->mode) ? 0 : ENOTDIR;
	if (!error)
		error = publish_bind(fs, parent, slash ? slash + 1 : path);
	pthread_mutex_unlock(&fs->lock);
	return error;
}

/* Whether the node has its name by now; if not, the offer is withdrawn and wanted tells whether it was still of use. */
static bool bound(struct fs *fs, uint64_t id, bool *wanted)
{
	pthread_mutex_lock(&fs->lock);
	bool yes = fs->publication.node != id;
	*wanted = !yes && wanted_input(fs, &fs->publication);
	pthread_mutex_unlock(&fs->lock);
	return yes;
}

static void withdraw(struct fs *fs, uint64_t id)
{
	pthread_mutex_lock(&fs->lock);
	fs->publication = (struct publication){.helper_pid = fs->publication.helper_pid};
	struct tree_node *node = tree_find(&fs->tree, id);
	if (node && !node->parent)
		files_drop_node(fs, node);
	pthread_mutex_unlock(&fs->lock);
}

/* Until the node has its name. ENOENT: a folder has gone meanwhile. */
static int put_in_place(struct publisher *publisher, const struct publish_file *file, const char *token, bool taken)
{
	struct fs *fs = publisher->fs;
	bool wanted = true;
	/* The name may come or go while we ask, so each way is tried twice. */
	for (int i = 0; i < 4 && !bound(fs, file->node_id, &wanted) && wanted; i++, taken = !taken) {
		int error = ask(publisher, taken ? HELPER_RENAME : HELPER_CREATE, token, "out/%s", file->path);
		if (error && error != EEXIST && error != ENOENT)
			break;
	}
	if (bound(fs, file->node_id, &wanted))
		return 0;
	return wanted ? insert_silently(publisher, file->path) : ECANCELED;
}

int publisher_publish(struct publisher *publisher, const struct publish_file *file)
{
	struct fs *fs = publisher->fs;
	char token[sizeof fs->publication.token];
	bool taken = false;
	int error = make_folders(publisher, file->path);
	if (error == ENOENT || error == EEXIST) /* somebody removes and makes folders, too */
		error = make_folders(publisher, file->path);
	if (!error)
		error = offer(publisher, file, token, &taken);
	if (error) {
		state_content_remove(&fs->state, file->node_id);
		return error;
	}
	error = put_in_place(publisher, file, token, taken);
	for (int i = 0; i < FOLDER_TRIES && error == ENOENT; i++) {
		error = make_folders(publisher, file->path);
		if (!error)
			error = put_in_place(publisher, file, token, taken);
	}
	if (error)
		withdraw(fs, file->node_id);
	return error;
}

/* ---- What is in out/ already. ---- */

/* What the helper may rename from now on, so that it is not another file which has come to that name; 0: nothing. */
static void set_moving(struct fs *fs, uint64_t node_id)
{
	pthread_mutex_lock(&fs->lock);
	fs->publication.moving = node_id;
	pthread_mutex_unlock(&fs->lock);
}

/* The folder of out/path and the last component, or 0 when there is no such folder. */
static uint64_t find_parent(struct fs *fs, const char *path, const char **name)
{
	char folder[PATH_MAX];
	const char *slash = strrchr(path, '/');
	snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) : 0, path);
	*name = slash ? slash + 1 : path;
	pthread_mutex_lock(&fs->lock);
	const struct tree_node *parent = tree_resolve(&fs->tree, tree_find(&fs->tree, TREE_OUT), folder);
	uint64_t id = parent ? parent->id : 0;
	pthread_mutex_unlock(&fs->lock);
	return id;
}

static bool is_at(struct fs *fs, const char *path, uint64_t node_id)
{
	pthread_mutex_lock(&fs->lock);
	const struct tree_node *node = tree_resolve(&fs->tree, tree_find(&fs->tree, TREE_OUT), path);
	bool is = node && node->id == node_id;
	pthread_mutex_unlock(&fs->lock);
	return is;
}

int publisher_move_silently(struct publisher *publisher, const char *from, const char *to, uint64_t node_id)
{
	struct fs *fs = publisher->fs;
	const char *name, *new_name;
	uint64_t parent = find_parent(fs, from, &name), new_parent = find_parent(fs, to, &new_name);
	if (!parent || !new_parent)
		return ENOENT;
	set_moving(fs, node_id);
	int error = names_rename(fs, NULL, parent, name, new_parent, new_name, 0);
	set_moving(fs, 0);
	return error;
}

int publisher_move(struct publisher *publisher, const char *from, const char *to, uint64_t node_id)
{
	struct fs *fs = publisher->fs;
	struct helper_request request = {.op = HELPER_MOVE};
	if (snprintf(request.path, sizeof request.path, "out/%s", to) >= (int)sizeof request.path ||
		snprintf(request.from, sizeof request.from, "out/%s", from) >= (int)sizeof request.from)
		return ENAMETOOLONG;
	int error = make_folders(publisher, to);
	if (error == ENOENT || error == EEXIST)
		error = make_folders(publisher, to);
	if (error)
		return error;
	set_moving(fs, node_id);
	ask_for(publisher, &request);
	set_moving(fs, 0);
	return is_at(fs, to, node_id) ? 0 : publisher_move_silently(publisher, from, to, node_id);
}

void publisher_rmdir(struct publisher *publisher, const char *path)
{
	ask(publisher, HELPER_RMDIR, NULL, "out/%s", path);
}
