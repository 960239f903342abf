/* state_damage.c - damage a state directory that nobody uses, as a disk does it, and say in a line what was done:
 *   state_damage KIND STATE SEED
 *     flip               one to three bytes of the journal have other bits
 *     zero512 zero4096   a block of the journal reads as zeros
 *     cut                the journal ends at some byte
 *     cut-frame          the journal ends at the end of some frame
 *     swap               two neighbouring frames of the journal in each other's place
 *     double             a frame of the journal a second time, behind itself
 *     garbage            bytes behind the journal's end that nobody wrote
 *     partial            the beginning of a frame behind the journal's end
 *     no-journal no-synced   that file is gone
 *     synced             a byte of journal.synced has other bits, or it is cut, or its first half is zeros
 * Exit status 0, 1: it cannot be done, 2: a call that nobody knows. Of the journal it knows only that bytes 8 to 15 are its
 * id, which begins every frame, too. Used by tests/scripts/mount_damage.sh. */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ID_AT = 8, ID_LEN = 8, FRAMES_MAX = 1 << 20 };

struct file {
	char path[4096];
	uint8_t *data; /* one frame more than len has room */
	size_t len;
};

static uint64_t noise;

/* 0 to n - 1; n > 0. */
static size_t pick(size_t n)
{
	noise = noise * 6364136223846793005u + 1442695040888963407u;
	return (noise >> 33) % n;
}

static bool read_file(struct file *f, const char *state, const char *name)
{
	struct stat st;
	snprintf(f->path, sizeof f->path, "%s/%s", state, name);
	int fd = open(f->path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) != 0) {
		perror(f->path);
		return false;
	}
	f->len = (size_t)st.st_size;
	f->data = malloc(2 * f->len + 8192);
	bool ok = f->data && read(fd, f->data, f->len) == (ssize_t)f->len;
	close(fd);
	return ok;
}

static bool write_file(const struct file *f)
{
	int fd = open(f->path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, f->data, f->len) == (ssize_t)f->len;
	if (!ok)
		perror(f->path);
	if (fd >= 0)
		close(fd);
	return ok;
}

static void flip(struct file *f)
{
	for (size_t n = 1 + pick(3); n > 0; n--) {
		size_t at = pick(f->len);
		uint8_t bits = (uint8_t)(1 + pick(255));
		f->data[at] ^= bits;
		printf("byte %zu of %zu ^ %02x ", at, f->len, bits);
	}
}

/* A block that has other bytes than zeros; aligned, as disks have them. */
static bool zero(struct file *f, size_t block)
{
	for (int tries = 0; tries < 100; tries++) {
		size_t at = pick((f->len + block - 1) / block) * block, n = f->len - at < block ? f->len - at : block;
		for (size_t i = 0; i < n; i++)
			if (f->data[at + i]) {
				memset(f->data + at, 0, n);
				printf("zeros from %zu to %zu of %zu ", at, at + n, f->len);
				return true;
			}
	}
	return false;
}

/* Where the frames begin, and the end of the last; a number of frames. */
static size_t find_frames(const struct file *f, size_t *at)
{
	size_t n = 0;
	if (f->len < ID_AT + ID_LEN)
		return 0;
	for (size_t i = ID_AT + ID_LEN; i + ID_LEN <= f->len && n < FRAMES_MAX; i++)
		if (!memcmp(f->data + i, f->data + ID_AT, ID_LEN)) {
			at[n++] = i;
			i += ID_LEN - 1;
		}
	at[n] = f->len;
	return n;
}

static bool cut_at_frame(struct file *f, const size_t *at, size_t n)
{
	if (n < 2)
		return false;
	size_t frame = 1 + pick(n - 1);
	printf("cut before frame %zu of %zu, at byte %zu of %zu ", frame, n, at[frame], f->len);
	f->len = at[frame];
	return true;
}

static bool swap(struct file *f, const size_t *at, size_t n)
{
	if (n < 2)
		return false;
	size_t first = pick(n - 1), a = at[first], b = at[first + 1], end = at[first + 2];
	uint8_t *copy = malloc(b - a);
	if (!copy)
		return false;
	memcpy(copy, f->data + a, b - a);
	memmove(f->data + a, f->data + b, end - b);
	memcpy(f->data + a + (end - b), copy, b - a);
	free(copy);
	printf("frames %zu and %zu of %zu swapped, bytes %zu to %zu ", first, first + 1, n, a, end);
	return true;
}

static bool repeat(struct file *f, const size_t *at, size_t n)
{
	if (n < 1)
		return false;
	size_t frame = pick(n), a = at[frame], b = at[frame + 1];
	memmove(f->data + b + (b - a), f->data + b, f->len - b);
	memcpy(f->data + b, f->data + a, b - a);
	f->len += b - a;
	printf("frame %zu of %zu twice, bytes %zu to %zu ", frame, n, a, b);
	return true;
}

static bool with_frames(struct file *f, bool (*what)(struct file *f, const size_t *at, size_t n))
{
	size_t *at = malloc((FRAMES_MAX + 1) * sizeof *at);
	bool ok = at && what(f, at, find_frames(f, at));
	free(at);
	if (!ok)
		fputs("no frames are found\n", stderr);
	return ok;
}

static void cut(struct file *f)
{
	size_t len = pick(f->len);
	printf("cut at byte %zu of %zu ", len, f->len);
	f->len = len;
}

static void add_garbage(struct file *f)
{
	size_t n = 1 + pick(5000);
	for (size_t i = 0; i < n; i++)
		f->data[f->len++] = (uint8_t)pick(256);
	printf("%zu bytes of garbage behind byte %zu ", n, f->len - n);
}

/* The beginning of the last frame once more: its head is good, its end is missing. */
static bool add_partial(struct file *f, const size_t *at, size_t n)
{
	if (n < 1)
		return false;
	size_t from = at[n - 1], len = 1 + pick(at[n] - from - 1);
	memcpy(f->data + f->len, f->data + from, len);
	f->len += len;
	printf("%zu bytes of a frame behind byte %zu ", len, f->len - len);
	return true;
}

static void damage_synced(struct file *f)
{
	size_t how = f->len ? pick(4) : 0;
	if (how == 3) {
		memset(f->data, 0, f->len / 2);
		printf("journal.synced: zeros in its first half ");
	} else if (how == 2) {
		f->len = pick(f->len);
		printf("journal.synced cut at byte %zu ", f->len);
	} else if (f->len) {
		size_t at = pick(f->len);
		f->data[at] ^= (uint8_t)(1 + pick(255));
		printf("journal.synced: byte %zu of %zu ", at, f->len);
	}
}

static bool remove_file(const char *state, const char *name)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/%s", state, name);
	printf("%s removed ", name);
	return unlink(path) == 0 || (perror(path), false);
}

int main(int argc, char **argv)
{
	static const char *const kinds[] = {"flip", "zero512", "zero4096", "cut", "cut-frame", "swap", "double",
		"garbage", "partial", "no-journal", "no-synced", "synced"};
	enum {
		FLIP,
		ZERO512,
		ZERO4096,
		CUT,
		CUT_FRAME,
		SWAP,
		DOUBLE,
		GARBAGE,
		PARTIAL,
		NO_JOURNAL,
		NO_SYNCED,
		SYNCED,
		KINDS
	};
	struct file f = {.data = NULL};
	int kind = 0;
	while (argc == 4 && kind < KINDS && strcmp(argv[1], kinds[kind]) != 0)
		kind++;
	if (argc != 4 || kind == KINDS) {
		fputs("usage: state_damage KIND STATE SEED\n", stderr);
		return 2;
	}
	const char *state = argv[2];
	noise = strtoull(argv[3], NULL, 10) * 2654435761u + 1;
	pick(2);
	if (kind == NO_JOURNAL || kind == NO_SYNCED)
		return remove_file(state, kind == NO_JOURNAL ? "journal" : "journal.synced") ? 0 : 1;
	if (!read_file(&f, state, kind == SYNCED ? "journal.synced" : "journal"))
		return 1;
	bool ok = f.len > 0;
	if (ok && kind == FLIP)
		flip(&f);
	else if (kind == ZERO512 || kind == ZERO4096)
		ok = ok && zero(&f, kind == ZERO512 ? 512 : 4096);
	else if (ok && kind == CUT)
		cut(&f);
	else if (kind == CUT_FRAME || kind == SWAP || kind == DOUBLE || kind == PARTIAL)
		ok = with_frames(&f, kind == CUT_FRAME ? cut_at_frame
				     : kind == SWAP    ? swap
				     : kind == DOUBLE  ? repeat
						       : add_partial);
	else if (ok && kind == GARBAGE)
		add_garbage(&f);
	else if (kind == SYNCED)
		damage_synced(&f);
	ok = ok && write_file(&f);
	free(f.data);
	return ok ? 0 : 1;
}
