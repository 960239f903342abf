/* journal.c - write the change log. See journal.h; journal_load.c reads it. */
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

const char JOURNAL_MAGIC[8] = "trlsfs2\n", JOURNAL_MARK_MAGIC[8] = "trlsync2";

uint32_t journal_crc(uint32_t before, const void *data, size_t len)
{
	return crc32(before, data, len);
}

bool journal_sync_dir(int dir_fd)
{
	return fsync(dir_fd) == 0 || errno == EINVAL; /* some file systems have nothing to sync there */
}

static bool write_all(int fd, const void *data, size_t len, int64_t at)
{
	for (const char *p = data; len > 0;) {
		ssize_t n = pwrite(fd, p, len, at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		at += n;
		len -= n;
	}
	return true;
}

/* Put a frame of the change behind what `out` holds, as the one after `log`; log becomes what it is with it. */
static void put_frame(struct bytes *out, struct journal_log *log, const uint8_t *change, uint32_t len)
{
	size_t start = out->len;
	bytes_put_u64(out, log->id);
	bytes_put_u64(out, log->seq + 1);
	bytes_put_u32(out, len);
	bytes_put_u32(out, log->chain);
	if (out->failed)
		return;
	uint32_t crc = journal_crc(0, out->data + start, out->len - start);
	crc = journal_crc(crc, change, len);
	bytes_put_u32(out, crc);
	bytes_put(out, change, len);
	log->seq++;
	log->chain = crc;
	log->len += JOURNAL_FRAME_LEN + len;
}

/* 0 or an errno; then the log is as before. */
static int append(struct journal_log *log, const struct bytes *change)
{
	struct bytes frame = {0};
	struct journal_log after = *log;
	put_frame(&frame, &after, change->data, change->len);
	int error = frame.failed					  ? ENOMEM
		    : write_all(log->fd, frame.data, frame.len, log->len) ? 0
		    : errno						  ? errno
									  : EIO;
	if (!error)
		*log = after;
	bytes_finish(&frame);
	return error;
}

static int append_or_use_reserve(
	struct journal *j, struct journal_log *log, const struct bytes *change, bool frees_space)
{
	int error = append(log, change);
	if ((error == ENOSPC || error == EDQUOT) && frees_space && j->reserve) {
		unlinkat(j->dir_fd, "reserve", 0);
		j->reserve = false;
		error = append(log, change);
	}
	return error;
}

/* To the copy first: it may be the log already, by name. What only one of them has taken, neither has. */
int journal_append(struct journal *j, const struct bytes *change, bool frees_space)
{
	if (change->failed || change->len > JOURNAL_CHANGE_MAX)
		return ENOMEM;
	if (j->broken)
		return EIO;
	if (change->len == 0)
		return 0;
	struct journal_log before = j->copy;
	int error = j->copy.fd >= 0 ? append_or_use_reserve(j, &j->copy, change, frees_space) : 0;
	if (error)
		return error;
	error = append_or_use_reserve(j, &j->log, change, frees_space);
	if (error && j->copy.fd >= 0) {
		(void)!ftruncate(j->copy.fd, before.len);
		j->copy = before;
	}
	return error;
}

bool journal_make_reserve(int dir_fd)
{
	int fd = openat(dir_fd, "reserve", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return false;
	bool made = posix_fallocate(fd, 0, JOURNAL_RESERVE_BYTES) == 0;
	if (!made)
		(void)!ftruncate(fd, 0);
	close(fd);
	return made;
}

void journal_write_mark(struct journal *j, const struct journal_mark *mark)
{
	struct bytes text = {0};
	if (j->mark_fd < 0)
		return;
	bytes_put(&text, JOURNAL_MARK_MAGIC, sizeof JOURNAL_MARK_MAGIC);
	bytes_put_u64(&text, ++j->mark_count);
	bytes_put_u64(&text, mark->id);
	bytes_put_u64(&text, mark->len);
	bytes_put_u64(&text, mark->seq);
	bytes_put_u64(&text, mark->id_limit);
	bytes_put_u32(&text, text.failed ? 0 : journal_crc(0, text.data, text.len));
	bytes_put_u32(&text, 0);
	if (!text.failed) /* an old mark tells less, and nothing wrong */
		(void)!(write_all(j->mark_fd, text.data, text.len, (j->mark_count & 1) * JOURNAL_MARK_APART) &&
			fdatasync(j->mark_fd) == 0);
	bytes_finish(&text);
}

/* ---- Writing anew. ---- */

bool journal_image_add(void *to, const struct bytes *change)
{
	struct bytes *image = to;
	image->failed |= change->failed || change->len > JOURNAL_CHANGE_MAX;
	bytes_put_block(image, change->data, change->len);
	return !image->failed;
}

static uint64_t new_id(void)
{
	uint64_t id;
	if (getrandom(&id, sizeof id, 0) != sizeof id) {
		struct timespec now;
		clock_gettime(CLOCK_REALTIME, &now);
		id = (uint64_t)now.tv_sec * 0x9e3779b97f4a7c15u ^ (uint64_t)now.tv_nsec << 20 ^ (uint64_t)getpid();
	}
	return id ? id : 1;
}

/* base_len is part of the head, whose checksum the first frame carries: so it is set when the log begins, to what it
 * will be when nothing is appended meanwhile; what is, is synced too, and costs only the proof of it. */
static void put_head(struct bytes *out, struct journal_log *log, int64_t base_len)
{
	bytes_put(out, JOURNAL_MAGIC, sizeof JOURNAL_MAGIC);
	bytes_put_u64(out, log->id);
	bytes_put_u64(out, base_len);
	log->chain = out->failed ? 0 : journal_crc(0, out->data, out->len);
	bytes_put_u32(out, log->chain);
	bytes_put_u32(out, 0);
	log->len = JOURNAL_HEAD_LEN;
	log->seq = 0;
}

enum { FLUSH_BYTES = 1 << 20 };

/* Write what has gathered; the log's length has grown by it already. */
static bool flush(const struct journal_log *log, struct bytes *out)
{
	bool ok = !out->failed && write_all(log->fd, out->data, out->len, log->len - out->len);
	out->len = 0;
	return ok;
}

/* Where facts go: at first they are only measured, as the head tells how long the log is that they make. */
struct filling {
	struct journal_log *log;
	struct bytes *out;
	int64_t measured;
};

static bool measure(void *to, const struct bytes *change)
{
	struct filling *f = to;
	f->measured += change->len ? JOURNAL_FRAME_LEN + (int64_t)change->len : 0;
	return !change->failed && change->len <= JOURNAL_CHANGE_MAX;
}

static bool fill(void *to, const struct bytes *change)
{
	struct filling *f = to;
	if (change->len > 0)
		put_frame(f->out, f->log, change->data, change->len);
	return f->out->len < FLUSH_BYTES || flush(f->log, f->out);
}

bool journal_copy_open(int dir_fd, struct journal_log *copy)
{
	*copy = (struct journal_log){.id = new_id(),
		.fd = openat(dir_fd, "journal.new", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600)};
	return copy->fd >= 0;
}

bool journal_copy_fill(struct journal_log *copy, const struct journal_facts *facts, struct bytes *buffer)
{
	struct filling f = {.log = copy, .out = buffer, .measured = JOURNAL_HEAD_LEN};
	if (!facts->each(facts->facts, measure, &f)) {
		errno = ENOMEM;
		return false;
	}
	buffer->len = 0;
	put_head(buffer, copy, f.measured);
	return facts->each(facts->facts, fill, &f) && flush(copy, buffer) && fdatasync(copy->fd) == 0;
}

static bool each_of_image(const void *facts, journal_take_fn take, void *to)
{
	const struct bytes *image = facts;
	struct reader r = {.data = image->data, .len = image->len};
	bool ok = !image->failed;
	while (ok && r.at < r.len) {
		struct bytes change = {0};
		uint32_t len;
		change.data = (uint8_t *)reader_block(&r, &len);
		change.len = len;
		ok = take(to, &change);
	}
	return ok;
}

bool journal_copy_begin(int dir_fd, const struct bytes *image, struct journal_log *copy)
{
	struct bytes out = {0};
	if (!journal_copy_open(dir_fd, copy))
		return false;
	bool ok = journal_copy_fill(copy, &(struct journal_facts){each_of_image, image}, &out);
	bytes_finish(&out);
	if (!ok) {
		int error = errno;
		close(copy->fd);
		unlinkat(dir_fd, "journal.new", 0);
		copy->fd = -1;
		errno = error;
	}
	return ok;
}

bool journal_copy_tail(const struct journal_log *from, int64_t *at, int64_t until, struct journal_log *copy)
{
	struct bytes out = {0};
	uint8_t head[JOURNAL_FRAME_LEN], *change = malloc(JOURNAL_CHANGE_MAX);
	bool ok = change != NULL;
	while (ok && *at < until) {
		ok = pread(from->fd, head, sizeof head, *at) == sizeof head;
		struct reader r = {.data = head, .len = sizeof head, .at = 16};
		uint32_t len = reader_u32(&r);
		ok = ok && len <= JOURNAL_CHANGE_MAX &&
		     pread(from->fd, change, len, *at + JOURNAL_FRAME_LEN) == (ssize_t)len;
		if (!ok)
			break;
		put_frame(&out, copy, change, len);
		*at += JOURNAL_FRAME_LEN + len;
		if (out.len >= FLUSH_BYTES)
			ok = flush(copy, &out);
	}
	ok = ok && flush(copy, &out);
	bytes_finish(&out);
	free(change);
	return ok;
}

bool journal_copy_publish(int dir_fd, const struct journal_log *copy)
{
	return fdatasync(copy->fd) == 0 && renameat(dir_fd, "journal.new", dir_fd, "journal") == 0;
}

void journal_copy_end(struct journal *j, int64_t base_len)
{
	j->log = j->copy;
	j->copy.fd = -1;
	j->base_len = base_len;
	j->broken = 0;
}

/* ---- The start. ---- */

bool journal_needs_image(const struct journal *j, const struct journal_report *report)
{
	return j->log.id == 0 || report->damaged;
}

/* Keep the old log under another name, and put the new one in its place. */
static bool replace(struct journal *j, const struct journal_report *report, const struct bytes *image)
{
	const char *kept = report->damaged ? "journal.damaged" : "journal.trlsfs1";
	struct journal_log copy;
	if (!journal_copy_begin(j->dir_fd, image, &copy))
		return false;
	if (j->log.fd >= 0) {
		unlinkat(j->dir_fd, kept, 0);
		if (linkat(j->dir_fd, "journal", j->dir_fd, kept, 0) != 0 && /* no hard links there */
			renameat(j->dir_fd, "journal", j->dir_fd, kept) != 0)
			return false;
	}
	if (!journal_copy_publish(j->dir_fd, &copy) || !journal_sync_dir(j->dir_fd))
		return false;
	if (j->log.fd >= 0)
		close(j->log.fd);
	j->log = copy;
	j->base_len = copy.len;
	return true;
}

bool journal_begin(struct journal *j, const struct journal_report *report, const struct bytes *image, struct error *err)
{
	bool ok = image ? replace(j, report, image) : report->torn ? ftruncate(j->log.fd, j->log.len) == 0 : true;
	if (!ok)
		return error_set(err, "state directory: journal: cannot be written: %s", strerror(errno));
	unlinkat(j->dir_fd, "journal.new", 0);
	j->reserve = journal_make_reserve(j->dir_fd);
	if (j->mark_fd < 0)
		j->mark_fd = openat(j->dir_fd, "journal.synced", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	return true;
}

void journal_close(struct journal *j)
{
	int fds[] = {j->log.fd, j->copy.fd, j->mark_fd};
	for (int i = 0; i < 3; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	j->log.fd = j->copy.fd = j->mark_fd = -1;
}
