/* helper.c - the publishing process. See helper.h. */
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Arms the node that waits for us, then gives it its name. The kernel keeps the token's name, and through it the file,
 * until memory is short: it lets go when it looks again and the name is gone. */
static int create(int mount, const struct helper_request *request)
{
	struct stat st;
	if (fstatat(mount, request->token, &st, AT_SYMLINK_NOFOLLOW) != 0)
		return errno;
	int fd = openat(mount, request->path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		return errno;
	int error = close(fd) == 0 ? 0 : errno;
	(void)fstatat(mount, request->token, &st, AT_SYMLINK_NOFOLLOW);
	return error;
}

static int act(int mount, const struct helper_request *request)
{
	int result = 0;
	switch (request->op) {
	case HELPER_ADOPT:
		break;
	case HELPER_CREATE:
		return create(mount, request);
	case HELPER_RENAME:
		result = renameat(mount, request->token, mount, request->path);
		break;
	case HELPER_MOVE:
		result = renameat(mount, request->from, mount, request->path);
		break;
	case HELPER_MKDIR:
		result = mkdirat(mount, request->path, 0755);
		break;
	case HELPER_UNLINK:
		result = unlinkat(mount, request->path, 0);
		break;
	case HELPER_RMDIR:
		result = unlinkat(mount, request->path, AT_REMOVEDIR);
		break;
	case HELPER_TOUCH:
		result = utimensat(mount, request->path, NULL, AT_SYMLINK_NOFOLLOW);
		break;
	default:
		return EINVAL;
	}
	return result == 0 ? 0 : errno;
}

static struct helper_answer serve(const char *mountpoint, const struct helper_request *request)
{
	struct helper_answer answer = {0};
	struct stat st;
	int mount = open(mountpoint, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (mount < 0 || fstat(mount, &st) != 0)
		answer.error = errno;
	else if (request->op != HELPER_ADOPT && st.st_dev != request->device)
		answer.error = ENODEV; /* unmounted: what lies there now is not ours */
	else
		answer.error = act(mount, request);
	if (!answer.error)
		answer.device = st.st_dev;
	if (mount >= 0)
		close(mount);
	return answer;
}

int helper_main(const char *mountpoint)
{
	struct helper_request request;
	umask(0);
	if (chdir("/") != 0)
		return 1;
	for (;;) {
		ssize_t n = recv(HELPER_FD, &request, sizeof request, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n != sizeof request)
			return n == 0 ? 0 : 1;
		struct helper_answer answer = serve(mountpoint, &request);
		if (send(HELPER_FD, &answer, sizeof answer, MSG_NOSIGNAL) != sizeof answer)
			return 1;
	}
}
