/* mount_exerciser.c - one file of the mount against a model of it in memory: random reads, writes, appends, truncates,
 * mapped writes, renames, reopens, syncs; every read and every size is compared.
 *   mount_exerciser FOLDER SEED OPERATIONS */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_BYTES = 300000 };

struct exercise {
	char paths[2][4096]; /* the file goes to and fro between them */
	int at, fd;
	uint64_t random;
	long step;
	size_t size;
	uint8_t model[MAX_BYTES], buffer[MAX_BYTES];
};

static uint32_t roll(struct exercise *e, uint32_t below)
{
	e->random = e->random * 6364136223846793005u + 1442695040888963407u;
	return (e->random >> 33) % below;
}

static bool wrong(const struct exercise *e, const char *what)
{
	fprintf(stderr, "operation %ld: %s (size %zu): %s\n", e->step, what, e->size, strerror(errno));
	return false;
}

static void set_size(struct exercise *e, size_t size)
{
	if (size > e->size)
		memset(e->model + e->size, 0, size - e->size);
	e->size = size;
}

static bool do_write(struct exercise *e, size_t at, size_t len)
{
	for (size_t i = 0; i < len; i++)
		e->buffer[i] = roll(e, 256);
	if (pwrite(e->fd, e->buffer, len, at) != (ssize_t)len)
		return wrong(e, "write");
	if (at + len > e->size)
		set_size(e, at + len);
	memcpy(e->model + at, e->buffer, len);
	return true;
}

static bool do_map(struct exercise *e, size_t at, size_t len)
{
	if (at >= e->size)
		return true;
	if (at + len > e->size)
		len = e->size - at;
	uint8_t *map = mmap(NULL, e->size, PROT_READ | PROT_WRITE, MAP_SHARED, e->fd, 0);
	if (map == MAP_FAILED)
		return wrong(e, "mmap");
	bool same = memcmp(map, e->model, e->size) == 0;
	for (size_t i = 0; i < len; i++)
		map[at + i] = e->model[at + i] = roll(e, 256);
	munmap(map, e->size);
	return same || wrong(e, "mapped bytes differ");
}

static bool do_read(struct exercise *e, size_t at, size_t len)
{
	size_t want = at >= e->size ? 0 : len < e->size - at ? len : e->size - at;
	ssize_t n = pread(e->fd, e->buffer, len, at);
	if (n != (ssize_t)want)
		return wrong(e, "read has another length");
	return memcmp(e->buffer, e->model + at, want) == 0 || wrong(e, "read bytes differ");
}

static bool do_reopen(struct exercise *e)
{
	close(e->fd);
	e->fd = open(e->paths[e->at], O_RDWR);
	return e->fd >= 0 || wrong(e, "open");
}

static bool do_rename(struct exercise *e)
{
	if (rename(e->paths[e->at], e->paths[!e->at]) != 0)
		return wrong(e, "rename");
	e->at = !e->at;
	return true;
}

static bool do_truncate(struct exercise *e, size_t size)
{
	if ((roll(e, 2) ? ftruncate(e->fd, size) : truncate(e->paths[e->at], size)) != 0)
		return wrong(e, "truncate");
	set_size(e, size);
	return true;
}

static bool check_size(struct exercise *e)
{
	struct stat st;
	if (stat(e->paths[e->at], &st) != 0)
		return wrong(e, "stat");
	return st.st_size == (off_t)e->size || wrong(e, "stat has another size");
}

static bool step(struct exercise *e)
{
	size_t at = roll(e, MAX_BYTES / 2), len = 1 + roll(e, roll(e, 8) ? 5000 : MAX_BYTES / 2 - 1);
	switch (roll(e, 16)) {
	case 0:
	case 1:
	case 2:
	case 3:
		return do_write(e, at, len);
	case 4:
		return e->size + len > MAX_BYTES || do_write(e, e->size, len);
	case 5:
		return do_truncate(e, at);
	case 6:
	case 7:
		return do_map(e, at, len);
	case 8:
		return do_reopen(e);
	case 9:
		return do_rename(e);
	case 10:
		return roll(e, 10) || fsync(e->fd) == 0 || wrong(e, "fsync");
	case 11:
		return check_size(e);
	default:
		return do_read(e, at, len);
	}
}

int main(int argc, char **argv)
{
	struct exercise *e = calloc(1, sizeof *e);
	if (argc != 4 || !e)
		return 2;
	e->random = strtoull(argv[2], NULL, 10) * 2 + 1;
	snprintf(e->paths[0], sizeof e->paths[0], "%s/exercise.bin", argv[1]);
	snprintf(e->paths[1], sizeof e->paths[1], "%s/other.bin", argv[1]);
	e->fd = open(e->paths[0], O_RDWR | O_CREAT | O_EXCL, 0600);
	if (e->fd < 0)
		return wrong(e, "create") + 1;
	long n = atol(argv[3]);
	bool ok = true;
	for (e->step = 1; ok && e->step <= n; e->step++)
		ok = step(e);
	ok = ok && do_reopen(e) && do_read(e, 0, MAX_BYTES);
	printf("seed %s: %ld operations, %s\n", argv[2], e->step - 1, ok ? "no difference" : "FAILED");
	unlink(e->paths[e->at]);
	close(e->fd);
	free(e);
	return ok ? 0 : 1;
}
