/* journal.c - the change log. See journal.h.
 * File: magic[8], then changes: u32 length, u32 CRC-32 (IEEE) of the block, block. */
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char MAGIC[8] = "trlsfs1\n";
enum { MAGIC_LEN = sizeof MAGIC, HEAD_LEN = 8, COMPACT_BYTES = 4 << 20 };

uint32_t journal_crc(const uint8_t *data, size_t len)
{
	static const uint32_t nibble[16] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
		0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4,
		0xa00ae278, 0xbdbdf21c};
	uint32_t crc = ~0u;
	for (size_t i = 0; i < len; i++) {
		crc = nibble[(crc ^ data[i]) & 15] ^ crc >> 4;
		crc = nibble[(crc ^ data[i] >> 4) & 15] ^ crc >> 4;
	}
	return ~crc;
}

static bool write_all(int fd, const void *data, size_t len)
{
	for (const char *p = data; len > 0;) {
		ssize_t n = write(fd, p, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		len -= n;
	}
	return true;
}

void journal_restore_reserve(struct journal *j)
{
	if (j->reserve)
		return;
	int fd = openat(j->dir_fd, "reserve", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return;
	j->reserve = posix_fallocate(fd, 0, JOURNAL_RESERVE_BYTES) == 0;
	if (!j->reserve)
		(void)!ftruncate(fd, 0);
	close(fd);
}

static void use_reserve(struct journal *j)
{
	unlinkat(j->dir_fd, "reserve", 0);
	j->reserve = false;
}

static uint32_t get_u32(const uint8_t *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Apply whole changes from the mapped log; *len becomes the length that is good. */
static bool replay(const uint8_t *log, int64_t *len, journal_apply_fn apply, void *user, struct error *err)
{
	int64_t at = MAGIC_LEN;
	while (*len - at >= HEAD_LEN) {
		uint32_t size = get_u32(log + at), crc = get_u32(log + at + 4);
		if (size == 0 || size > JOURNAL_CHANGE_MAX || size > *len - at - HEAD_LEN ||
			journal_crc(log + at + HEAD_LEN, size) != crc)
			break;
		if (!apply(user, log + at + HEAD_LEN, size))
			return error_set(err,
				"state directory: journal: change at byte %lld cannot be read by this version",
				(long long)at);
		at += HEAD_LEN + size;
	}
	*len = at;
	return true;
}

static bool load(struct journal *j, int64_t size, journal_apply_fn apply, void *user, struct error *err)
{
	uint8_t *log = mmap(NULL, size, PROT_READ, MAP_PRIVATE, j->fd, 0);
	if (log == MAP_FAILED)
		return error_set(err, "state directory: journal: %s", strerror(errno));
	bool ok = memcmp(log, MAGIC, MAGIC_LEN) == 0 ||
		  error_set(err, "state directory: journal does not begin as one of trellisfs %s", TRELLISFS_VERSION);
	j->len = size;
	ok = ok && replay(log, &j->len, apply, user, err);
	munmap(log, size);
	if (ok && j->len < size && ftruncate(j->fd, j->len) != 0)
		ok = error_set(err, "state directory: journal: cannot cut its torn end: %s", strerror(errno));
	return ok;
}

bool journal_open(struct journal *j, int dir_fd, journal_apply_fn apply, void *user, struct error *err)
{
	*j = (struct journal){.dir_fd = dir_fd};
	j->fd = openat(dir_fd, "journal", O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	struct stat st;
	if (j->fd < 0 || fstat(j->fd, &st) != 0)
		return error_set(err, "state directory: journal: %s", strerror(errno));
	if (st.st_size < MAGIC_LEN) { /* new, or power was lost right after it was made */
		if (ftruncate(j->fd, 0) != 0 || !write_all(j->fd, MAGIC, MAGIC_LEN))
			return error_set(err, "state directory: journal: %s", strerror(errno));
		j->len = MAGIC_LEN;
	} else if (!load(j, st.st_size, apply, user, err)) {
		return false;
	}
	unlinkat(dir_fd, "journal.new", 0);
	j->base_len = j->len;
	journal_restore_reserve(j);
	return true;
}

void journal_close(struct journal *j)
{
	if (j->fd >= 0)
		close(j->fd);
	j->fd = -1;
}

/* One framed write at the end; on failure the file is as before. */
static int append(struct journal *j, const uint8_t *frame, size_t len)
{
	if (write_all(j->fd, frame, len)) {
		j->len += len;
		return 0;
	}
	int error = errno ? errno : EIO;
	if (ftruncate(j->fd, j->len) != 0)
		error = EIO;
	return error;
}

void journal_frame(struct bytes *image, const struct bytes *change)
{
	bytes_put_u32(image, change->len);
	bytes_put_u32(image, journal_crc(change->data, change->len));
	bytes_put(image, change->data, change->len);
	image->failed |= change->failed || change->len > JOURNAL_CHANGE_MAX;
}

int journal_append(struct journal *j, const struct bytes *change, bool frees_space)
{
	if (change->len == 0 && !change->failed)
		return 0;
	struct bytes frame = {0};
	journal_frame(&frame, change);
	int error = frame.failed ? ENOMEM : append(j, frame.data, frame.len);
	if ((error == ENOSPC || error == EDQUOT) && frees_space && j->reserve) {
		use_reserve(j);
		error = append(j, frame.data, frame.len);
	}
	bytes_finish(&frame);
	return error;
}

bool journal_wants_compaction(const struct journal *j)
{
	return j->len > COMPACT_BYTES && j->len > 4 * j->base_len;
}

int journal_write_image(int dir_fd, const struct bytes *image)
{
	int fd = openat(dir_fd, "journal.new", O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -1;
	if (!image->failed && write_all(fd, MAGIC, MAGIC_LEN) && write_all(fd, image->data, image->len) &&
		fdatasync(fd) == 0)
		return fd;
	close(fd);
	unlinkat(dir_fd, "journal.new", 0);
	return -1;
}

bool journal_replace(struct journal *j, int fd, int64_t image_len, int64_t from)
{
	char buffer[65536];
	bool ok = true;
	for (int64_t at = from; ok && at < j->len;) {
		size_t want = j->len - at < (int64_t)sizeof buffer ? (size_t)(j->len - at) : sizeof buffer;
		ssize_t n = pread(j->fd, buffer, want, at);
		ok = n > 0 && write_all(fd, buffer, n);
		at += n;
	}
	ok = ok && fdatasync(fd) == 0 && renameat(j->dir_fd, "journal.new", j->dir_fd, "journal") == 0;
	if (!ok) {
		close(fd);
		unlinkat(j->dir_fd, "journal.new", 0);
		return false;
	}
	(void)fsync(j->dir_fd);
	close(j->fd);
	j->len = MAGIC_LEN + image_len + (j->len - from);
	j->base_len = j->len;
	j->fd = fd;
	return true;
}
