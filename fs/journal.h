/* journal.h - an append-only log of changes, each whole or absent, in one file of the state directory.
 *
 * A change is one byte block; what it means is record.h's business. It is framed with its length and a CRC, and written
 * with one write() before the caller replies: it then survives the death of the daemon. journal_sync makes it survive
 * power loss. On opening, the log is replayed up to the first torn or damaged change and cut there.
 *
 * Guarded by fs->lock, except where said. A reserve file is kept beside the log: changes that free space may use it up,
 * so that unlink works on a full disk. */
#ifndef JOURNAL_H
#define JOURNAL_H

#include "bytes.h"
#include "error.h"

enum { JOURNAL_CHANGE_MAX = 1 << 20, JOURNAL_RESERVE_BYTES = 1 << 20 };

struct journal {
	int dir_fd; /* borrowed: the state directory */
	int fd;
	int64_t len;	  /* bytes that are whole changes */
	int64_t base_len; /* len after the last compaction */
	bool reserve;	  /* the reserve file is there */
};

/* Called for each change on opening; false stops with an error (the block is damaged beyond what a CRC can see). */
typedef bool (*journal_apply_fn)(void *user, const uint8_t *change, size_t len);

bool journal_open(struct journal *j, int dir_fd, journal_apply_fn apply, void *user, struct error *err);
void journal_close(struct journal *j);

/* Append a change. 0 or an errno (ENOSPC ...), and then nothing was written. frees_space: may use the reserve up. */
int journal_append(struct journal *j, const struct bytes *change, bool frees_space);

/* Make the reserve again if it was used and there is space. */
void journal_restore_reserve(struct journal *j);

/* Compaction in three steps, so that the slow one needs no lock:
 *   locked:   journal_frame every live fact into `image`, remember j->len as `from`
 *   unlocked: journal_write_image (writes and syncs journal.new, returns its fd or -1)
 *   locked:   journal_replace (copies what was appended since `from`, syncs that, renames over the log; takes fd) */
bool journal_wants_compaction(const struct journal *j);
void journal_frame(struct bytes *image, const struct bytes *change);
int journal_write_image(int dir_fd, const struct bytes *image);
bool journal_replace(struct journal *j, int fd, int64_t image_len, int64_t from);

uint32_t journal_crc(const uint8_t *data, size_t len);

#endif
