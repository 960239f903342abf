/* journal.h - an append-only log of changes, each whole or absent, in the file "journal" of the state directory.
 *
 * A change is one byte block; what it means is record.h's business. It is framed and written with one write() before the
 * caller replies: it then survives the death of the daemon. After an fdatasync of the log, which is sync.c's, it survives
 * power loss.
 *
 *   journal         head:  "trlsfs2\n", u64 id, u64 base_len, u32 checksum of these, u32 0
 *                   frame: u64 id, u64 seq, u32 len, u32 checksum of the frame before (of the head), u32 checksum, block[len]
 *   journal.synced  two slots, 4096 bytes apart, written in turns: the durable mark, up to where the log was synced
 *   reserve         space that changes which free space may use up, so that unlink works on a full disk
 *
 * id is random and new with each rewriting: nothing that a user can write looks like a frame, and what an older log left on
 * the disk does not either. base_len is how long the log was when it was put in its place, all of it synced. With seq, the
 * chain of checksums and the mark, four things are told apart on opening: an end that was torn (bytes that no sync had
 * confirmed, nothing whole behind them: cut), frames out of order (sorted), damage (skipped; what follows is still applied),
 * and a log that is shorter than it was. Numbers are little-endian, checksums CRC-32.
 *
 * Opening has two steps, so that a look changes nothing: journal_load (journal_load.c) reads, journal_begin makes the log
 * fit for writing, if need be by writing it anew from what is in memory. The log of format 1 ("trlsfs1\n", frames of length
 * and checksum only) is read and then written anew. */
#ifndef JOURNAL_H
#define JOURNAL_H

#include "bytes.h"
#include "error.h"

enum { JOURNAL_CHANGE_MAX = 1 << 20, JOURNAL_RESERVE_BYTES = 1 << 20 };
enum { JOURNAL_HEAD_LEN = 32, JOURNAL_FRAME_LEN = 28 };

/* One log file, and where its next frame goes. */
struct journal_log {
	int fd;		/* -1: none */
	int64_t len;	/* bytes that are whole frames; what lies behind them is overwritten */
	uint64_t id;	/* 0: format 1, which is not written any more */
	uint64_t seq;	/* of the last frame */
	uint32_t chain; /* its checksum */
};

struct journal {
	int dir_fd;		 /* borrowed: the state directory */
	struct journal_log log;	 /* fs->lock; its fd is replaced by the sync thread only */
	struct journal_log copy; /* fs->lock: what will replace it; every change goes to both */
	int broken; /* fs->lock: errno of a sync that failed: no change is taken until the log has been written anew */
	bool reserve;	  /* fs->lock: the reserve file is there */
	int64_t base_len; /* fs->lock: of the log after it was last written anew; 0: not since the start */
	int mark_fd;	  /* the sync thread's, as the next */
	uint64_t mark_count;
};

/* What a change came to when it was applied. */
enum change_fate {
	CHANGE_APPLIED,
	CHANGE_CONTRADICTS, /* it, or a part of it, does not fit what was before; the rest of it is applied */
	CHANGE_UNKNOWN,	    /* a newer version wrote it */
	CHANGE_NO_MEMORY,
};
typedef enum change_fate (*journal_apply_fn)(void *user, const uint8_t *change, size_t len);

/* What was found on opening. */
struct journal_report {
	int format;		 /* 0: there is no log */
	bool torn;		 /* the end was cut */
	bool damaged;		 /* anything that no crash explains: all below but unmarked, cut_bytes and id_limit */
	bool gone;		 /* the log is missing, or its head is */
	bool unmarked;		 /* there is no mark, so an end that is missing would not be noticed */
	int64_t cut_bytes;	 /* of the torn end */
	int64_t damaged_bytes;	 /* of no whole frame, or missing at the end */
	uint64_t lost_changes;	 /* whose frames are gone (format 1: 1 when some are) */
	uint64_t reordered;	 /* frames that stood behind a later one */
	uint64_t contradictions; /* changes that did not fit, wholly */
	uint64_t id_limit;	 /* of the mark: node ids below this may have been given away */
};

/* Read and apply all that can be read; writes nothing. Where there is no log, report->format is 0 and j->log.fd -1. False: a log of
 * no known format, or no memory. */
bool journal_load(struct journal *j, int dir_fd, journal_apply_fn apply, void *user, struct journal_report *report,
	struct error *err);
/* After journal_load: whether journal_begin needs an image. */
bool journal_needs_image(const struct journal *j, const struct journal_report *report);
/* Make the log fit for writing. image: every live fact (journal_image_add), or NULL where none is needed. The old log is
 * kept beside, as "journal.damaged" or "journal.trlsfs1". */
bool journal_begin(
	struct journal *j, const struct journal_report *report, const struct bytes *image, struct error *err);
void journal_close(struct journal *j);

/* Append a change. 0 or an errno (ENOSPC ...), and then nothing was written. frees_space: may use the reserve up. */
int journal_append(struct journal *j, const struct bytes *change, bool frees_space);

/* Make the reserve again if it was used and there is space. Slow: without the lock, from the sync thread. */
bool journal_make_reserve(int dir_fd);

/* The durable mark. Slow, as above. */
struct journal_mark {
	uint64_t id, seq, id_limit;
	int64_t len;
};
void journal_write_mark(struct journal *j, const struct journal_mark *mark);

/* Writing anew in steps, of which only those marked L need the lock:
 *       journal_copy_open    makes journal.new
 *     L remember j->log as `from`, and the facts as they are: in an image, or in a process of its own (compact.c)
 *       journal_copy_fill    writes the facts to it and syncs it
 *     L journal_copy_tail    takes over what was appended meanwhile; j->copy = it: from now on changes go to both
 *       journal_copy_publish    syncs it and renames it over the log; journal_sync_dir
 *     L journal_copy_end     it is the log, of which base_len came from the image; the caller has kept the old one
 * journal_copy_tail, without the lock and repeated, makes the rest small. */
typedef bool (*journal_take_fn)(void *to, const struct bytes *change);
struct journal_facts {
	/* Gives every live fact to take, each time the same; ends, with false, where that gives false. */
	bool (*each)(const void *facts, journal_take_fn take, void *to);
	const void *facts;
};
enum { JOURNAL_BUFFER_BYTES = 3 << 20 }; /* with so much reserved journal_copy_fill needs no more memory */
bool journal_copy_open(int dir_fd, struct journal_log *copy);
bool journal_copy_fill(struct journal_log *copy, const struct journal_facts *facts, struct bytes *buffer);
/* Both, from an image: all facts one after another, as journal_image_add, a journal_take_fn, puts them. */
bool journal_image_add(void *image, const struct bytes *change);
bool journal_copy_begin(int dir_fd, const struct bytes *image, struct journal_log *copy);
bool journal_copy_tail(const struct journal_log *from, int64_t *at, int64_t until, struct journal_log *copy);
bool journal_copy_publish(int dir_fd, const struct journal_log *copy);
void journal_copy_end(struct journal *j, int64_t base_len);

/* For the two files that are the journal: */
uint32_t journal_crc(uint32_t before, const void *data, size_t len);
bool journal_sync_dir(int dir_fd);
extern const char JOURNAL_MAGIC[8], JOURNAL_MARK_MAGIC[8];
enum { JOURNAL_MARK_LEN = 56, JOURNAL_MARK_APART = 4096 };

#endif
