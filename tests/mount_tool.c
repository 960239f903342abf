/* mount_tool.c - what the mount's tests need besides the usual tools; the first argument says what:
 *   png FILE SEED [BYTES]   a valid PNG, unlike that of any other seed, about BYTES long
 *   mmap FILE SOURCE MS     write SOURCE's bytes into FILE through a mapping, close it, unmap MS later
 *   parts FILE SOURCE MS    write SOURCE into FILE in two halves, MS apart, and close
 *   hold FILE SOURCE        write SOURCE into FILE and sleep with it open (to be killed)
 *   commit FILE SOURCE      the same with an fsync, as an NFS server does that keeps its descriptor
 *   commit-apart FILE SOURCE  write and close, with the fsync through a second descriptor, which is kept (NFSv4)
 *   watch FOLDER            print inotify events of a folder, "EVENT NAME" a line, until killed
 *   watch-file FILE         the same for one file
 *   watch-times FOLDER      the same as watch, with the seconds since 1970 at the end of each line
 *   poll FILE MS            wait for POLLPRI on a file: exit status 0 if it comes
 *   empty FILE              truncate(2), by name and without opening it
 *   excl FILE               open(O_CREAT|O_EXCL), print the errno's name
 *   handle FILE             print the file's handle, as an NFS server would give it out
 *   by-handle MOUNT HANDLE  print the bytes of the file with that handle, or the errno's name
 *   power-off FOLDER        what is not on the disk of that ext4 or XFS is lost, at once
 *   churn KIND FOLDER COUNT  so many changes of a name of 240 bytes in a folder, one kind of: xattr (60 KB), times, mode, rename,
 *                           folder (mkdir and rmdir); or of as many names: create, mkdir, symlink; or remove those again.
 *                           Prints how many were done, and the errno's name of the one that failed
 *   race-config FILE SECONDS  one descriptor: a thread reads while another writes beyond the end; exit status 1 if a byte
 *                           was read that was never written
 *   dots FOLDER             print the inode numbers that a listing gives of "." and ".."
 *   seize PID MS            be the tracer of a process so long: when it dies its parent is not told before the end
 *   deaf-log SOCKET         be a log (a datagram socket) that reads nothing, until killed
 *   stat FOLDER SECONDS     stat the entries of a folder round and round; print count and the slowest times */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static int fail(const char *what)
{
	perror(what);
	return 1;
}

static uint32_t crc32_of(const uint8_t *data, size_t len)
{
	uint32_t crc = ~0u;
	for (size_t i = 0; i < len; i++) {
		crc ^= data[i];
		for (int k = 0; k < 8; k++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
	}
	return ~crc;
}

static void put_u32(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = v >> (24 - 8 * i);
}

static void put_chunk(FILE *out, const char *type, const uint8_t *data, size_t len)
{
	uint8_t *chunk = malloc(len + 12);
	put_u32(chunk, len);
	memcpy(chunk + 4, type, 4);
	if (len)
		memcpy(chunk + 8, data, len);
	put_u32(chunk + 8 + len, crc32_of(chunk + 4, len + 4));
	fwrite(chunk, 1, len + 12, out);
	free(chunk);
}

/* One grey pixel, and a comment that makes it unique and long. */
static int make_png(const char *path, const char *seed, size_t bytes)
{
	static const uint8_t head[13] = {0, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0};
	static const uint8_t pixel[] = {0x78, 0x9c, 0x63, 0x60, 0, 0, 0, 2, 0, 1};
	FILE *out = fopen(path, "w");
	uint8_t *text = malloc(bytes + 256);
	if (!out || !text)
		return fail(path);
	int n = sprintf((char *)text, "Comment%c%.200s ", 0, seed);
	uint64_t noise = strtoull(seed, NULL, 10) * 2654435761u + 1;
	size_t len = n;
	for (; len < bytes; len++) {
		noise = noise * 6364136223846793005u + 1442695040888963407u;
		text[len] = 'a' + (noise >> 60);
	}
	fwrite("\x89PNG\r\n\x1a\n", 1, 8, out);
	put_chunk(out, "IHDR", head, sizeof head);
	put_chunk(out, "tEXt", text, len);
	put_chunk(out, "IDAT", pixel, sizeof pixel);
	put_chunk(out, "IEND", NULL, 0);
	free(text);
	return fclose(out) == 0 ? 0 : fail(path);
}

static uint8_t *slurp(const char *path, size_t *len)
{
	struct stat st;
	int fd = open(path, O_RDONLY);
	if (fd < 0 || fstat(fd, &st) != 0)
		return NULL;
	uint8_t *data = malloc(st.st_size + 1);
	*len = read(fd, data, st.st_size);
	close(fd);
	return data;
}

static int write_mapped(const char *path, const char *source, int ms)
{
	size_t len;
	uint8_t *data = slurp(source, &len);
	int fd = open(path, O_RDWR | O_CREAT, 0644);
	if (!data || fd < 0 || ftruncate(fd, len) != 0)
		return fail(path);
	uint8_t *map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return fail("mmap");
	close(fd);
	memcpy(map, data, len);
	usleep(ms * 1000);
	munmap(map, len);
	free(data);
	return 0;
}

static int write_parts(const char *path, const char *source, int ms)
{
	size_t len;
	uint8_t *data = slurp(source, &len);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (!data || fd < 0 || write(fd, data, len / 2) < 0)
		return fail(path);
	usleep(ms * 1000);
	if (write(fd, data + len / 2, len - len / 2) < 0 || close(fd) != 0)
		return fail(path);
	free(data);
	return 0;
}

static int hold(const char *path, const char *source, bool sync, bool apart)
{
	size_t len;
	uint8_t *data = slurp(source, &len);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644), second = apart ? open(path, O_WRONLY) : fd;
	if (!data || fd < 0 || second < 0 || write(fd, data, len) < 0 || (sync && fsync(second) < 0))
		return fail(path);
	if (apart)
		close(fd);
	puts("written");
	fflush(stdout);
	for (;;)
		pause();
}

static int watch(const char *path, bool times)
{
	static const struct {
		uint32_t bit;
		const char *name;
	} names[] = {{IN_CREATE, "CREATE"}, {IN_CLOSE_WRITE, "CLOSE_WRITE"}, {IN_MOVED_TO, "MOVED_TO"},
		{IN_MOVED_FROM, "MOVED_FROM"}, {IN_DELETE, "DELETE"}, {IN_ATTRIB, "ATTRIB"}, {IN_MODIFY, "MODIFY"}};
	char buffer[65536] __attribute__((aligned(8)));
	uint32_t mask = 0;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		mask |= names[i].bit;
	int fd = inotify_init();
	if (fd < 0 || inotify_add_watch(fd, path, mask) < 0)
		return fail(path);
	puts("READY");
	for (;;) {
		fflush(stdout);
		ssize_t n = read(fd, buffer, sizeof buffer);
		if (n <= 0)
			return fail("inotify");
		struct timespec now;
		char when[32] = "";
		clock_gettime(CLOCK_REALTIME, &now);
		if (times)
			snprintf(when, sizeof when, " %ld.%09ld", (long)now.tv_sec, now.tv_nsec);
		for (char *p = buffer; p < buffer + n;) {
			const struct inotify_event *event = (const void *)p;
			for (size_t i = 0; i < sizeof names / sizeof *names; i++)
				if (event->mask & names[i].bit)
					printf("%s %s%s\n", names[i].name, event->len ? event->name : "", when);
			p += sizeof *event + event->len;
		}
	}
}

static int wait_for_pri(const char *path, int ms)
{
	char byte;
	struct pollfd fd = {.fd = open(path, O_RDONLY), .events = POLLPRI};
	if (fd.fd < 0 || read(fd.fd, &byte, 1) != 1)
		return fail(path);
	return poll(&fd, 1, ms) == 1 && fd.revents & POLLPRI ? 0 : 1;
}

static int print_handle(const char *path)
{
	struct file_handle *handle = calloc(1, sizeof *handle + MAX_HANDLE_SZ);
	int mount_id;
	handle->handle_bytes = MAX_HANDLE_SZ;
	if (name_to_handle_at(AT_FDCWD, path, handle, &mount_id, 0) != 0)
		return fail(path);
	printf("%d", handle->handle_type);
	for (unsigned i = 0; i < handle->handle_bytes; i++)
		printf(" %d", handle->f_handle[i]);
	putchar('\n');
	free(handle);
	return 0;
}

static int print_by_handle(const char *mount, const char *text)
{
	struct file_handle *handle = calloc(1, sizeof *handle + MAX_HANDLE_SZ);
	char buffer[65536], *end;
	handle->handle_type = strtol(text, &end, 10);
	while (*end && handle->handle_bytes < MAX_HANDLE_SZ)
		handle->f_handle[handle->handle_bytes++] = strtol(end, &end, 10);
	int mount_fd = open(mount, O_RDONLY | O_DIRECTORY);
	int fd = mount_fd < 0 ? -1 : open_by_handle_at(mount_fd, handle, O_RDONLY);
	free(handle);
	if (fd < 0) {
		puts(strerrorname_np(errno));
		return 1;
	}
	for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;)
		fwrite(buffer, 1, n, stdout);
	return 0;
}

/* EXT4_IOC_SHUTDOWN, the same as XFS_IOC_GOINGDOWN; 2: not even the log is written. */
static int power_off(const char *path)
{
	uint32_t flags = 2;
	int fd = open(path, O_RDONLY);
	return fd >= 0 && ioctl(fd, _IOR('X', 125, uint32_t), &flags) == 0 ? 0 : fail(path);
}

static double now_s(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static struct {
	int fd;
	atomic_bool stop;
	atomic_long odd;
} race;

static void *read_racing(void *user)
{
	char bytes[65536];
	while (!race.stop) {
		ssize_t n = pread(race.fd, bytes, sizeof bytes, 0);
		for (ssize_t i = 0; i < n; i++)
			race.odd += bytes[i] != '#' && bytes[i] != ' ';
	}
	return user;
}

/* The writer makes the text grow from nothing to its limit, again and again: its memory moves. */
static int race_config(const char *path, double seconds)
{
	char line[4096];
	memset(line, '#', sizeof line);
	for (double end = now_s() + seconds; now_s() < end;) {
		pthread_t readers[3];
		race.fd = open(path, O_RDWR | O_TRUNC);
		if (race.fd < 0)
			return fail(path);
		race.stop = false;
		for (int i = 0; i < 3; i++)
			if (pthread_create(&readers[i], NULL, read_racing, NULL) != 0)
				return fail("pthread_create");
		for (int i = 0; i < 15; i++)
			if (pwrite(race.fd, line, sizeof line, i * (off_t)sizeof line) < 0)
				return fail("pwrite");
		race.stop = true;
		for (int i = 0; i < 3; i++)
			pthread_join(readers[i], NULL);
		close(race.fd);
	}
	if (race.odd)
		fprintf(stderr, "%ld foreign bytes\n", (long)race.odd);
	return race.odd != 0;
}

static int print_dots(const char *path)
{
	DIR *dir = opendir(path);
	for (struct dirent *entry; dir && (entry = readdir(dir));)
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			printf("%s %lu\n", entry->d_name, (unsigned long)entry->d_ino);
	return dir ? closedir(dir) : fail(path);
}

static int seize(pid_t pid, int ms)
{
	if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) != 0)
		return fail("ptrace");
	puts("seized");
	fflush(stdout);
	usleep(ms * 1000);
	return 0;
}

static int be_deaf(const char *path)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	snprintf(name.sun_path, sizeof name.sun_path, "%s", path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof name) != 0)
		return fail(path);
	for (;;)
		pause();
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

static int measure_stat(const char *path, double seconds)
{
	enum { MAX = 1 << 22 };
	double *times = malloc(MAX * sizeof *times), end = now_s() + seconds;
	size_t n = 0;
	while (now_s() < end && n < MAX) {
		double start = now_s(); /* the first of a round takes the opening with it */
		DIR *dir = opendir(path);
		struct dirent *entry;
		struct stat st;
		if (!dir)
			return fail(path);
		while ((entry = readdir(dir)) && n < MAX && now_s() < end) {
			/* AT_STATX_FORCE_SYNC asks the daemon, whatever the kernel has kept. */
			struct statx sx;
			if (statx(dirfd(dir), entry->d_name, AT_SYMLINK_NOFOLLOW | AT_STATX_FORCE_SYNC,
				    STATX_BASIC_STATS, &sx) != 0 &&
				errno != ENOENT)
				return fail(entry->d_name);
			times[n++] = now_s() - start;
			start = now_s();
		}
		fstat(dirfd(dir), &st);
		closedir(dir);
		if (n < MAX)
			times[n++] = now_s() - start;
	}
	qsort(times, n, sizeof *times, compare);
	printf("%zu stats, median %.4f ms, p99 %.4f ms, max %.3f ms\n", n, 1e3 * times[n / 2],
		1e3 * times[n * 99 / 100], 1e3 * times[n - 1]);
	free(times);
	return 0;
}

/* The n-th change of a kind; 0 or -1 with errno. */
static int change_once(const char *kind, const char *folder, int n)
{
	static char value[60000];
	char pad[201], path[4096], other[4096];
	memset(pad, 'p', sizeof pad - 1);
	pad[sizeof pad - 1] = 0;
	snprintf(path, sizeof path, "%s/churned%s", folder, pad);
	snprintf(other, sizeof other, "%s/%d%s", folder, n, pad);
	if (strcmp(kind, "xattr") == 0) {
		memset(value, 'a' + n % 26, sizeof value);
		return setxattr(path, "user.x", value, sizeof value, 0);
	}
	if (strcmp(kind, "times") == 0)
		return utimensat(AT_FDCWD, path, (struct timespec[2]){{1000000 + n, 0}, {2000000 + n, 0}}, 0);
	if (strcmp(kind, "mode") == 0)
		return chmod(path, 0600 + n % 64);
	if (strcmp(kind, "rename") == 0)
		return rename(path, other) == 0 ? rename(other, path) : -1;
	if (strcmp(kind, "folder") == 0)
		return mkdir(other, 0755) == 0 ? rmdir(other) : -1;
	if (strcmp(kind, "mkdir") == 0)
		return mkdir(other, 0755);
	if (strcmp(kind, "symlink") == 0)
		return symlink("nowhere", other);
	if (strcmp(kind, "remove") == 0)
		return remove(other);
	int fd = open(other, O_WRONLY | O_CREAT | O_EXCL, 0644);
	return fd >= 0 ? close(fd) : -1;
}

static int churn(const char *kind, const char *folder, int count)
{
	int n = 0;
	while (n < count && change_once(kind, folder, n) == 0)
		n++;
	printf("%d%s%s\n", n, n < count ? " " : "", n < count ? strerrorname_np(errno) : "");
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "", *path = argc > 2 ? argv[2] : "", *third = argc > 3 ? argv[3] : "0";
	int ms = argc > 4 ? atoi(argv[4]) : 0;
	if (strcmp(what, "png") == 0)
		return make_png(path, third, argc > 4 ? strtoull(argv[4], NULL, 10) : 0);
	if (strcmp(what, "mmap") == 0)
		return write_mapped(path, third, ms);
	if (strcmp(what, "parts") == 0)
		return write_parts(path, third, ms);
	if (strcmp(what, "hold") == 0)
		return hold(path, third, false, false);
	if (strcmp(what, "commit") == 0 || strcmp(what, "commit-apart") == 0)
		return hold(path, third, true, strcmp(what, "commit-apart") == 0);
	if (strcmp(what, "watch") == 0 || strcmp(what, "watch-file") == 0 || strcmp(what, "watch-times") == 0)
		return watch(path, strcmp(what, "watch-times") == 0);
	if (strcmp(what, "poll") == 0)
		return wait_for_pri(path, atoi(third));
	if (strcmp(what, "handle") == 0)
		return print_handle(path);
	if (strcmp(what, "by-handle") == 0)
		return print_by_handle(path, third);
	if (strcmp(what, "power-off") == 0)
		return power_off(path);
	if (strcmp(what, "race-config") == 0)
		return race_config(path, atof(third));
	if (strcmp(what, "dots") == 0)
		return print_dots(path);
	if (strcmp(what, "seize") == 0)
		return seize(atoi(path), atoi(third));
	if (strcmp(what, "deaf-log") == 0)
		return be_deaf(path);
	if (strcmp(what, "stat") == 0)
		return measure_stat(path, atof(third));
	if (strcmp(what, "churn") == 0)
		return churn(path, third, ms);
	if (strcmp(what, "empty") == 0)
		return truncate(path, 0) == 0 ? 0 : fail(path);
	if (strcmp(what, "excl") == 0) {
		int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
		puts(fd >= 0 ? "OK" : strerrorname_np(errno));
		return 0;
	}
	fprintf(stderr, "mount_tool: unknown: %s\n", what);
	return 2;
}
