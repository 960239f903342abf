/* journal_load.c - read the change log, also a damaged one. See journal.h.
 *
 * Frames are applied as they come as long as each is the next one. Where that ends, the rest is searched for whole frames:
 * none, and nothing there was ever synced: a torn end. Else it is damage: what is whole is sorted by its number and applied. */
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char MAGIC_1[8] = "trlsfs1\n";
enum { FRAME_1_LEN = 8, MAGIC_LEN = 8 };

struct frame {
	uint64_t seq; /* format 1 has none: the frames before it, counted */
	int64_t at;   /* of its head */
	uint32_t len; /* of its block */
	uint32_t before, crc;
};

struct source {
	const uint8_t *data; /* the whole file */
	int64_t size;
	uint64_t id; /* 0: format 1 */
	uint32_t head_len;
	journal_apply_fn apply;
	void *user;
	struct journal_report *report;
	struct error *err;
};

static uint32_t get_u32(const uint8_t *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t get_u64(const uint8_t *p)
{
	return get_u32(p) | (uint64_t)get_u32(p + 4) << 32;
}

/* A whole frame that begins at this byte. */
static bool read_frame(const struct source *s, int64_t at, struct frame *frame)
{
	const uint8_t *p = s->data + at;
	if (s->size - at < s->head_len)
		return false;
	if (s->id) {
		*frame = (struct frame){.seq = get_u64(p + 8),
			.at = at,
			.len = get_u32(p + 16),
			.before = get_u32(p + 20),
			.crc = get_u32(p + 24)};
		if (get_u64(p) != s->id)
			return false;
	} else {
		*frame = (struct frame){.at = at, .len = get_u32(p), .crc = get_u32(p + 4)};
	}
	if (frame->len == 0 || frame->len > JOURNAL_CHANGE_MAX || frame->len > s->size - at - s->head_len)
		return false;
#ifdef FUZZING /* no fuzzer finds a checksum */
	return true;
#endif
	uint32_t crc = s->id ? journal_crc(0, p, 24) : 0;
	return journal_crc(crc, p + s->head_len, frame->len) == frame->crc;
}

static bool apply_frame(const struct source *s, const struct frame *frame)
{
	switch (s->apply(s->user, s->data + frame->at + s->head_len, frame->len)) {
	case CHANGE_APPLIED:
		return true;
	case CHANGE_CONTRADICTS:
		s->report->contradictions++;
		return true;
	case CHANGE_UNKNOWN:
		return error_set(s->err,
			"state directory: journal: a newer version than trellisfs %s wrote the change at byte %lld",
			TRELLISFS_VERSION, (long long)frame->at);
	case CHANGE_NO_MEMORY:
		break;
	}
	return error_set(s->err, "state directory: journal: out of memory");
}

struct frames {
	struct frame *items;
	size_t n, cap;
};

static bool add_frame(struct frames *frames, const struct frame *frame)
{
	if (frames->n == frames->cap) {
		size_t cap = frames->cap ? 2 * frames->cap : 256;
		struct frame *items = realloc(frames->items, cap * sizeof *items);
		if (!items)
			return false;
		frames->items = items;
		frames->cap = cap;
	}
	frames->items[frames->n++] = *frame;
	return true;
}

/* The next byte at or after `at` where a frame might begin; the size: none. */
static int64_t next_place(const struct source *s, int64_t at)
{
	uint8_t id[8];
	if (s->id) {
		for (int i = 0; i < 8; i++)
			id[i] = (uint8_t)(s->id >> 8 * i);
		const uint8_t *found = at < s->size ? memmem(s->data + at, s->size - at, id, sizeof id) : NULL;
		return found ? found - s->data : s->size;
	}
	/* Format 1: a block begins with a record, whose type is 1 to 7 and which ends within the block. */
	for (; at + FRAME_1_LEN + 5 <= s->size; at++) {
		uint32_t len = get_u32(s->data + at), type = s->data[at + FRAME_1_LEN];
		if (len >= 5 && len <= JOURNAL_CHANGE_MAX && type >= 1 && type <= 7 &&
			get_u32(s->data + at + FRAME_1_LEN + 1) <= len - 5)
			return at;
	}
	return s->size;
}

/* All whole frames from this byte on, in the order of the file; their bytes in *found_bytes. */
static bool search(const struct source *s, int64_t at, uint64_t seq, struct frames *frames, int64_t *found_bytes)
{
	struct frame frame;
	*found_bytes = 0;
	while ((at = next_place(s, at)) < s->size) {
		if (!read_frame(s, at, &frame)) {
			at++;
			continue;
		}
		if (!s->id)
			frame.seq = ++seq;
		if (!add_frame(frames, &frame))
			return error_set(s->err, "state directory: journal: out of memory");
		*found_bytes += s->head_len + frame.len;
		at += s->head_len + frame.len;
	}
	return true;
}

static int by_seq(const void *a, const void *b)
{
	const struct frame *x = a, *y = b;
	return x->seq != y->seq ? (x->seq < y->seq ? -1 : 1) : x->at < y->at ? -1 : x->at > y->at;
}

/* Apply what was found behind the last frame that was in order, and count what is missing between. */
static bool apply_sorted(const struct source *s, struct frames *frames, struct journal_log *log)
{
	uint64_t highest = 0;
	for (size_t i = 0; i < frames->n; i++) {
		s->report->reordered += frames->items[i].seq < highest;
		highest = frames->items[i].seq > highest ? frames->items[i].seq : highest;
	}
	if (frames->n)
		qsort(frames->items, frames->n, sizeof *frames->items, by_seq);
	for (size_t i = 0; i < frames->n; i++) {
		const struct frame *frame = &frames->items[i];
		if (frame->seq <= log->seq) { /* twice */
			s->report->damaged_bytes += s->head_len + frame->len;
			continue;
		}
		s->report->lost_changes += frame->seq - log->seq - 1;
		log->seq = frame->seq;
		if (!apply_frame(s, frame))
			return false;
	}
	return true;
}

/* durable, durable_seq: up to where the log is known to have been synced. */
static bool replay(const struct source *s, struct journal_log *log, int64_t durable, uint64_t durable_seq)
{
	struct frames frames = {0};
	struct frame frame;
	int64_t at = log->len, found_bytes;
	bool chained = !s->report->gone;
	while (read_frame(s, at, &frame) &&
		(!s->id || (frame.seq == log->seq + 1 && (!chained || frame.before == log->chain)))) {
		if (!apply_frame(s, &frame))
			return false;
		log->seq++;
		log->chain = frame.crc;
		chained = true;
		at += s->head_len + frame.len;
	}
	log->len = at;
	if (at == s->size && at >= durable)
		return true;
	if (!search(s, at, log->seq, &frames, &found_bytes))
		return false;
	if (frames.n == 0 && at >= durable) {
		s->report->torn = true;
		s->report->cut_bytes = s->size - at;
		return true;
	}
	s->report->damaged = true;
	s->report->damaged_bytes += s->size - at - found_bytes + (durable > s->size ? durable - s->size : 0);
	if (!s->id)
		s->report->lost_changes++;
	bool ok = apply_sorted(s, &frames, log);
	if (log->seq < durable_seq)
		s->report->lost_changes += durable_seq - log->seq;
	free(frames.items);
	return ok;
}

/* The newer of the slots that are whole. */
static bool read_mark(struct journal *j, int dir_fd, struct journal_mark *mark, uint64_t *id_limit)
{
	bool found = false;
	j->mark_fd = openat(dir_fd, "journal.synced", O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	for (int i = 0; j->mark_fd >= 0 && i < 2; i++) {
		uint8_t text[JOURNAL_MARK_LEN];
		if (pread(j->mark_fd, text, sizeof text, i * JOURNAL_MARK_APART) != sizeof text ||
			memcmp(text, JOURNAL_MARK_MAGIC, sizeof JOURNAL_MARK_MAGIC) != 0 ||
			journal_crc(0, text, 48) != get_u32(text + 48))
			continue;
		uint64_t limit = get_u64(text + 40);
		*id_limit = limit > *id_limit ? limit : *id_limit;
		if (found && get_u64(text + 8) < j->mark_count)
			continue;
		found = true;
		j->mark_count = get_u64(text + 8);
		*mark = (struct journal_mark){
			.id = get_u64(text + 16), .len = get_u64(text + 24), .seq = get_u64(text + 32)};
	}
	return found;
}

/* The id of a log whose head is damaged: the mark has it, and so has the first frame. */
static uint64_t find_id(struct source *s, const struct journal_mark *mark)
{
	struct frame frame;
	if (s->size >= JOURNAL_HEAD_LEN + JOURNAL_FRAME_LEN) {
		s->id = get_u64(s->data + JOURNAL_HEAD_LEN);
		if (s->id && read_frame(s, JOURNAL_HEAD_LEN, &frame))
			return s->id;
	}
	return mark->id;
}

static bool load_2(struct source *s, struct journal_log *log, const struct journal_mark *mark)
{
	int64_t durable = 0;
	uint64_t durable_seq = 0;
	s->head_len = JOURNAL_FRAME_LEN;
	bool whole = s->size >= JOURNAL_HEAD_LEN && memcmp(s->data, JOURNAL_MAGIC, MAGIC_LEN) == 0 &&
		     journal_crc(0, s->data, 24) == get_u32(s->data + 24) && get_u64(s->data + 8) != 0;
	if (whole) {
		s->id = get_u64(s->data + 8);
		log->chain = get_u32(s->data + 24);
		durable = get_u64(s->data + 16);
	} else {
		s->report->damaged = s->report->gone = true;
		s->report->damaged_bytes += s->size < JOURNAL_HEAD_LEN ? s->size : JOURNAL_HEAD_LEN;
		s->id = find_id(s, mark);
	}
	if (mark->id == s->id) {
		durable = mark->len > durable ? mark->len : durable;
		durable_seq = mark->seq;
	}
	log->id = s->id;
	log->len = s->size < JOURNAL_HEAD_LEN ? s->size : JOURNAL_HEAD_LEN;
	return s->id == 0 || replay(s, log, durable, durable_seq);
}

static bool load_1(const struct source *s, struct journal_log *log)
{
	log->len = MAGIC_LEN;
	return replay(s, log, 0, 0);
}

/* "trlsfs" and a number above ours, and not a damaged 2: the mark does not know the id that ours has there. */
static bool is_newer(const struct source *s, const struct journal_mark *mark)
{
	return s->size >= 16 && memcmp(s->data, JOURNAL_MAGIC, 6) == 0 && s->data[6] >= '3' && s->data[6] <= '9' &&
	       s->data[7] == '\n' && mark->id != get_u64(s->data + 8);
}

static bool load_bytes(struct source *s, struct journal_log *log, const struct journal_mark *mark, bool marked)
{
	struct frame first;
	s->head_len = FRAME_1_LEN;
	bool is_1 = s->size >= MAGIC_LEN && memcmp(s->data, MAGIC_1, MAGIC_LEN) == 0 &&
		    (!marked || read_frame(s, MAGIC_LEN, &first));
	if (is_newer(s, mark))
		return error_set(s->err, "state directory: the journal is of format %c, newer than trellisfs %s knows",
			s->data[6], TRELLISFS_VERSION);
	s->report->format = is_1 ? 1 : 2;
	s->report->unmarked = !is_1 && !marked;
	return s->report->format == 1 ? load_1(s, log) : load_2(s, log, mark);
}

bool journal_load(struct journal *j, int dir_fd, journal_apply_fn apply, void *user, struct journal_report *report,
	struct error *err)
{
	struct stat st;
	struct journal_mark mark = {0};
	*report = (struct journal_report){0};
	*j = (struct journal){.dir_fd = dir_fd, .log.fd = -1, .copy.fd = -1, .mark_fd = -1};
	bool marked = read_mark(j, dir_fd, &mark, &report->id_limit);
	j->log.fd = openat(dir_fd, "journal", O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (j->log.fd < 0 && errno == ENOENT) {
		report->damaged = report->gone = marked;
		report->damaged_bytes = mark.len;
		report->lost_changes = mark.seq;
		return true;
	}
	if (j->log.fd < 0 || fstat(j->log.fd, &st) != 0)
		return error_set(err, "state directory: journal: %s", strerror(errno));
	if (st.st_size < MAGIC_LEN && !marked) { /* power was lost right after it was made */
		close(j->log.fd);
		j->log.fd = -1;
		return true;
	}
	struct source source = {.size = st.st_size, .apply = apply, .user = user, .report = report, .err = err};
	void *map = st.st_size ? mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, j->log.fd, 0) : NULL;
	if (map == MAP_FAILED)
		return error_set(err, "state directory: journal: %s", strerror(errno));
	source.data = map;
	bool ok = load_bytes(&source, &j->log, &mark, marked);
	if (map)
		munmap(map, st.st_size);
	report->damaged |= report->contradictions > 0;
	return ok;
}
